"""From start to ssh: a TD of the software platform beside plain QEMU and swtpm with the same argument list.

Both boot the default image with the same firmware, kernel and devices; the TD has the tap, the channel and a
supervisor besides. Runs alternate, so that a busy machine hits both alike.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tdxstack.image import build_image
from tdxstack.image.firmware import default_firmware
from tdxstack.vm import lifecycle
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec

PAIRS = int(os.environ.get("BENCH_PAIRS", "3"))
TIMEOUT = 300


def banner(port: int) -> None:
    """Wait until an ssh server answers with its banner."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("no ssh banner")


def a_td(spec: TdSpec) -> tuple[float, list[str], TdRecord]:
    """Seconds from ``lifecycle.start`` to ssh, the argument list that QEMU had, and the record of the run."""
    lifecycle.create(spec)
    try:
        begin = time.monotonic()
        record = lifecycle.start(spec.name)
        banner(record.run.ssh_port or 0)
        seconds = time.monotonic() - begin
        argv = Path(f"/proc/{record.run.qemu_pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        return seconds, argv, record
    finally:
        lifecycle.delete(spec.name, force=True)


def plain(argv: list[str], record: TdRecord, disk: Path) -> float:
    """Seconds to ssh of the same machine, its TPM being swtpm itself and nothing behind the other sockets."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        begin = time.monotonic()
        create = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            str(disk),
            str(base / "overlay.qcow2"),
        ]
        subprocess.run(create, check=True)
        (base / "tpm").mkdir()
        setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(base / "tpm"), "--pcr-banks", "sha256,sha384"]
        subprocess.run(setup, check=True, capture_output=True)
        control = base / "tpm.sock"
        tpm = [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={base / 'tpm'}",
            "--ctrl",
            f"type=unixio,path={control}",
        ]
        (base / "authorized_keys").write_text("none")
        words = [word.replace(str(record.place.run_dir), folder) for word in argv if word != "-S"]
        words = [word.replace(str(record.place.directory), folder) for word in words]
        with subprocess.Popen(tpm) as swtpm:
            try:
                while not control.exists():
                    time.sleep(0.01)
                time.sleep(0.1)  # the socket is there before swtpm listens
                with subprocess.Popen(words, stdout=subprocess.DEVNULL) as qemu:
                    try:
                        banner(record.run.ssh_port or 0)
                        return time.monotonic() - begin
                    finally:
                        qemu.kill()
            finally:
                swtpm.kill()


def main() -> None:
    image = build_image(progress=lambda line: print(f"  {line}", file=sys.stderr))
    firmware = default_firmware()
    spec = TdSpec(
        name="bench-boot",
        firmware=firmware.path,
        image=image.disk,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.default_cmdline,
        vcpus=2,
    )
    tds, plains = [], []
    for _ in range(PAIRS):
        seconds, argv, record = a_td(spec)
        tds.append(seconds)
        plains.append(plain(argv, record, image.disk))
        print(f"  TD {tds[-1]:.1f} s, plain QEMU {plains[-1]:.1f} s")
    ratio = statistics.median(tds) / statistics.median(plains)
    print(
        f"start to ssh: TD {statistics.median(tds):.1f} s, plain {statistics.median(plains):.1f} s, ratio {ratio:.2f}"
    )
    print("   (aim: at most 1.10)")


if __name__ == "__main__":
    main()
