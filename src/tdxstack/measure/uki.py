"""Unified kernel images: what systemd-stub measures of them, and the initrd that it makes.

Source: UAPI Group, Unified Kernel Image specification; systemd ``src/fundamental/uki.c`` (order of the sections),
``src/boot/stub.c`` and ``src/boot/cpio.c`` (generated archives), as of version 257.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.wire.pe import PeImage

#: Sections in the order in which they are measured into PCR 11; .pcrsig is not, as it signs the outcome.
MEASURED = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
    ".profile",
)
#: Sections that become files of the initrd, in the order of their archives: (section, file name).
_EXTRA = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)
#: Sections whose use the stub decides at boot.
_DECIDED_AT_BOOT = (".dtbauto", ".hwids", ".efifw")
_STUB_MARK = b"#### LoaderInfo: systemd-stub "
_FOLDER = ".extra"
_S_IFDIR, _S_IFREG = 0o040000, 0o100000


@dataclass(frozen=True, slots=True)
class Uki:
    """A unified kernel image: its sections by name (the first of each name)."""

    sections: tuple[tuple[str, bytes], ...]
    stub: bytes

    @classmethod
    def from_bytes(cls, image: bytes) -> Uki | None:
        """The image's sections, or None if it is no unified kernel image made with systemd-stub.

        Raises:
            WireError: no PE image.
        """
        headers = PeImage.from_bytes(image)
        names = list(dict.fromkeys(section.name for section in headers.sections))
        if ".linux" not in names or _STUB_MARK not in image:
            return None
        found = tuple((name, headers.section(image, name) or b"") for name in names)
        data = dict(found)
        return cls(found, data.get(".text", b"") + data.get(".rodata", b"") + data.get(".data", b""))

    def get(self, name: str) -> bytes | None:
        """A section's content, or None."""
        return dict(self.sections).get(name)

    @property
    def undecided(self) -> str | None:
        """The section that makes the outcome depend on the machine or on a choice at boot, if any."""
        names = [name for name, _ in self.sections]
        return next((name for name in (*_DECIDED_AT_BOOT, ".profile") if name in names), None)

    def measured(self) -> tuple[tuple[str, bytes], ...]:
        """What is extended into PCR 11: for each section its name with a NUL, then its content."""
        data = dict(self.sections)
        return tuple(
            (name, content)
            for name in MEASURED
            if name in data
            for content in (name.encode("ascii") + b"\0", data[name])
        )

    def cmdline(self) -> str | None:
        """The command line in the image.

        Raises:
            WireError: it is no text.
        """
        raw = self.get(".cmdline")
        if raw is None:
            return None
        try:
            return raw.rstrip(b"\0").decode("utf-8").rstrip()
        except UnicodeDecodeError:
            raise WireError("UKI", ".cmdline", 0, "not UTF-8") from None

    def initrd(self) -> bytes | None:
        """The initrd that the kernel gets: microcode, the image's own, generated archives; None without any."""
        parts = [part for part in (self.get(".ucode"), self.get(".initrd")) if part is not None]
        data = dict(self.sections)
        # A stub older than the feature does not know the file's name.
        parts += [
            _archive(file, data[name])
            for name, file in _EXTRA
            if name in data and file.encode("utf-16-le") in self.stub
        ]
        if len(parts) <= 1:
            return parts[0] if parts else None
        return b"".join(_padded(part) for part in parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _archive(name: str, content: bytes) -> bytes:
    """A cpio archive (newc) with ``.extra/NAME``, as the stub packs it."""
    folder = _entry(1, _S_IFDIR | 0o555, _FOLDER, b"")
    file = _entry(2, _S_IFREG | 0o444, f"{_FOLDER}/{name}", content)
    return folder + file + _entry(0, 0, "TRAILER!!!", b"", trailer=True)


def _entry(inode: int, mode: int, name: str, content: bytes, *, trailer: bool = False) -> bytes:
    raw = name.encode("ascii") + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    # The stub writes lower case, but its trailer is a constant in upper case.
    text = "".join(f"{value:08X}" if trailer else f"{value:08x}" for value in fields)
    return _padded(b"070701" + text.encode("ascii") + raw) + _padded(content)
