"""Unified kernel images: what the stub measures, and the initrd it makes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from pe_image import image
from recorded_boot import inputs
from tdxstack.errors import WireError
from tdxstack.measure import predict
from tdxstack.measure.uki import Uki
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.pe import authenticode

STUB = b"#### LoaderInfo: systemd-stub 257.13 ####\0" + "os-release".encode("utf-16-le")
OS_RELEASE = b'PRETTY_NAME="Test"\nID=test\n'


SECTIONS = (
    (".text", STUB),
    (".sbat", b"sbat"),
    (".osrel", OS_RELEASE),
    (".cmdline", b"quiet root=x"),
    (".uname", b"6.12"),
    (".linux", marker_kernel()),
    (".initrd", b"initrd!"),
)


def uki(*sections: tuple[str, bytes]) -> Uki:
    found = Uki.from_bytes(image(*sections))
    assert found is not None
    return found


def test_sections_in_measuring_order() -> None:
    names = [content for _, content in uki(*SECTIONS).measured()][::2]
    assert names == [b".linux\0", b".osrel\0", b".cmdline\0", b".initrd\0", b".uname\0", b".sbat\0"]


def test_pcrsig_is_not_measured_and_goes_into_the_initrd() -> None:
    stub = STUB + "tpm2-pcr-signature.json".encode("utf-16-le")
    one = uki((".text", stub), *SECTIONS[1:], (".pcrsig", b"{}"))
    assert ".pcrsig" not in [name for name, _ in one.measured()]
    initrd = one.initrd()
    assert initrd is not None
    assert b".extra/tpm2-pcr-signature.json\0" in initrd


def test_generated_archive_is_byte_exact() -> None:
    """The form that systemd-stub 257 was seen to make: the digest that a kernel logged depends on it."""
    initrd = uki(*SECTIONS).initrd()
    assert initrd is not None
    head = "070701{:08x}{:08x}" + "0" * 16 + "00000001" + "0" * 8 + "{:08x}" + "0" * 32 + "{:08x}" + "0" * 8
    expected = b"initrd!\0"
    expected += head.format(1, 0o040555, 0, 7).encode() + b".extra\0" + bytes(3)
    expected += head.format(2, 0o100444, len(OS_RELEASE), 18).encode() + b".extra/os-release\0"
    expected += OS_RELEASE + bytes(-len(OS_RELEASE) % 4)
    trailer = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0"
    expected += trailer + bytes(-len(trailer) % 4)
    assert initrd == expected


def test_an_older_stub_leaves_the_initrd_alone() -> None:
    old = uki((".text", STUB[:42]), *SECTIONS[1:])
    assert old.initrd() == b"initrd!"


def test_prediction_of_a_uki_boot() -> None:
    prediction = predict(inputs(kernel=image(*SECTIONS), initrd=None, cmdline=""))
    assert [event.name for event in prediction.of_register(2)] == [
        *(
            name
            for name in ("UKI .linux", "UKI .osrel", "UKI .cmdline", "UKI .initrd", "UKI .uname", "UKI .sbat")
            for _ in "12"
        ),
        "command line",
        "initrd",
    ]
    kernels = [event.digest for event in prediction.of_register(1) if "kernel" in event.name]
    assert kernels == [authenticode(image(*SECTIONS), "sha384")[0], authenticode(marker_kernel(), "sha384")[0]]
    (cmdline,) = [event for event in prediction.events if event.name == "command line"]
    assert cmdline.digest == hashlib.sha384("quiet root=x\0".encode("utf-16-le")).digest()
    assert prediction.reasons == (None,) * 4


@pytest.mark.parametrize("change", [{"cmdline": "single"}, {"initrd": b"other"}])
def test_what_the_stub_decides_is_unknown(change: dict[str, object]) -> None:
    base = inputs(kernel=image(*SECTIONS), initrd=None, cmdline="")
    prediction = predict(replace(base, **change))  # type: ignore[arg-type]
    assert prediction.rtmr[2] is None
    assert "of its own" in str(prediction.reasons[2])


def test_a_choice_of_profiles_is_unknown() -> None:
    prediction = predict(inputs(kernel=image(*SECTIONS, (".profile", b"ID=a")), initrd=None, cmdline=""))
    assert ".profile" in str(prediction.reasons[2])


def test_what_is_no_uki() -> None:
    assert Uki.from_bytes(marker_kernel()) is None
    with pytest.raises(WireError):
        uki(*SECTIONS[:3], (".cmdline", b"\xff\xfe"), *SECTIONS[4:]).cmdline()
