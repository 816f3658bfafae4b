from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdx_modules import MODULE, signer, sigstruct
from tdxstack.measure.seam import check_module, signature_holds
from tdxstack.platform.module_files import find_modules
from tdxstack.wire.seam import SeamSigstruct


def _verdicts(data: bytes, module: bytes = MODULE) -> dict[str, bool]:
    return {one.name: one.good for one in check_module(SeamSigstruct.from_bytes(data), module, signer())}


def test_a_good_module() -> None:
    assert _verdicts(sigstruct()) == dict.fromkeys(("digest", "signature", "signer", "production"), True)


def test_another_module() -> None:
    assert _verdicts(sigstruct(), MODULE[::-1]) == {
        "digest": False,
        "signature": True,
        "signer": True,
        "production": True,
    }


@pytest.mark.parametrize("at", [20, 60, 520, 700, 910, 948, 1024 + 4, 2047])
def test_a_changed_byte_breaks_the_signature(at: int) -> None:
    data = bytearray(sigstruct())
    data[at] ^= 1
    assert not signature_holds(SeamSigstruct.from_bytes(bytes(data)))


def test_a_weak_exponent_is_not_taken() -> None:
    data = bytearray(sigstruct())
    data[512:516] = (3).to_bytes(4, "little")
    assert not signature_holds(SeamSigstruct.from_bytes(bytes(data)))


def test_a_signer_who_is_not_trusted() -> None:
    checks = check_module(SeamSigstruct.from_bytes(sigstruct()), MODULE)
    assert {one.name for one in checks if not one.good} == {"signer"}


def test_a_debug_module() -> None:
    assert not _verdicts(sigstruct(debug=True))["production"]


def test_intels_modules_verify() -> None:
    """Real releases, where a directory of them is named."""
    directory = os.environ.get("TDXSTACK_TDX_MODULES")
    if not directory:
        pytest.skip("TDXSTACK_TDX_MODULES names no directory of Intel's module releases")
    for found in find_modules(Path(directory)):
        checks = check_module(found.blob.sigstruct, found.blob.module)
        assert all(one.good for one in checks), found.path
