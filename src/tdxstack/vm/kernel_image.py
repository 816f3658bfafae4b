"""The kernel proper of a TD's kernel file, unpacked, with the symbols that it carries for itself.

Distributions strip their kernels, and the file with debug information has a gigabyte. The addresses of all functions
and variables are in the kernel itself (kallsyms), so that a debugger needs nothing else to break and to look.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path

from tdxstack.errors import SystemFault, UsageError, WireError
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file, write_atomic
from tdxstack.system.process import run
from tdxstack.vm.spec import TdSpec
from tdxstack.wire import kallsyms
from tdxstack.wire.bzimage import Compression, KernelPayload
from tdxstack.wire.elf import with_symbols
from tdxstack.wire.pe import PeImage

UNPACK_TIMEOUT = 120.0
LINUX_SECTION = ".linux"
KEPT = 4


def kernel_of(spec: TdSpec) -> Path:
    """The kernel file that a TD boots.

    Raises:
        UsageError: it is on the TD's disk.
    """
    if spec.kernel is None:
        raise UsageError(
            f"TD {spec.name} boots a kernel from its disk", hint="name the same kernel: --kernel FILE (vmlinuz)"
        )
    return spec.kernel


def unpack(data: bytes) -> tuple[bytes, int]:
    """The ELF file inside a kernel (bzImage, unified kernel image, or the ELF file itself), and its load address.

    Raises:
        WireError: not a kernel.
        ProgramMissing: what unpacks it is not installed.
    """
    if data.startswith(Compression.NONE.value):
        return data, 0
    payload = KernelPayload.from_bytes(_bzimage(data))
    return _decompress(payload), payload.pref_address


def symbol_file(kernel: Path) -> Path:
    """The unpacked kernel with a symbol table, made once and kept in the cache.

    Raises:
        SystemFault: not a kernel, or one without symbols.
    """
    folder = private_directory(paths.cache() / "kernels")
    with locked(folder / ".lock"):
        target = folder / f"{sha256_file(kernel)}.vmlinux"
        if not target.exists():
            try:
                image, _ = unpack(kernel.read_bytes())
                whole = with_symbols(image, kallsyms.symbols(image))
            except WireError as error:
                raise SystemFault(
                    f"{kernel}: no symbols: {error}", hint="give a vmlinux with debug information: --symbols FILE"
                ) from error
            write_atomic(target, whole)
            _forget_old(folder)
    return target


def _forget_old(folder: Path) -> None:
    files = sorted(folder.glob("*.vmlinux"), key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT]:
        path.unlink(missing_ok=True)


def _bzimage(data: bytes) -> bytes:
    """The kernel of a unified kernel image, or ``data`` itself: a bzImage is a PE file too."""
    try:
        section = PeImage.from_bytes(data).section(data, LINUX_SECTION)
    except WireError:
        return data
    return data if section is None else section


def _decompress(payload: KernelPayload) -> bytes:
    match payload.compression:
        case Compression.NONE:
            return payload.data
        case Compression.ZSTD | Compression.LZ4:
            program = payload.compression.name.lower()
            return run([program, "-dc", "-q"], stdin=payload.data, timeout=UNPACK_TIMEOUT).stdout
    unpackers = {Compression.GZIP: gzip.decompress, Compression.BZIP2: bz2.decompress}
    try:
        return unpackers.get(payload.compression, lzma.decompress)(payload.data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise WireError("kernel payload", payload.compression.name.lower(), 0, str(error)) from error
