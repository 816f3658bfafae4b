"""A guest that boots in seconds: Debian's cloud kernel and a busybox RAM disk, with a small agent in shell.

Packages come from the machine's own apt sources and are kept in ``TDXSTACK_TEST_CACHE`` (default: a directory under
/var/tmp). The agent answers every request with ``{"pong": true}``, and knows ``shutdown``, ``reboot``, ``fill`` (the
disk) and, in a software TD, ``report``: a TDREPORT (hexadecimal) over zero REPORTDATA, asked of the TDX module, with
the boot's identity. Port 22 of the guest echoes.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/block/virtio_blk",
)
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc p /proc; /bin/busybox mount -t sysfs s /sys; /bin/busybox mount -t devtmpfs d /dev
/bin/busybox --install -s /bin
export PATH=/bin
for module in @MODULES@; do insmod /lib/$module; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
nc -ll -p 22 -e /bin/cat &
for port in /sys/class/virtio-ports/*; do
  case "$(cat $port/name)" in
    org.tdxstack.agent.0) device=/dev/${port##*/} ;;
    org.tdxstack.tdx.0) exec 4<>/dev/${port##*/} ;;
  esac
done
boot=$(cat /proc/sys/kernel/random/boot_id)
answer() { echo "{\\"id\\":$1,\\"result\\":{\\"pong\\":true$2}}" >&3; }
report() {
  { printf '\\114\\0\\0\\0\\001\\0\\0\\0\\004\\0\\0\\0\\0\\0\\0\\0'; head -c 64 /dev/zero; } >&4
  echo ",\\"boot\\":\\"$boot\\",\\"report\\":\\"$(head -c 1040 <&4 | tail -c 1024 | hexdump -v -e '/1 "%02x"')\\""
}
if [ -n "$device" ]; then
  exec 3<>$device
  echo '{"event":"ready","version":"tiny","platform":"software"}' >&3
  ( while :; do while read -r line <&3; do
      id=$(echo "$line" | sed -n 's/.*"id": *\\([0-9]*\\).*/\\1/p')
      more=; case "$line" in *'"report"'*) more=$(report) ;; esac
      answer $id "$more"
      case "$line" in *shutdown*) poweroff -f;; *reboot*) reboot -f;;
        *fill*) dd if=/dev/urandom of=/dev/vda bs=1M count=16 & ;; esac
    done; sleep 1; done ) &
fi
echo "tiny guest: ready"
while :; do sleep 3600; done
"""


@dataclass(frozen=True, slots=True)
class TinyGuest:
    """Files to boot. ``cmdline`` puts the console on the serial port; a busy machine's timers are no panic."""

    kernel: Path
    initrd: Path
    firmware: Path
    cmdline: str = "console=ttyS0 quiet no_timer_check"


def _cache() -> Path:
    default = f"/var/tmp/tdxstack-tests-{os.getuid()}"  # noqa: S108 - a cache of public packages, owner checked below
    path = Path(os.environ.get("TDXSTACK_TEST_CACHE", default))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    assert path.stat().st_uid == os.getuid(), f"{path} belongs to somebody else"
    return path


def _run(argv: list[str], cwd: Path) -> bytes:
    return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, timeout=300).stdout


def _package(name: str, folder: Path) -> tarfile.TarFile:
    scratch = folder / f"download-{name}-{os.getpid()}"
    scratch.mkdir()
    try:
        _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name], scratch)
        (deb,) = scratch.glob("*.deb")
        return tarfile.open(fileobj=io.BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(deb)], scratch)))
    finally:
        shutil.rmtree(scratch)


def _cpio(entries: dict[str, tuple[int, bytes]]) -> bytes:
    """A newc archive: name -> (mode, content)."""
    out = bytearray()
    for number, (name, (mode, data)) in enumerate([*entries.items(), ("TRAILER!!!", (0, b""))], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + path
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def _content(archive: tarfile.TarFile, ending: str) -> bytes:
    member = next(item for item in archive if item.isfile() and item.name.endswith(ending))
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _build(folder: Path) -> None:
    depends = _run(["apt-cache", "depends", "--no-recommends", KERNEL_PACKAGE], folder).decode()
    kernel_package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    kernel, busybox = _package(kernel_package, folder), _package("busybox-static", folder)
    version = kernel_package.removeprefix("linux-image-").removesuffix("-unsigned")
    modules = {module.rpartition("/")[2] + ".ko": _content(kernel, f"kernel/{module}.ko") for module in MODULES}
    init = INIT.replace("@MODULES@", " ".join(modules)).encode()
    entries = {
        "bin": (0o40755, b""),
        "lib": (0o40755, b""),
        "init": (0o100755, init),
        "bin/busybox": (0o100755, _content(busybox, "bin/busybox")),
        **{f"lib/{name}": (0o100644, data) for name, data in modules.items()},
    }
    for name, data in (("initrd.img", _cpio(entries)), ("vmlinuz", _content(kernel, f"boot/vmlinuz-{version}"))):
        unfinished = folder / f".{name}.{os.getpid()}"
        unfinished.write_bytes(data)
        unfinished.replace(folder / name)


@pytest.fixture(scope="session")
def tiny_guest() -> TinyGuest:
    """The guest's files, built on first use."""
    folder = _cache() / "tiny-guest-4"
    folder.mkdir(exist_ok=True)
    if not (folder / "vmlinuz").exists():
        _build(folder)
    return TinyGuest(folder / "vmlinuz", folder / "initrd.img", _firmware())


def _firmware() -> Path:
    """``TDXSTACK_TEST_FIRMWARE``, or the one that images boot by default."""
    if given := os.environ.get("TDXSTACK_TEST_FIRMWARE"):
        return Path(given)
    from tdxstack.image.firmware import default_firmware

    return default_firmware().path
