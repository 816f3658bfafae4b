"""Guest images: cloned as overlays, and changed offline, without root mounts."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import SystemFault, UsageError
from tdxstack.image.files_inside import root_files
from tdxstack.system.files import private_directory
from tdxstack.vm import keys
from tdxstack.vm.disk import make_overlay

DISTROS = ("ubuntu", "debian", "rhel", "centosstream", "fedora")


class VMImage:
    """A disk image of a guest.

    What changes it or looks into it needs a machine that is off, and a root file system of ext2, ext3 or ext4.
    """

    def __init__(self, filepath: str | Path, distro: str | None = None) -> None:
        self.filepath = Path(filepath).absolute()
        if not self.filepath.is_file():
            raise UsageError(f"no image {self.filepath}", hint="tdxctl image list")
        self._distro = distro

    @property
    def distro(self) -> str | None:
        """The distribution: as said, else as the file's path says, else None."""
        if self._distro is not None:
            return self._distro
        path = str(self.filepath).lower()
        return next((name for name in DISTROS if name in path), None)

    def clone(self, new_path: str | Path) -> VMImage:
        """A qcow2 overlay over this image; this image must stay as it is as long as the clone lives.

        Raises:
            UsageError: there is something at ``new_path``.
        """
        target = Path(new_path).absolute()
        if target.exists():
            raise UsageError(f"{target} exists", hint="take another path")
        private_directory(target.parent)
        make_overlay(self.filepath, target)
        return VMImage(target, self.distro)

    def inject_root_ssh_key(self, ssh_pubkey: str | Path) -> None:
        """Let the holder of a key log in as root. The keys of the image, and this home's own, go on to.

        Args:
            ssh_pubkey: the public key, or the file that holds it.

        Raises:
            UsageError: not a public key.
        """
        wanted = _public_key(ssh_pubkey)
        place = "/root/.ssh/authorized_keys"
        with root_files(self.filepath, writable=True) as files:
            present = files.read(place).decode().splitlines() if files.exists(place) else []
            lines = [*present, *keys.authorized_keys(()).splitlines(), *wanted.splitlines()]
            files.make_directory("/root/.ssh", mode=0o700)
            files.write(place, ("\n".join(dict.fromkeys(lines)) + "\n").encode(), mode=0o600)

    def copy_in(self, local: str | Path, guest: str) -> None:
        """Copy a file or directory of this machine into the image, as root's.

        Args:
            guest: a directory of the image (or a path that ends in ``/``), or the file's new path.
        """
        with root_files(self.filepath, writable=True) as files:
            files.copy_in(Path(local), guest)

    def copy_out(self, guest: str, local: str | Path) -> Path:
        """Copy a file or directory of the image to this machine; returns where it is.

        Raises:
            SystemFault: there is none at ``guest``.
        """
        with root_files(self.filepath) as files:
            return files.copy_out(guest, Path(local))

    def destroy(self) -> None:
        """Delete the file."""
        try:
            self.filepath.unlink(missing_ok=True)
        except OSError as error:
            raise SystemFault(f"cannot delete {self.filepath}: {error.strerror}") from error


def _public_key(given: str | Path) -> str:
    """The text of a public key that is given itself or by its file."""
    text = str(given).strip()
    if isinstance(given, Path) or ("\n" not in text and not text.startswith(("ssh-", "ecdsa-", "sk-"))):
        try:
            text = Path(given).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the public key {given}: {error}", hint="ssh-keygen -t ed25519") from None
    if "PRIVATE KEY" in text:
        raise UsageError("that is a private key", hint="give the public one, which ends in .pub")
    if not text.startswith(("ssh-", "ecdsa-", "sk-")):
        raise UsageError("that is not a public key", hint="it starts with ssh-ed25519, ssh-rsa or ecdsa-")
    return text
