"""The key pair with which this home logs in to its TDs, and the ``ssh`` command lines that use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory
from tdxstack.system.process import run
from tdxstack.vm.network import is_user
from tdxstack.vm.record import TdRecord
from tdxstack.vm.site import is_far

HOST = "127.0.0.1"
USER = "root"


def key_path() -> Path:
    """The private key (ed25519, 0600), made by ``ssh-keygen`` on first use."""
    directory = private_directory(paths.home() / "ssh")
    key = directory / "id_ed25519"
    with locked(directory / "lock"):
        if not key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tdxstack", "-f", str(key)], timeout=60)
    return key


def authorized_keys(extra: Sequence[Path]) -> str:
    """The public keys that may log in: this home's own and those of the files in ``extra``.

    Raises:
        UsageError: a file that cannot be read or holds a private key.
    """
    lines = [key_path().with_suffix(".pub").read_text().strip()]
    for path in extra:
        try:
            text = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the public key {path}: {error}", hint="ssh-keygen -t ed25519") from None
        if "PRIVATE KEY" in text:
            raise UsageError(f"{path} is a private key", hint=f"name the public one: {path}.pub")
        lines.append(text)
    return "\n".join(lines) + "\n"


def ssh_options(record: TdRecord, identity: Path | None = None) -> list[str]:
    """Options that ``ssh`` and ``scp`` share: one key (``identity``, or ours), and known hosts of the TD's own."""
    return [
        *("-i", str(identity or key_path())),
        *("-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={record.place.known_hosts}"),
        *("-o", "StrictHostKeyChecking=accept-new"),
        *("-o", f"HostKeyAlias=td-{record.name}"),
        *("-o", "ConnectTimeout=10"),
        *("-o", "LogLevel=ERROR"),
        *_way(record),
    ]


def _way(record: TdRecord) -> list[str]:
    """The way to a TD's host, where that is another one than this."""
    if not is_far(record.spec):
        return []
    from tdxstack.vm.libvirt.far_site import FarSite

    return ["-o", f"ProxyCommand={FarSite.of(record.spec.connect).proxy_command(ssh_port(record))}"]


def ssh_argv(record: TdRecord, command: Sequence[str] = ()) -> list[str]:
    """``ssh`` to the TD as root, with ``command`` or a shell.

    Raises:
        StateError: the TD has no forwarded port now.
    """
    return ["ssh", *ssh_options(record), "-p", str(ssh_port(record)), f"{USER}@{HOST}", *command]


def ssh_port(record: TdRecord) -> int:
    """The port of 127.0.0.1 that reaches the TD's sshd."""
    if record.run.ssh_port is None:
        if not is_user(record.spec.network):
            raise SystemFault(
                f"TD {record.name} is on {record.spec.network}: no port is forwarded", hint="ssh to its own address"
            )
        raise StateError(
            f"TD {record.name}", "ssh", record.state.value, "running", hint=f"tdxctl td start {record.name}"
        )
    return record.run.ssh_port
