"""The default image, built and booted for real: firmware, TPM, kernel, initrd, systemd, ssh."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.conftest import Tdxctl
from tdxstack.image import BootLayout, BuildOptions, Image, build_image
from tdxstack.image.firmware import default_firmware
from tdxstack.image.mkosi_config import render
from tdxstack.image.recipes import load_recipe, recipe_names
from tdxstack.image.sandbox import entered, run_logged
from tdxstack.image.tools_tree import ensure_tools_tree
from tdxstack.image.tree import write_tree
from tdxstack.system import process
from tdxstack.system.sockets import is_listening

pytestmark = [pytest.mark.integration, pytest.mark.network]

BOOT_SECONDS = 240


@pytest.fixture(scope="module", autouse=True)
def _in_the_tests_home(tdxctl: Tdxctl) -> Iterator[None]:
    """What is built and downloaded here goes where the other tests look, and not into the home of who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDXSTACK_HOME", str(tdxctl.home))
        yield


@pytest.fixture(scope="module")
def image(_in_the_tests_home: None) -> Image:
    return build_image(progress=print)


@pytest.fixture(scope="module")
def firmware(_in_the_tests_home: None) -> Path:
    return default_firmware(print).path


def new_key(folder: Path, name: str) -> Path:
    key = folder / name
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], timeout=20)
    return key


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def tpm(folder: Path) -> Iterator[Path]:
    """A TPM emulator; the path of its control socket."""
    state, control = folder / "tpm", folder / "tpm.sock"
    state.mkdir()
    banks = "sha256,sha384"
    process.run(["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", banks], timeout=60)
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={control}"]
    server = process.spawn(argv)
    try:
        while not is_listening(control):
            assert server.poll() is None, "swtpm ended"
            time.sleep(0.02)
        yield control
    finally:
        server.kill()
        server.wait()


class Guest:
    """A booted machine, reached by ssh with one key."""

    def __init__(self, machine: subprocess.Popen[bytes], port: int, key: Path, console: Path) -> None:
        self.machine, self.port, self.key, self.console = machine, port, key, console

    def ssh(self, command: str, *, key: Path | None = None, user: str = "root") -> process.Completed:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "IdentitiesOnly=yes"]
        words = [word for option in (*options, "LogLevel=ERROR") for word in ("-o", option)]
        argv = ["ssh", *words, "-i", str(key or self.key), "-p", str(self.port), f"{user}@127.0.0.1", command]
        for _ in range(3):
            done = process.run(argv, timeout=60, check=False)
            if b"kex_exchange_identification" not in done.stderr:  # the network's own: nobody has been asked yet
                break
            time.sleep(1)
        return done

    def read(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, done.stderr
        return done.text.strip()

    def wait(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            assert self.machine.poll() is None, self.console.read_text(errors="replace")[-2000:]
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    # Each that is given up waits at the guest's door, and sshd shuts it to who made many.
                    connection.settimeout(5)
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"no ssh: {self.console.read_text(errors='replace')[-2000:]}")


@contextmanager
def booted(image: Image, firmware: Path, folder: Path) -> Iterator[Guest]:
    """Boot a throw-away overlay of the image, with a new key handed over by fw_cfg."""
    folder.mkdir()
    key, port, console = new_key(folder, "key"), free_port(), folder / "console.log"
    direct = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.default_cmdline]
    with tpm(folder) as control, console.open("wb") as log:
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-m", "1G"]
        argv += ["-smp", "2", "-nodefaults", "-display", "none", "-no-reboot", "-bios", str(firmware)]
        argv += direct if image.boot == "direct" else []
        argv += ["-drive", f"file={image.disk},format=raw,if=none,id=disk,snapshot=on"]
        argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=1", "-serial", "stdio"]
        argv += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net"]
        argv += ["-fw_cfg", f"name=opt/io.systemd.credentials/ssh.authorized_keys.root,file={key}.pub"]
        argv += ["-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm,chardev=tpm"]
        argv += ["-device", "tpm-crb,tpmdev=tpm"]
        machine = process.spawn(argv, stdout=log, stderr=log)
        try:
            guest = Guest(machine, port, key, console)
            guest.wait()
            yield guest
        finally:
            machine.kill()
            machine.wait()


def pcrs(guest: Guest) -> list[str]:
    return guest.read("cat /sys/class/tpm/tpm0/pcr-sha384/{0..9}").split()


def test_it_boots_and_is_what_it_says(image: Image, firmware: Path, tmp_path: Path) -> None:
    with booted(image, firmware, tmp_path / "one") as guest:
        assert guest.read("cat /proc/cmdline").endswith(image.default_cmdline)
        assert guest.read("hostname") == "tdx-guest"
        assert guest.read(". /etc/os-release; echo $VERSION_CODENAME") == "trixie"
        assert guest.read("ls -d /sys/module/cuse /sys/module/configfs /sys/kernel/config/tsm").count("\n") == 2
        assert guest.read("tdxctl --version").startswith("tdxctl ")
        assert guest.read("ls /etc/ssh/ssh_host_*_key") == "/etc/ssh/ssh_host_ed25519_key"
        assert guest.read("systemctl list-units --failed --plain --no-legend | grep -v tdxstack-guest || true") == ""
        # nobody gets in with a password, or with a key that was not handed over
        assert guest.read("cut -d: -f2 /etc/shadow | sort -u").split() in (
            ["!*", "*"],
            ["*"],
            ["!", "!*", "*"],
            ["!*"],
        )
        stranger = guest.ssh("true", key=new_key(tmp_path, "stranger"))
        assert stranger.returncode == 255
        assert b"Permission denied" in stranger.stderr
        before = pcrs(guest)
    with booted(image, firmware, tmp_path / "two") as guest:
        # another key, handed over by fw_cfg: it is not measured
        assert pcrs(guest) == before


@pytest.mark.parametrize("boot", list(BootLayout))
@pytest.mark.parametrize("name", recipe_names())
def test_mkosi_takes_every_recipe(name: str, boot: BootLayout, tmp_path: Path) -> None:
    tools = ensure_tools_tree("debian", print)
    options = BuildOptions(boot=boot, user="kim")
    for folder in ("ws", "out"):
        (tmp_path / folder).mkdir()
    write_tree(tmp_path / "config", render(load_recipe(name), options, b"bundle", None))
    argv = ["mkosi", "--directory", "/build/config", "summary"]
    lines: list[str] = []
    run_logged(entered(tools, {tmp_path: "/build"}, argv), tmp_path / "log", lines.append, home=Path("/root"))
    assert f"Release: {load_recipe(name).release}" in [line.strip() for line in lines]


@pytest.mark.slow
def test_debian_12_boots(firmware: Path, tmp_path: Path) -> None:
    image = build_image("debian-12", BuildOptions(hostname="twelve", user="kim", size=3 << 30), progress=print)
    with booted(image, firmware, tmp_path / "one") as guest:
        assert guest.read(". /etc/os-release; echo $VERSION_CODENAME") == "bookworm"
        assert guest.read("hostname; id -un kim").split() == ["twelve", "kim"]
        assert int(guest.read("df --output=size -B1M / | tail -1")) > 2500


@pytest.mark.slow
@pytest.mark.parametrize("boot", [BootLayout.UKI, BootLayout.GRUB])
def test_the_other_boot_layouts(boot: BootLayout, firmware: Path, tmp_path: Path) -> None:
    image = build_image(options=BuildOptions(boot=boot), progress=print)
    with booted(image, firmware, tmp_path / "one") as guest:
        assert "root=PARTLABEL=root" in guest.read("cat /proc/cmdline")
        measured = pcrs(guest)
        assert len(set(measured[8:10])) == (2 if boot is BootLayout.GRUB else len(set(measured[8:10])))
