"""ACPI tables, SMBIOS tables and firmware settings of a machine, without starting the machine.

The same firmware runs on stock QEMU with the same devices, under TCG and with nothing behind the devices, until it
starts a kernel; then QEMU's fw_cfg holds what the firmware read, and is read over qtest. Results are cached by QEMU's
version, the shape of the argument list and the firmware's digest: the first run takes some seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault, WireError
from tdxstack.measure.blobs import LOADER, MEASURED_ITEMS, SMBIOS_TABLES, FirmwareBlobs
from tdxstack.system import files, paths, process
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.vm.probe_argv import probe_argv, shape
from tdxstack.vm.qtest import FwCfgReader
from tdxstack.wire.acpi import allocated_files
from tdxstack.wire.efi.varstore import VariableStore

CACHE_VERSION = 1
_BOOT_MENU_ITEM = 0x000E
_WANTED = ("etc/smbios/smbios-anchor", SMBIOS_TABLES, "etc/boot/kernel", *(name for name, _ in MEASURED_ITEMS))


def probe(argv: Sequence[str], firmware: bytes, *, timeout: float = 60.0, cache: bool = True) -> FirmwareBlobs:
    """The blobs of the machine that ``argv`` starts, from the cache or from a run of its firmware.

    Args:
        argv: the machine's argument list, the QEMU binary first.
        firmware: the firmware file's content.
        timeout: seconds the run may take.
        cache: use and fill the cache.

    Raises:
        PlatformMissing: the machine is not one whose firmware can be run here.
        SystemFault: QEMU or swtpm failed, or the firmware did not start a kernel in time.
    """
    key = cache_key(argv, firmware)
    path = paths.cache() / "firmware-blobs" / f"{key}.json"
    if cache and (known := _load(path)) is not None:
        return known
    if "-kernel" not in argv:
        raise PlatformMissing(
            "the firmware can only be probed with a kernel", hint="give the machine a kernel, or the blobs as files"
        )
    blobs = _run(argv, firmware, timeout)
    if cache:
        files.private_directory(path.parent)
        files.write_atomic(path, _dump(blobs))
    return blobs


def cache_key(argv: Sequence[str], firmware: bytes) -> str:
    """Digest of all that the blobs depend on."""
    version = process.run([argv[0], "--version"], timeout=20).text.splitlines()[0]
    facts = [CACHE_VERSION, version, shape(argv)[1:], hashlib.sha256(firmware).hexdigest()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _run(argv: Sequence[str], firmware: bytes, timeout: float) -> FirmwareBlobs:
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tdxstack-probe-")))
        (directory / "firmware.fd").write_bytes(without_variables(firmware))
        (directory / "kernel").write_bytes(marker_kernel())
        if "-tpmdev" in argv:
            stack.enter_context(_swtpm(directory, deadline))
        words = probe_argv(argv, firmware=directory / "firmware.fd", kernel=directory / "kernel", directory=directory)
        qemu = stack.enter_context(_started(words, directory / "qemu.log"))
        _wait_for_socket(directory / "qmp.sock", qemu, directory / "qemu.log", deadline)
        _wait_for_shutdown(directory / "qmp.sock", qemu, directory / "qemu.log", deadline)
        with FwCfgReader(directory / "qtest.sock") as reader:
            return _collect(reader)


def without_variables(firmware: bytes) -> bytes:
    """The firmware with an empty variable store, so that it takes the probe's unsigned kernel.

    No table depends on variables. A file without a store is returned as it is.
    """
    try:
        return VariableStore.from_bytes(firmware).written(firmware, ())
    except WireError:
        return firmware


def _collect(reader: FwCfgReader) -> FirmwareBlobs:
    known = reader.directory()
    if LOADER not in known:
        raise PlatformMissing("this machine has no ACPI tables in fw_cfg", hint="use a q35 machine with ACPI on")
    found = {LOADER: reader.item(*known[LOADER]), "BootMenu": reader.item(_BOOT_MENU_ITEM, 2)}
    for name in (*allocated_files(found[LOADER]), *_WANTED):
        if name in known and name not in found:
            # Only whether the kernel is there matters; its content is the marker's.
            found[name] = b"" if name == "etc/boot/kernel" else reader.item(*known[name])
    return FirmwareBlobs(tuple(found.items()), source="firmware run on QEMU")


@contextmanager
def _started(argv: Sequence[str], log: Path) -> Iterator[process.Child]:
    with log.open("wb") as stream:
        child = process.spawn(argv, stdout=stream, stderr=stream)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def _swtpm(directory: Path, deadline: float) -> Iterator[None]:
    state = directory / "tpm"
    state.mkdir()
    control = directory / "swtpm.sock"
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={control}"]
    with _started([*argv, "--flags", "startup-clear"], directory / "swtpm.log") as child:
        _wait_for_file(control, child, directory / "swtpm.log", deadline)
        yield


def _wait_for_file(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    while not path.exists():
        _check(child, log, deadline)
        time.sleep(0.02)


def _wait_for_socket(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    _wait_for_file(path, child, log, deadline)


def _wait_for_shutdown(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    """Speak just enough QMP to hear that the marker kernel has switched the machine off."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(0.5)
        control.connect(str(path))
        control.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n')
        heard = b""
        while b'"SHUTDOWN"' not in heard and b'"shutdown"' not in heard:
            _check(child, log, deadline)
            try:
                heard += control.recv(65536)
            except TimeoutError:
                continue


def _check(child: process.Child, log: Path, deadline: float) -> None:
    if child.poll() is not None:
        text = log.read_text(errors="replace").strip().splitlines()
        tail = "; ".join(text[-3:]) or f"status {child.returncode}"
        raise SystemFault(f"the firmware probe's {log.stem} ended: {tail}", hint="tdxctl host check")
    if time.monotonic() > deadline:
        raise SystemFault(
            "the firmware did not start a kernel in time",
            hint="is secure boot enrolled, or the machine busy? Give the blobs as files, or wait longer",
        )


def _dump(blobs: FirmwareBlobs) -> str:
    return json.dumps({name: base64.b64encode(content).decode() for name, content in blobs.files})


def _load(path: Path) -> FirmwareBlobs | None:
    try:
        known = json.loads(path.read_text())
        pairs = tuple((str(name), base64.b64decode(text, validate=True)) for name, text in known.items())
    except (OSError, ValueError, AttributeError):
        return None
    return FirmwareBlobs(pairs, source="firmware run on QEMU (cached)")


def forget() -> None:
    """Empty the cache."""
    folder = paths.cache() / "firmware-blobs"
    if os.path.isdir(folder):  # noqa: PTH112
        shutil.rmtree(folder)
