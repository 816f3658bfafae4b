"""What the supervisor costs: ``td list`` of 200 definitions, start to ssh beside plain QEMU, restore to ssh.

``python -m benchmarks.td [IMAGE]`` (default: debian-13, which has to be built; ``ROUNDS`` rounds, 3). Requirements:
the list below 0.3 s; start to ssh within 5 % of plain QEMU with the same argument list; a saved TD answers on ssh in
less than 4 s under TCG. All machines are plain ones (type efi), so that the comparison is with QEMU alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tdxstack.image.store import find_image
from tdxstack.vm import changes, disk, keys, lifecycle, plan, waiting
from tdxstack.vm.record import Place, TdRecord
from tdxstack.vm.spec import MIB, TdSpec, VmType

ROUNDS = int(os.environ.get("ROUNDS", "3"))
DEFINITIONS = 200
TIMEOUT = 300.0


def until_ssh(record: TdRecord, began: float) -> float:
    """Seconds from ``began`` until an sshd answers."""
    while not waiting.ssh_answers(record):
        if time.monotonic() - began > TIMEOUT:
            raise SystemExit("no ssh: is the machine overloaded?")
        time.sleep(0.05)
    return time.monotonic() - began


def fresh(record: TdRecord) -> None:
    """An overlay as at first: the one before was cut off in the middle of its first boot."""
    record.place.overlay.unlink(missing_ok=True)
    disk.make_overlay(image_of(record), record.place.overlay)


def image_of(record: TdRecord) -> Path:
    if record.spec.image is None:
        raise SystemExit("no image")
    return record.spec.image


def supervised(name: str) -> float:
    """Seconds from ``lifecycle.start`` to ssh."""
    began = time.monotonic()
    record = lifecycle.start(name)
    return until_ssh(record, began)


def plain(record: TdRecord) -> float:
    """Seconds from the start of QEMU alone to ssh, with the argument list of the supervised one."""
    words, run = plan.preview(record)
    run_dir = record.place.make_run_dir()
    (run_dir / "authorized_keys").write_text(keys.authorized_keys(()))
    began = time.monotonic()
    with subprocess.Popen([word for word in words if word != "-S"]) as child:
        took = until_ssh(TdRecord(spec=record.spec, run=run), began)
        child.kill()
    return took


def list_of_many() -> float:
    """Seconds of ``tdxctl td list`` with 200 definitions, the process's start included."""
    for number in range(DEFINITIONS):
        spec = TdSpec(name=f"td{number}", kernel=Path(__file__).absolute(), type=VmType.EFI)
        if not (Place(spec.name).record).exists():
            lifecycle.create(spec)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "tdxstack.cli", "td", "list"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main(name: str) -> None:
    image = find_image(name)
    with tempfile.TemporaryDirectory(prefix="tdxstack-bench-") as home:
        os.environ["TDXSTACK_HOME"] = home
        print(f"td list of {DEFINITIONS}: {min(list_of_many() for _ in range(ROUNDS)):.3f} s")
        spec = TdSpec(
            name="bench",
            type=VmType.EFI,
            image=image.disk,
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=image.default_cmdline,
            memory=1024 * MIB,
            vcpus=2,
        )
        record = lifecycle.create(spec)
        ours, theirs, restored = [], [], []
        for number in range(ROUNDS):
            # Alternating: whoever comes second finds the files in memory.
            for who in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                fresh(record)
                if who == "theirs":
                    theirs.append(plain(record))
                    continue
                ours.append(supervised("bench"))
                changes.save("bench")
                restored.append(supervised("bench"))
                lifecycle.stop("bench", "force")
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        print(f"start to ssh: supervised {min(ours):.2f} s, QEMU alone {min(theirs):.2f} s, median ratio {ratio:.3f}")
        print(f"restore to ssh: {min(restored):.2f} s, median {statistics.median(restored):.2f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "debian-13")
