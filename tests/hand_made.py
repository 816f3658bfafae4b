# ruff: noqa: E501
"""The catalogue's hosts as somebody would copy them together by hand, with registers and log in many forms."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

from host_trees import Tree

Values = dict[int, int]


def registers_of(tree: Tree) -> Values:
    """Register -> value, of the first CPU."""
    return {int(name, 16): int(cpus["0"], 16) for name, cpus in json.loads(tree[".tdxstack/msr.json"]).items()}


def _flat(values: Values) -> Tree:
    return {"msr.json": json.dumps({hex(index): hex(value) for index, value in values.items()}).encode()}


def _by_cpu(values: Values) -> Tree:
    table = {str(cpu): {f"0x{index:X}": value for index, value in values.items()} for cpu in (0, 1)}
    return {"msr.json": json.dumps({"msrs": table}).encode()}


def _entries(values: Values) -> Tree:
    return {
        "msrs.json": json.dumps(
            [{"msr": hex(index), "cpu": 0, "value": hex(value)} for index, value in values.items()]
        ).encode()
    }


def _rdmsr(values: Values) -> Tree:
    return {"msr.txt": "".join(f"0x{index:x}: {value:x}\n" for index, value in values.items()).encode()}


def _lines(values: Values) -> Tree:
    lines = [f"cpu{cpu} 0x{index:x} = 0x{value:016x}" for index, value in values.items() for cpu in (0, 1)]
    return {".tdxstack/msr.txt": "\n".join(["# read with rdmsr", *lines]).encode()}


def _bits(values: Values) -> Tree:
    def cut(index: int, high: int, low: int) -> str:
        return f"0x{index:x}[{high}:{low}] {values.get(index, 0) >> low & ((1 << (high - low + 1)) - 1):#x}\n"

    wanted = ((0x982, 63, 32), (0x982, 31, 0), (0x981, 50, 36), (0x1401, 11, 10), (0x1400, 3, 3), (0x87, 63, 32), (0x3A, 18, 18), (0xCE, 27, 27), (0xA0, 63, 0), (0xFE, 15, 15))  # fmt: skip
    return {"msr.txt": "".join(cut(*one) for one in wanted if one[0] in values).encode()}


def _files(values: Values) -> Tree:
    return {f"msr/0x{index:x}": f"{value:#x}\n".encode() for index, value in values.items()}


def _device_files(values: Values) -> Tree:
    return {f"dev/cpu/{cpu}/msr/0x{i:x}": v.to_bytes(8, "little") for i, v in values.items() for cpu in (0, 1)}


def _packed_image(values: Values) -> Tree:
    image = bytearray(0x1402 * 8)
    for index, value in values.items():
        image[index * 8 : index * 8 + 8] = value.to_bytes(8, "little")
    return {"dev/cpu/0/msr": bytes(image)}


#: Name -> how registers are kept.
REGISTERS: dict[str, Callable[[Values], Tree]] = {
    "flat": _flat,
    "by-cpu": _by_cpu,
    "entries": _entries,
    "rdmsr": _rdmsr,
    "lines": _lines,
    "bits": _bits,
    "files": _files,
    "device-files": _device_files,
    "packed-image": _packed_image,
    "none": lambda values: {},
}
#: Name -> where the kernel log is, and as what.
LOGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "dmesg": ("dmesg", bytes),
    "text": ("dmesg.txt", bytes),
    "var": ("var/log/dmesg", bytes),
    "packed": ("var/log/dmesg", lambda log: gzip.compress(log, mtime=0)),
    "syslog": (
        "var/log/kern.log",
        lambda log: b"".join(b"Jun  3 02:50:04 host kernel: " + line + b"\n" for line in log.splitlines()),
    ),
    "levels": ("dmesg", lambda log: b"".join(b"<6>" + line + b"\n" for line in log.splitlines())),
    "kmsg": (
        "proc/kmsg",
        lambda log: b"".join(b"6,1,0,-;" + line.partition(b"] ")[2] + b"\n" for line in log.splitlines()),
    ),
}


def by_hand(tree: Tree, registers: str, log: str) -> Tree:
    """The tree without what ``tdxctl host capture`` alone writes."""
    made = {path: content for path, content in tree.items() if not path.startswith(".tdxstack/")}
    made = {path: content for path, content in made.items() if not path.startswith("dev/")}
    where, form = LOGS[log]
    return made | REGISTERS[registers](registers_of(tree)) | {where: form(tree[".tdxstack/dmesg"])}
