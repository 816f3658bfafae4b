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


def a_td(spec: TdSpec) -> tuple[float, list[str]]:
    """Seconds from ``td start`` to ssh, and the argument list that QEMU had."""
    lifecycle.create(spec)
    try:
        begin = time.monotonic()
        record = lifecycle.start(spec.name)
        assert record.run.ssh_port
        banner(record.run.ssh_port)
        seconds = time.monotonic() - begin
        argv = Path(f"/proc/{record.run.qemu_pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        return seconds, argv
    finally:
        lifecycle.delete(spec.name, force=True)


def plain(argv: list[str], disk: Path) -> float:
    """Seconds to ssh of the same machine, its TPM being swtpm itself and nothing behind the other sockets."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        overlay = base / "overlay.qcow2"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(overlay)]
        subprocess.run(create, check=True)
        state = base / "tpm"
        state.mkdir()
        setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha256,sha384"]
        subprocess.run(setup, check=True, capture_output=True)
        begin = time.monotonic()
        control = base / "swtpm.sock"
        tpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={control}"]
        with subprocess.Popen(tpm) as swtpm:
            while not control.exists():
                time.sleep(0.01)
            time.sleep(0.1)
            words = _own_sockets(argv, base, overlay, control)
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as qemu:
                try:
                    banner(_port(argv))
                    return time.monotonic() - begin
                finally:
                    qemu.kill()
                    swtpm.kill()


def _port(argv: list[str]) -> int:
    forward = next(word for word in argv if "hostfwd=tcp:127.0.0.1:" in word)
    return int(forward.split("hostfwd=tcp:127.0.0.1:")[1].split("-")[0])


def _own_sockets(argv: list[str], base: Path, overlay: Path, control: Path) -> list[str]:
    """The argument list with its paths in ``base``, its own disk and swtpm, and running from the start."""
    words = [word for word in argv if word not in ("-S", "--preconfig")]
    run_dir = next(word.split("path=")[1].split(",")[0] for word in words if "id=tdxtpm," in word)
    own = [word.replace(run_dir, str(control)).replace(str(Path(run_dir).parent), str(base)) for word in words]
    (base / "authorized_keys").write_text("")
    disk = next(word for word in words if "overlay.qcow2" in word)
    there = disk.split("filename=")[1].split(",")[0] if "filename=" in disk else disk.split("file=")[1].split(",")[0]
    return [word.replace(there, str(overlay)) for word in own]


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
        seconds, argv = a_td(spec)
        tds.append(seconds)
        plains.append(plain(argv, image.disk))
        print(f"  TD {tds[-1]:.1f} s, plain QEMU {plains[-1]:.1f} s")
    ratio = statistics.median(tds) / statistics.median(plains)
    print(
        f"start to ssh: TD {statistics.median(tds):.1f} s, plain {statistics.median(plains):.1f} s, ratio {ratio:.2f}"
    )
    print("   (aim: at most 1.10)")


if __name__ == "__main__":
    main()
