"""ACPI tables, SMBIOS tables, firmware settings and boot options of a machine, without starting the machine.

The same firmware runs on stock QEMU with the same devices, under TCG and with nothing behind the devices, until it
starts a kernel (or what stands in for the boot loader, where the machine boots from a disk); then QEMU's fw_cfg holds
what the firmware read, and is read over qtest, and the machine's memory holds the firmware's variables. Results are
cached by QEMU's version, the shape of the argument list and the firmware's digest: the first run takes some seconds.
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault, WireError
from tdxstack.measure.blobs import LOADER, MEASURED_ITEMS, SMBIOS_TABLES, FirmwareBlobs
from tdxstack.system import files, paths, process
from tdxstack.system.sockets import is_listening
from tdxstack.vm.marker_disk import marker_disk
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.vm.probe_argv import probe_argv, shape
from tdxstack.vm.probe_memory import boot_options, options_of
from tdxstack.vm.qtest import FwCfgReader
from tdxstack.wire.acpi import allocated_files
from tdxstack.wire.efi.varstore import VariableStore

CACHE_VERSION = 2
_KEYS = ("PK", "KEK", "db", "dbx", "dbt", "dbr", "SecureBootEnable", "CustomMode")
_BOOT_MENU_ITEM = 0x000E
_WANTED = ("etc/smbios/smbios-anchor", SMBIOS_TABLES, "etc/boot/kernel", *(name for name, _ in MEASURED_ITEMS))


def probe(
    argv: Sequence[str],
    firmware: bytes,
    *,
    variables: bytes | None = None,
    timeout: float = 60.0,
    cache: bool = True,
) -> FirmwareBlobs:
    """The blobs of the machine that ``argv`` starts, from the cache or from a run of its firmware.

    Args:
        argv: the machine's argument list, the QEMU binary first.
        firmware: the firmware file's content.
        variables: the file in which the firmware has kept its variables on the machine's disk, if there is one.
        timeout: seconds the run may take.
        cache: use and fill the cache.

    Raises:
        PlatformMissing: the machine is not one whose firmware can be run here.
        SystemFault: QEMU or swtpm failed, or the firmware did not start a kernel in time.
    """
    root = paths.cache()
    name = f"firmware-blobs/{cache_key(argv, firmware, variables)}.json"
    if cache and (known := _load(root / name)) is not None:
        return known
    if "-kernel" not in argv and not {"-blockdev", "-drive"} & set(argv):
        hint = "give the machine a kernel or a disk, or the blobs as files"
        raise PlatformMissing("the firmware can only be probed where it has something to start", hint=hint)
    blobs = _run(argv, firmware, variables, timeout)
    if cache:
        files.write_cache(root, name, _dump(blobs))
    return blobs


def cache_key(argv: Sequence[str], firmware: bytes, variables: bytes | None = None) -> str:
    """Digest of all that the blobs depend on."""
    version = process.run([argv[0], "--version"], timeout=20).text.splitlines()[0]
    digests = [hashlib.sha256(data).hexdigest() for data in (firmware, variables or b"")]
    facts = [CACHE_VERSION, version, shape(argv)[1:], *digests]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _run(argv: Sequence[str], firmware: bytes, variables: bytes | None, timeout: float) -> FirmwareBlobs:
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tdxstack-probe-")))
        (directory / "firmware.fd").write_bytes(without_keys(firmware))
        kernel = directory / "kernel" if "-kernel" in argv else None
        if kernel is not None:
            kernel.write_bytes(marker_kernel())
        else:
            (directory / "disk").write_bytes(marker_disk(marker_kernel(), variables))
        if "-tpmdev" in argv:
            stack.enter_context(_swtpm(directory, deadline))
        words = probe_argv(argv, firmware=directory / "firmware.fd", kernel=kernel, directory=directory)
        qemu = stack.enter_context(_started(words, directory / "qemu.log"))
        _wait_for_socket(directory / "qmp.sock", qemu, directory / "qemu.log", deadline)
        _wait_for_shutdown(directory / "qmp.sock", qemu, directory / "qemu.log", deadline)
        with FwCfgReader(directory / "qtest.sock") as reader:
            return replace(_collect(reader), boot_options=_boot_options(directory))


def _boot_options(directory: Path) -> tuple[tuple[str, bytes], ...]:
    """From the flash device, if the firmware keeps its variables there, else from memory."""
    return options_of((directory / "firmware.fd").read_bytes()) or boot_options(directory / "ram")


def without_keys(firmware: bytes) -> bytes:
    """The firmware without secure boot keys, so that it takes the probe's unsigned kernel.

    No table and no boot option depends on them. A file without a variable store is returned as it is.
    """
    try:
        store = VariableStore.from_bytes(firmware)
    except WireError:
        return firmware
    kept = tuple(one for one in store.variables if one.name not in _KEYS)
    return firmware if kept == store.variables else store.written(firmware, kept)


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
        _wait_for_socket(control, child, directory / "swtpm.log", deadline)
        yield


def _wait_for_socket(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    while not is_listening(path):
        _check(child, log, deadline)
        time.sleep(0.02)


def _wait_for_shutdown(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    """Speak just enough QMP to hear that the marker kernel has switched the machine off."""
    try:
        _hear_shutdown(path, child, log, deadline)
    except OSError:  # it hung up: what it said in its log is the reason
        with suppress(process.ChildTimeout):
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        _check(child, log, deadline)
        raise


def _hear_shutdown(path: Path, child: process.Child, log: Path, deadline: float) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(0.5)
        control.connect(str(path))
        control.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n')
        heard = b""
        while b'"SHUTDOWN"' not in heard and b'"shutdown"' not in heard:
            _check(child, log, deadline)
            with suppress(TimeoutError):
                answer = control.recv(65536)
                if not answer:
                    raise ConnectionResetError(f"{log.stem} closed its QMP connection")
                heard += answer


def _check(child: process.Child, log: Path, deadline: float) -> None:
    if child.poll() is not None:
        text = log.read_text(errors="replace").strip().splitlines()
        tail = "; ".join(text[-3:]) or f"status {child.returncode}"
        hint = "mend what it names, or give the tables as files: --blobs DIR"
        raise SystemFault(f"the firmware probe's {log.stem} ended: {tail}", hint=hint)
    if time.monotonic() > deadline:
        raise SystemFault(
            "the firmware did not start a kernel in time",
            hint="is secure boot enrolled, or the machine busy? Give the blobs as files, or wait longer",
        )


def _dump(blobs: FirmwareBlobs) -> str:
    members = {"files": blobs.files, "boot_options": blobs.boot_options}
    return json.dumps(
        {key: {name: base64.b64encode(data).decode() for name, data in of} for key, of in members.items()}
    )


def _load(path: Path) -> FirmwareBlobs | None:
    try:
        known = json.loads(path.read_text())
        found, options = (
            tuple((str(name), base64.b64decode(text, validate=True)) for name, text in known[key].items())
            for key in ("files", "boot_options")
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return FirmwareBlobs(found, source="firmware run on QEMU (cached)", boot_options=options)


def forget() -> None:
    """Empty the cache."""
    folder = paths.cache() / "firmware-blobs"
    if os.path.isdir(folder):  # noqa: PTH112
        shutil.rmtree(folder)
