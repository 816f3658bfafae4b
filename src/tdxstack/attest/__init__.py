"""Attestation of a TD from one end to the other: evidence out of the guest, expectation, judgement.

Parsing, verification and appraisal have rooms of their own; this one puts them in order and says what came of each.
"""
