"""Quote verification and appraisal: ``(quote, collateral, roots, now) -> verdict``. Pure.

::

    verifier = Verifier(collateral=Collateral.from_json(text), roots=["intel"])
    verification = verifier.verify(quote, now=1750330571)
    verification.authentic, verification.status, verification.qvl, verification.launch_status

The algorithm is that of Intel's Quote Verification Library 1.27, status for status.
"""

from typing import TYPE_CHECKING, Any

from tdxstack.dcap.collateral import Collateral
from tdxstack.dcap.status import QvlStatus, TcbStatus
from tdxstack.dcap.supplemental import Supplemental
from tdxstack.dcap.verification import Qvl, Step, Verification
from tdxstack.dcap.verifier import Verifier

if TYPE_CHECKING:
    from tdxstack.dcap.parallel import VerifierPool

__all__ = [
    "Collateral",
    "Qvl",
    "QvlStatus",
    "Step",
    "Supplemental",
    "TcbStatus",
    "Verification",
    "Verifier",
    "VerifierPool",
]


def __getattr__(name: str) -> Any:
    """``VerifierPool`` is imported on first use: multiprocessing takes longer to import than a quote to verify."""
    if name == "VerifierPool":
        from tdxstack.dcap.parallel import VerifierPool

        return VerifierPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
