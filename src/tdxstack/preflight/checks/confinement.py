"""AppArmor, SELinux and the user that QEMU runs as under libvirt."""

from __future__ import annotations

import re

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight.checks.attestation import QGS_SOCKET
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned

QEMU_CONF = "/etc/libvirt/qemu.conf"
ABSTRACTIONS = ("/etc/apparmor.d/abstractions/libvirt-qemu", "/etc/apparmor.d/local/abstractions/libvirt-qemu")
RULES = """add to /etc/apparmor.d/local/abstractions/libvirt-qemu
  /usr/share/ovmf/** rk,
  /run/tdx-qgs/qgs.socket rw,
then systemctl reload apparmor (tdxctl host install --only confinement does it)"""


def setting(text: str, key: str) -> str | None:
    """The value of a libvirt configuration key; comments do not count."""
    found = re.findall(rf'^\s*{re.escape(key)}\s*=\s*"?([^"\n#]*)"?', text, re.MULTILINE)
    return found[-1].strip() if found else None


def _apparmor(host: Host) -> Finding:
    if host.files.text_or_none("/sys/module/apparmor/parameters/enabled") != "Y":
        return passed("AppArmor is not on")
    profiles = host.files.text_or_none("/sys/kernel/security/apparmor/profiles") or ""
    if not re.search(r"^(?:/usr/sbin/)?(?:libvirtd|virtqemud) \(enforce\)", profiles, re.MULTILINE):
        return passed("AppArmor enforces no profile of libvirt")
    if setting(host.files.text_or_none(QEMU_CONF) or "", "security_driver") == "none":
        return passed(f'AppArmor enforces libvirt; {QEMU_CONF}: security_driver = "none"')
    if not host.files.exists(ABSTRACTIONS[0]) and not host.source.tells(Answer.SERVICES):
        return warned(f"AppArmor enforces libvirt; the tree has no {ABSTRACTIONS[0]}")
    text = "\n".join(host.files.text_or_none(path) or "" for path in ABSTRACTIONS)
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
    missing = [name for name, mark in (("firmware", "/ovmf"), ("QGS socket", "tdx-qgs")) if not _ruled(lines, mark)]
    if missing:
        return failed(
            f"AppArmor enforces libvirt, and {ABSTRACTIONS[0]} (with local) has no rule for: {', '.join(missing)}"
        )
    return passed("AppArmor enforces libvirt, with rules for firmware and QGS socket")


def _ruled(lines: list[str], mark: str) -> bool:
    return any(mark in line.lower() for line in lines)


def _selinux(host: Host) -> Finding:
    enforcing = host.files.text_or_none("/sys/fs/selinux/enforce")
    if enforcing is None:
        return passed("SELinux is not on")
    if enforcing == "0":
        return passed("/sys/fs/selinux/enforce = 0: permissive")
    if host.package("tdx-selinux", "selinux-policy-tdx"):
        return passed("SELinux enforces, with a TDX policy package")
    return warned(f"/sys/fs/selinux/enforce = {enforcing}: a policy must let svirt_t reach {QGS_SOCKET}")


def _qemu_user(host: Host) -> Finding:
    text = host.files.text_or_none(QEMU_CONF)
    if text is None:
        return skipped(f"{QEMU_CONF} is absent")
    user = setting(text, "user") or "libvirt-qemu"
    user = user.removeprefix("+")
    if user in ("root", "0"):
        return warned(f"{QEMU_CONF}: user = root: QEMU of TDs has all rights on the host")
    members = _members(host, "kvm")
    if user in members or user in ("libvirt-qemu", "qemu"):
        return passed(f"{QEMU_CONF}: user = {user}, in group kvm")
    return failed(
        f"{QEMU_CONF}: user = {user}, not in group kvm ({', '.join(sorted(members)) or 'nobody'})",
        f"usermod -aG kvm {user}",
    )


def _members(host: Host, group: str) -> set[str]:
    for line in (host.files.text_or_none("/etc/group") or "").splitlines():
        parts = line.split(":")
        if len(parts) == 4 and parts[0] == group:
            return {name for name in parts[3].split(",") if name}
    return set()


def _vsock(host: Host) -> Finding:
    there = host.files.exists("/dev/vhost-vsock")
    return judged(there, f"/dev/vhost-vsock {'is there' if there else 'is absent'}")


CHECKS = (
    Check(
        "confinement.apparmor",
        "AppArmor lets libvirt's QEMU do its work",
        _apparmor,
        "rules for the firmware file and the QGS socket, or no enforced profile",
        "else starting a TD fails with 'Permission denied' on the loader or on the socket",
        RULES,
    ),
    Check(
        "confinement.selinux",
        "SELinux",
        _selinux,
        "permissive, or a policy for the QGS socket",
        "else a TD's request for a quote is refused",
        "ausearch -m avc -c qemu-kvm | audit2allow -M tdx-qgs, read it, then semodule -i tdx-qgs.pp",
        required=False,
    ),
    Check(
        "confinement.qemu_user",
        "QEMU's user",
        _qemu_user,
        "a user of its own in group kvm",
        "it must open /dev/kvm and the disk images, and should not be root",
        "usermod -aG kvm USER; chown the images",
    ),
    Check(
        "confinement.vsock",
        "vhost-vsock",
        _vsock,
        "/dev/vhost-vsock",
        "vsock carries quotes on the 1.5 stack, and MigTD's channel",
        "modprobe vhost_vsock",
        required=False,
    ),
)
