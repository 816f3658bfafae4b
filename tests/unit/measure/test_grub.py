from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe_image import grub, image
from tdxstack.errors import WireError
from tdxstack.measure.grub import GrubImage, GrubRun
from tdxstack.measure.grub_script import ScriptFault, commands, expand

FILES = {"/EFI/debian/grub.cfg": b"", "/vmlinuz": b"kernel", "/a.img": b"initr", "/b.img": b"second", "/x y": b"odd"}
VARIABLES = {"root": "hd0,gpt1", "empty": "", "two": "a b"}


def ran(script: str, reads: int = 1) -> GrubRun:
    files = FILES | {"/EFI/debian/grub.cfg": script.encode()}
    run = GrubRun("hd0,gpt1", "/EFI/debian", lambda device, path: files.get(path) if device == "hd0,gpt1" else None)
    run.run(reads)
    return run


def test_an_image_tells_of_itself() -> None:
    found = GrubImage.from_bytes(grub())
    assert found == GrubImage("/EFI/debian", False, ("grub.debian", "grub.peimage"))
    assert (found.config_reads, found.own_loader) == (2, True)
    other = GrubImage.from_bytes(grub("/boot", "grub.rh,2\n", b"search x"))
    assert other == GrubImage("/boot", True, ("grub.rh",))
    assert (other.config_reads, other.own_loader) == (None, False)
    assert GrubImage.from_bytes(image((".text", b"x"), ("mods", b"other"))) is None


def test_a_plain_configuration() -> None:
    run = ran("# ours\nset timeout=0\nlinux /vmlinuz root=/dev/vda2 rw\ninitrd /a.img /b.img; boot\necho never\n", 2)
    assert run.unknown is None
    assert [(event.pcr, event.name) for event in run.events] == [
        (9, "(hd0,gpt1)/EFI/debian/grub.cfg"),
        (9, "(hd0,gpt1)/EFI/debian/grub.cfg"),
        (8, "grub_cmd: set timeout=0"),
        (8, "grub_cmd: linux /vmlinuz root=/dev/vda2 rw"),
        (9, "/vmlinuz"),
        (8, "kernel_cmdline: /vmlinuz root=/dev/vda2 rw"),
        (8, "grub_cmd: initrd /a.img /b.img"),
        (9, "/a.img"),
        (9, "/b.img"),
        (8, "grub_cmd: boot"),
    ]
    assert run.events[3].measured == b"linux /vmlinuz root=/dev/vda2 rw"
    assert run.cmdline == "BOOT_IMAGE=/vmlinuz root=/dev/vda2 rw"
    assert (run.kernel, run.initrd) == (b"kernel", b"initr\0\0\0second")


def test_words_of_the_command_line_keep_their_blanks() -> None:
    run = ran("""linux ($root)/vmlinuz 'a b' "say \\"x\\"" c\nboot""")
    assert run.events[-2].measured == b'(hd0,gpt1)/vmlinuz "a b" "say \\"x\\"" c'
    assert run.events[1].measured == b'linux (hd0,gpt1)/vmlinuz a b say "x" c'


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("a'b c'd", ["ab cd"]),
        ('"$root" ${root}x', ["hd0,gpt1", "hd0,gpt1x"]),
        ("x$two", ["xa", "b"]),
        ('"$two"', ["a b"]),
        ("$empty $none a", ["a"]),
        ('"$empty" a', ["", "a"]),
        ("a\\ b \\$root", ["a b", "$root"]),
        ('"\\$root \\x"', ["$root \\x"]),
        ("'$root'", ["$root"]),
        ("a\\\nb c", ["ab", "c"]),
        ("a#b # comment", ["a#b"]),
        ("a $", ["a", "$"]),
    ],
)
def test_words(script: str, words: list[str]) -> None:
    (found,) = commands(script)
    assert expand(found, VARIABLES) == words


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("if true; then boot; fi", "if in grub.cfg"),
        ("menuentry 'x' { boot }", "menuentry in grub.cfg"),
        ("insmod part_gpt\nboot", "command insmod"),
        ("linux /none\nboot", "/none cannot be read"),
        ("linux (hd1)/vmlinuz\nboot", "(hd1)/vmlinuz cannot be read"),
        ("linux\nboot", "without a kernel"),
        ("boot", "without a kernel"),
        ("linux /vmlinuz\ninitrd newc:x:/a.img\nboot", "newc"),
        ("linux /vmlinuz\n", "ends without starting"),
        ("echo 'open", "not closed"),
        ('echo "open', "not closed"),
        ("echo $? x", "variable ?"),
        ("echo *.img", "wildcard"),
        ("true && boot", "& in grub.cfg"),
    ],
)
def test_what_is_not_followed_is_said(script: str, reason: str) -> None:
    run = ran(script)
    assert run.unknown is not None
    assert reason in run.unknown


def test_without_a_configuration() -> None:
    run = GrubRun("hd0,gpt1", "/EFI/debian", lambda *_: None)
    run.run(2)
    assert run.unknown == "there is no (hd0,gpt1)/EFI/debian/grub.cfg"
    assert run.events == []


@given(st.text(alphabet="ab$\\'\"{}; \n#=&?*(), \t", max_size=60))
def test_any_text_ends_in_events_or_a_reason(script: str) -> None:
    run = ran(script)
    assert run.unknown is not None
    with contextlib.suppress(ScriptFault):
        list(commands(script))


@given(st.binary(max_size=120), st.integers(0, 400))
def test_damaged_images_give_wire_errors(noise: bytes, where: int) -> None:
    whole = bytearray(grub())
    start = 0x400 + where * 8
    whole[start : start + len(noise)] = noise
    with contextlib.suppress(WireError):
        GrubImage.from_bytes(bytes(whole))
