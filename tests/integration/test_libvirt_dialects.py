"""What we emit, judged by the programs that read it: QEMU 11 and libvirt 12 from Debian sid, in a cached chroot."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tdxstack.vm.dialects import SOFTWARE, UPSTREAM, of_version
from tdxstack.vm.libvirt import domain_xml
from tdxstack.vm.qemu import argv, probe
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.spec import TdSpec, VmType

pytestmark = [pytest.mark.integration, pytest.mark.network]
PACKAGES = "libvirt-clients,libvirt-daemon-driver-qemu,qemu-system-x86,libxml2-utils"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "domain"
#: Domains of dialects that upstream's schema knows.
KNOWN = ("software", "software-large", "upstream", "upstream-grub-hvc", "efi-hugepages", "legacy")
SPEC = TdSpec(
    name="demo",
    kernel=Path("/k/vmlinuz"),
    initrd=Path("/k/initrd.img"),
    cmdline="console=ttyS0 root=LABEL=x",
    vcpus=2,
    mrowner=bytes(range(48)),
)
LAUNCH = Launch(
    run_dir=Path("/run/td"),
    log_dir=Path("/td"),
    accelerator="tcg",
    mac="52:54:00:00:00:01",
    firmware=Path("/fw/OVMF.fd"),
    disk=Path("/td/overlay.qcow2"),
    ssh_port=10022,
    authorized_keys=Path("/run/td/authorized_keys"),
)


@pytest.fixture(scope="session")
def sid() -> Path:
    """Debian sid with QEMU and libvirt; made once, in about a minute."""
    if os.geteuid() != 0:
        pytest.skip("a chroot needs root")
    cache = Path(os.environ.get("TDXSTACK_TEST_CACHE", f"/var/tmp/tdxstack-tests-{os.getuid()}"))  # noqa: S108
    root = cache / "sid-1"
    if not (root / "ready").exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = cache / f".sid-{os.getpid()}"
        options = ['Acquire::Check-Valid-Until "false"', 'APT::Install-Recommends "false"']
        command = ["mmdebstrap", "--variant=apt", f"--include={PACKAGES}", *(f"--aptopt={text}" for text in options)]
        subprocess.run([*command, "sid", str(unfinished), _mirror()], check=True, capture_output=True, timeout=900)
        (unfinished / "ready").touch()
        unfinished.rename(root)
    return root


def _mirror() -> str:
    """The mirror that this machine uses."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in places if path.is_file())
    found = re.search(r"https?://\S+/debian/?(?=\s)", text)
    assert found, "no Debian mirror is configured"
    return found[0].rstrip("/")


def _chroot(root: Path, *command: str, stdin: bytes = b"") -> str:
    """Run a program in the chroot, in a mount name space of its own."""
    setup = 'mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; exec chroot "$0" "$@"'
    words = ["unshare", "--mount", "sh", "-c", setup, str(root), *command]
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return (done.stdout + done.stderr).decode() if "validate" in command[0] else done.stdout.decode()


@pytest.mark.parametrize("name", KNOWN)
def test_libvirt_accepts_the_xml(sid: Path, name: str) -> None:
    target = sid / "tmp" / f"{name}.xml"
    target.write_text((GOLDEN / f"{name}.xml").read_text())
    assert "validates" in _chroot(sid, "virt-xml-validate", f"/tmp/{name}.xml", "domain")  # noqa: S108


def _qmp(root: Path, *requests: dict[str, Any]) -> list[Any]:
    words = [{"execute": "qmp_capabilities"}, *requests, {"execute": "quit"}]
    stdin = "".join(json.dumps(word) + "\n" for word in words).encode()
    output = _chroot(
        root, "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", stdin=stdin
    )
    answers = [json.loads(line) for line in output.splitlines()]
    return [answer["return"] for answer in answers if "return" in answer][1:-1]


def _properties(root: Path, command: str, name: str) -> set[str]:
    (found,) = _qmp(root, {"execute": command, "arguments": {"typename": name}})
    return {one["name"] for one in found}


def test_qemu_knows_every_object_and_property(sid: Path) -> None:
    words = argv.build(replace(SPEC, quote="vsock:2:4050"), UPSTREAM, replace(LAUNCH, vsock_cid=5, accelerator="kvm"))
    objects = [word for flag, word in pairwise(words) if flag == "-object"]
    tdx = next(json.loads(word) for word in objects if word.startswith("{"))
    assert set(tdx) - {"qom-type", "id"} <= _properties(sid, "qom-list-properties", "tdx-guest")
    machine = words[words.index("-machine") + 1].split(",")
    names = {one.split("=")[0] for one in machine[1:]}
    assert names <= _properties(sid, "qom-list-properties", "pc-q35-11.1-machine")
    for device in [word for flag, word in pairwise(words) if flag == "-device"]:
        driver, *facts = device.split(",")
        wanted = {fact.split("=")[0] for fact in facts} - {"id", "bus"}
        assert wanted <= _properties(sid, "device-list-properties", driver), driver


def test_the_probe_tells_upstream(sid: Path) -> None:
    (found,) = _qmp(sid, {"execute": "qom-list-properties", "arguments": {"typename": "tdx-guest"}})
    facts = probe.QemuFacts((11, 1, 3), frozenset(one["name"] for one in found))
    assert probe.dialect_of(facts, "qemu") == of_version(UPSTREAM, (11, 1, 3))


@pytest.mark.parametrize(
    "shape",
    [{}, {"memory": 16 << 30, "vcpus": 12, "sockets": 2, "threads": 3}, {"memory": 4 << 30, "hugepages": 1 << 30}],
    ids=["small", "large", "huge pages"],
)
def test_libvirt_would_start_the_same_machine(sid: Path, shape: dict[str, int]) -> None:
    spec = replace(SPEC, type=VmType.EFI, mrowner=bytes(48), **shape)  # type: ignore[arg-type]
    xml = domain_xml.build(spec, SOFTWARE, LAUNCH, emulator="/usr/bin/qemu-system-x86_64")
    (sid / "tmp" / "same.xml").write_text(xml)
    uri = "qemu:///embed?root=/var/tmp/embed"
    native = _chroot(sid, "virsh", "-c", uri, "domxml-to-native", "qemu-argv", "--xml", "/tmp/same.xml")  # noqa: S108
    theirs, ours = shlex.split(native), argv.build(spec, SOFTWARE, LAUNCH)

    def value(words: list[str], flag: str) -> str:
        return words[words.index(flag) + 1]

    for flag in ("-bios", "-kernel", "-initrd", "-append", "-cpu", "-fw_cfg", "-display", "-netdev"):
        assert value(theirs, flag) == value(ours, flag), flag
    assert value(theirs, "-m") == f"size={spec.memory >> 10}k"
    assert value(ours, "-m") == f"{spec.memory >> 20}M"
    memory = " ".join(word for flag, word in pairwise(theirs) if flag == "-object")
    assert ('"hugetlb":true' in memory) is bool(spec.hugepages)
    assert ('"share":true' in memory) is (spec.memory >= domain_xml.LARGE), "not accounted for before it is used"
    assert {"smm=off", "hpet=off"} <= set(value(theirs, "-machine").split(",")) & set(
        value(ours, "-machine").split(",")
    )
    clusters = value(theirs, "-smp").replace(",dies=1", "").replace(",clusters=1", "")
    assert clusters == value(ours, "-smp")
    for text in (
        "virtio-blk-pci",
        "virtio-serial-pci",
        "virtio-rng-pci",
        "org.tdxstack.agent.0",
        "/td/overlay.qcow2",
    ):
        assert any(text in word for word in theirs), text
        assert any(text in word for word in ours), text
    card = "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:00:00:01,romfile="
    assert domain_xml.device_json(card) in theirs
    assert card in ours
