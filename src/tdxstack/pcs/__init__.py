"""Collateral: a client of Intel's Provisioning Certification Service and of any caching service, and its stores.

What signs and dates a quote's verdict (TCB info, enclave identities, CRLs, PCK certificates and their chains) comes
from here, byte for byte as it was signed. Judging it is `tdxstack.dcap`'s work; serving it to others is
`tdxstack.services.pccs`'s.
"""
