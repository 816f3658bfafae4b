"""MRTD and RTMRs: computed, predicted, replayed and explained. Pure functions of their arguments."""

from tdxstack.measure.blobs import FirmwareBlobs
from tdxstack.measure.difference import Difference, diff
from tdxstack.measure.mrtd import MrtdOrder, mrtd
from tdxstack.measure.prediction import PredictedEvent, Prediction, PredictionInputs
from tdxstack.measure.predictor import predict
from tdxstack.measure.replay import Replay, replay

__all__ = [
    "Difference",
    "FirmwareBlobs",
    "MrtdOrder",
    "PredictedEvent",
    "Prediction",
    "PredictionInputs",
    "Replay",
    "diff",
    "mrtd",
    "predict",
    "replay",
]
