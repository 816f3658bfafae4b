"""A machine's argument list, made over so that its firmware can be run for its ACPI tables. Pure.

What shapes the tables stays (machine, CPU, memory size, devices and their order); what reaches the outside is
replaced: character devices and networks lead nowhere, disks are empty, the accelerator is TCG, the TPM is a new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

#: Options that are left out, with the number of words behind them.
_DROPPED = {
    "-S": 0,
    "-daemonize": 0,
    "-no-shutdown": 0,
    "-snapshot": 0,
    "-nographic": 0,
    "-enable-kvm": 0,
    "-s": 0,
    **dict.fromkeys(
        (
            *("-accel", "-qmp", "-qmp-pretty", "-mon", "-monitor", "-pidfile", "-incoming", "-gdb", "-action"),
            *("-kernel", "-initrd", "-append", "-bios", "-D", "-d", "-trace", "-display", "-name", "-sandbox"),
            *("-runas", "-run-with", "-uuid", "-vnc", "-spice", "-qtest", "-qtest-log", "-loadvm", "-object"),
            *("-add-fd", "-msg", "-audiodev", "-overcommit"),
        ),
        1,
    ),
}
#: Properties of -machine that only a confidential guest or KVM has.
_MEMORY = "probe-ram"
_MACHINE_DROPPED = ("confidential-guest-support", "kernel_irqchip", "kernel-irqchip", "accel", "memory-backend")


def probe_argv(argv: Sequence[str], *, firmware: Path, kernel: Path | None, directory: Path) -> list[str]:
    """The argument list that runs the firmware of ``argv``'s machine in ``directory``.

    Args:
        argv: the machine's own argument list, the QEMU binary first.
        firmware: the firmware file to run.
        kernel: what stands in for the machine's kernel, or None for a machine without ``-kernel``, whose disks are
            ``disk`` in ``directory`` then.
        directory: where the sockets ``qmp.sock``, ``qtest.sock`` and ``swtpm.sock`` are, and the memory, ``ram``.
    """
    words = [argv[0], "-name", "firmware-probe", "-display", "none", "-accel", "tcg"]
    has_tpm = any(option == "-tpmdev" for option in argv)
    tpm_chardev = _tpm_chardev(argv)
    disk = directory / "disk" if kernel is None else None
    position = 1
    while position < len(argv):
        option = argv[position].replace("--", "-", 1)
        if option in _DROPPED:
            kept = _object(argv[position + 1]) if option == "-object" else []
            words += kept
            position += 1 + _DROPPED[option]
            continue
        value = argv[position + 1] if position + 1 < len(argv) and not argv[position + 1].startswith("-") else None
        words += _translated(option, value, tpm_chardev, disk)
        position += 1 if value is None else 2
    flash = any(option == "-drive" and _is_flash(value) for option, value in pairwise(argv))
    words += ["-drive", f"if=pflash,format=raw,unit=0,file={firmware}"] if flash else ["-bios", str(firmware)]
    # The memory is a file, so that the firmware's variables can be read out of it.
    ram = f"memory-backend-file,id={_MEMORY},size={_memory_size(argv)},share=on,mem-path={directory / 'ram'}"
    words += ["-object", ram, "-no-shutdown", "-no-reboot"]
    if kernel is not None:
        words += ["-kernel", str(kernel), "-append", "probe"]
    if has_tpm:
        words += ["-chardev", f"socket,id={tpm_chardev},path={directory / 'swtpm.sock'}"]
    words += ["-chardev", f"socket,id=probe-qmp,path={directory / 'qmp.sock'},server=on,wait=off"]
    words += ["-mon", "chardev=probe-qmp,mode=control"]
    words += ["-chardev", f"socket,id=probe-qtest,path={directory / 'qtest.sock'},server=on,wait=off"]
    return [*words, "-qtest", "chardev:probe-qtest", "-qtest-log", "none"]


def shape(argv: Sequence[str]) -> list[str]:
    """What of ``argv`` decides the probe's outcome: the probe's own argument list without paths. For cache keys."""
    has_kernel = Path("/kernel") if "-kernel" in argv else None
    return probe_argv(argv, firmware=Path("/firmware"), kernel=has_kernel, directory=Path("/probe"))


def _properties(value: str) -> dict[str, str]:
    """``a,b=c`` as {"": "a", "b": "c"}; a doubled comma is part of a value."""
    parts = [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
    found: dict[str, str] = {}
    for number, part in enumerate(parts):
        key, equals, text = part.partition("=")
        found["" if number == 0 and not equals else key] = text if equals else part
    return found


def _memory_size(argv: Sequence[str]) -> str:
    """The size behind ``-m``, as QEMU reads it: in MiB where no unit is given; 128 MiB by default."""
    size = next((_properties(value) for option, value in pairwise(argv) if option == "-m"), {})
    text = size.get("size") or size.get("") or "128"
    return f"{text}M" if text.isdecimal() else text


def _tpm_chardev(argv: Sequence[str]) -> str:
    for option, value in pairwise(argv):
        if option == "-tpmdev":
            return _properties(value).get("chardev", "")
    return ""


def _translated(option: str, value: str | None, tpm_chardev: str, disk: Path | None) -> list[str]:
    if value is None:
        return [option]
    if option in {"-machine", "-M"}:
        parts = [part for part in value.split(",") if part.partition("=")[0] not in _MACHINE_DROPPED]
        return [option, ",".join([*parts, f"memory-backend={_MEMORY}"])]
    if option == "-cpu":
        return [option, re.sub(r"^host\b", "max", value)]
    if option == "-chardev":
        name = _properties(value).get("id", "")
        return [] if name == tpm_chardev else [option, f"null,id={name}"]
    if option == "-netdev":
        number = sum(_properties(value).get("id", "").encode())
        return [option, f"hubport,id={_properties(value).get('id', '')},hubid={number}"]
    if option in ("-blockdev", "-drive"):
        return _disk(option, value, disk)
    if option == "-device":
        return [option, _device(value)]
    if option == "-serial" and value != "none":
        return [option, "null"]
    if option == "-fw_cfg":
        # The firmware reads its own settings; files of others (credentials) do not shape the tables.
        return [option, value] if value.startswith(("name=opt/ovmf/", "opt/ovmf/", "name=opt/org.tianocore/")) else []
    return [option, value]


def _device(value: str) -> str:
    """The device; for one that reaches the host's vsock another that takes the same slot."""
    if not value.startswith("{"):
        return value
    facts = json.loads(value)
    if facts.get("driver") != "vhost-vsock-pci":
        return value
    kept = {key: facts[key] for key in ("id", "bus", "addr") if key in facts}
    return json.dumps({"driver": "virtio-balloon-pci", **kept})


def _is_flash(value: str) -> bool:
    return _properties(value).get("if") == "pflash"


def _disk(option: str, value: str, disk: Path | None) -> list[str]:
    """An empty disk; or, for a machine that boots from one, a file that all of its disks share."""
    if option == "-drive" and _is_flash(value):
        return []
    if disk is None:
        backing = "driver=null-co,read-zeroes=on,size=1073741824"
    else:
        backing = f"driver=raw,file.driver=file,file.locking=off,file.filename={str(disk).replace(',', ',,')}"
    if option == "-blockdev":
        node = json.loads(value) if value.startswith("{") else _properties(value)
        return [option, f"{backing},node-name={node.get('node-name', '')}"]
    facts = _properties(value)
    kept = [f"{key}={facts[key]}" for key in ("if", "id", "index", "bus", "unit", "media") if key in facts]
    return [option, ",".join([*kept, backing])]


def _object(value: str) -> list[str]:
    """Objects that devices need (RNG back ends); memory and confidential guests are left to the defaults."""
    facts = json.loads(value) if value.startswith("{") else _properties(value)
    kind = str(facts.get("qom-type") or facts.get("", ""))
    return ["-object", value] if kind.startswith(("rng-", "iothread", "filter-")) else []
