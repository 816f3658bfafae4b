"""The directory of a software platform: what is in it, written and read.

::

    platform.json     name, creation, SVNs (tcb), what its collateral calls current (reference), CRL number
    *.crt             root, platform-ca, pck, tcb-signing (PEM)
    *.key             their keys, and attestation (PEM, mode 0600)
    report.key        32 bytes, by which TDREPORTs are MACed (mode 0600)
    collateral.json   the present collateral
    in-use/           one lock file per TD that runs on the platform
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.errors import LockHeld, PlatformMissing, StateError, SystemFault, UsageError
from tdxstack.platform.software import pki as keys
from tdxstack.platform.software.collateral import Collateral, make_collateral
from tdxstack.platform.software.pki import Identity, Pki
from tdxstack.platform.software.sgx_extension import SgxExtension
from tdxstack.platform.software.tcb import FMSPC, PCEID, PlatformTcb, TcbReference
from tdxstack.system import files

SCHEMA = "tdxstack/platform/v1"
STATE_FILE = "platform.json"
REPORT_KEY_SIZE = 32
_LOCK_ATTEMPTS, _LOCK_PAUSE = 5, 0.02
_IDENTITIES = {"root": "root", "platform_ca": "platform-ca", "pck": "pck", "tcb_signing": "tcb-signing"}


@dataclass(frozen=True, slots=True)
class State:
    """platform.json. ``ppid`` and ``platform_instance_id`` have 16 bytes; ``crl_number`` counts CRL issues.

    ``quote_version`` is 4 or 5: what the platform's QGS makes.
    """

    name: str
    created: str
    ppid: bytes
    platform_instance_id: bytes
    tcb: PlatformTcb
    reference: TcbReference
    crl_number: int = 0
    quote_version: int = 4

    @classmethod
    def new(cls, name: str, tcb: PlatformTcb, reference: TcbReference, now: datetime) -> State:
        """A new platform. Its ids begin with ``software``."""
        ids = [b"software" + secrets.token_bytes(8) for _ in range(2)]
        return cls(name, now.isoformat(timespec="seconds"), ids[0], ids[1], tcb, reference)

    @property
    def extension(self) -> SgxExtension:
        """What the platform's PCK certificate says."""
        return SgxExtension(
            ppid=self.ppid,
            components=self.tcb.components,
            pcesvn=self.tcb.pcesvn,
            cpusvn=self.tcb.cpusvn,
            pceid=PCEID,
            fmspc=FMSPC,
            platform_instance_id=self.platform_instance_id,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "kind": "software",
            "created": self.created,
            "ppid": self.ppid.hex(),
            "platform_instance_id": self.platform_instance_id.hex(),
            "tcb": self.tcb.to_json(),
            "reference": self.reference.to_json(),
            "crl_number": self.crl_number,
            "quote_version": self.quote_version,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        if value.get("schema") != SCHEMA:
            raise ValueError(f"schema {value.get('schema')!r}, not {SCHEMA}")
        try:
            return cls(
                name=str(value["name"]),
                created=str(value["created"]),
                ppid=bytes.fromhex(value["ppid"]),
                platform_instance_id=bytes.fromhex(value["platform_instance_id"]),
                tcb=PlatformTcb.from_json(value["tcb"]),
                reference=TcbReference.from_json(value["reference"]),
                crl_number=int(value["crl_number"]),
                quote_version=int(value["quote_version"]),
            )
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError(str(error)) from None


class Store:
    """One platform's directory. Reads are of whole files; writes are atomic and under the directory's lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, directory: Path, tcb: PlatformTcb, reference: TcbReference, now: datetime) -> Store:
        """Make a platform whole in a directory beside it, then move it into place.

        Raises:
            StateError: the directory exists.
            SystemFault: it cannot be written; nothing is left behind.
        """
        if directory.exists():
            raise _exists(directory.name)
        draft = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
        try:
            files.private_directory(draft)
            _fill(cls(draft), State.new(directory.name, tcb, reference, now), now)
            draft.rename(directory)
        except OSError as error:
            if directory.exists():
                raise _exists(directory.name) from None
            raise SystemFault(f"cannot make {directory}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(directory)

    def state(self) -> State:
        """Read platform.json.

        Raises:
            PlatformMissing: it is not there or damaged.
        """
        path = self.directory / STATE_FILE
        try:
            return State.from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from None

    def write_state(self, state: State) -> None:
        files.write_atomic(self.directory / STATE_FILE, json.dumps(state.to_json(), indent=1) + "\n")

    def pki(self) -> Pki:
        """Read certificates and keys.

        Raises:
            PlatformMissing: one is missing, unreadable or damaged.
        """
        return Pki(**{role: self._identity(stem) for role, stem in _IDENTITIES.items()})

    def write_identity(self, role: str, identity: Identity) -> None:
        """Write certificate and key of a role (a field of :class:`Pki`)."""
        stem = _IDENTITIES[role]
        files.write_atomic(self.directory / f"{stem}.key", keys.key_pem(identity.key), mode=0o600)
        files.write_atomic(self.directory / f"{stem}.crt", identity.pem)

    def attestation_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the TD-QE's key."""
        path = self.directory / "attestation.key"
        try:
            return keys.load_key(path.read_bytes())
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from None

    def report_key(self) -> bytes:
        """Read the key of TDREPORTs' MACs, 32 bytes."""
        path = self.directory / "report.key"
        try:
            key = path.read_bytes()
            if len(key) != REPORT_KEY_SIZE:
                raise ValueError(f"{len(key)} bytes, not {REPORT_KEY_SIZE}")
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from None
        return key

    def collateral(self) -> Collateral:
        """Read the collateral as it is, stale or not."""
        path = self.directory / "collateral.json"
        try:
            return Collateral.from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(path, error) from None

    def renew_collateral(self, now: datetime) -> Collateral:
        """Make new collateral and write it; CRL numbers grow. Call with the lock held."""
        state = self.state()
        state = replace(state, crl_number=state.crl_number + 1)
        fresh = make_collateral(self.pki(), state.reference, now, state.crl_number)
        self.write_state(state)
        files.write_atomic(self.directory / "collateral.json", json.dumps(fresh.to_json(), indent=1) + "\n")
        return fresh

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for a change."""
        with files.locked(self.directory / ".lock"):
            yield

    @contextmanager
    def used_by(self, td: str) -> Iterator[None]:
        """Mark the platform as in use by a TD for as long as the context (or the process) lives.

        Raises:
            LockHeld: a TD of this name uses it already.
        """
        mark = files.private_directory(self.directory / "in-use") / td
        with ExitStack() as held:
            # users() takes the lock for a moment, to see whether it is free.
            for attempt in range(_LOCK_ATTEMPTS):
                try:
                    held.enter_context(files.locked(mark, wait=False, hint=f"tdxctl td stop {td}"))
                    break
                except LockHeld:
                    if attempt == _LOCK_ATTEMPTS - 1:
                        raise
                    time.sleep(_LOCK_PAUSE)
            yield

    def users(self) -> list[str]:
        """Names of the TDs that run on the platform now."""
        found: list[str] = []
        for path in sorted((self.directory / "in-use").glob("*")):
            try:
                with files.locked(path, wait=False):
                    pass
            except LockHeld:
                found.append(path.name)
        return found

    def delete(self) -> None:
        """Remove the platform with its keys.

        Raises:
            StateError: a TD runs on it.
        """
        if users := self.users():
            name = self.directory.name
            hint = "tdxctl td stop " + users[0]
            raise StateError(
                f"platform {name}", "delete it", "used by " + ", ".join(users), "no running TD", hint=hint
            )
        grave = self.directory.with_name(f".{self.directory.name}.{secrets.token_hex(4)}")
        self.directory.rename(grave)
        shutil.rmtree(grave)

    def _identity(self, stem: str) -> Identity:
        certificate, key = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        try:
            return keys.load_identity(certificate.read_bytes(), key.read_bytes())
        except (OSError, ValueError) as error:
            raise self._damaged(certificate, error) from None

    def _damaged(self, path: Path, error: Exception) -> PlatformMissing:
        name = self.directory.name
        reason = getattr(error, "strerror", None) or error
        return PlatformMissing(
            f"software platform {name!r} is damaged: {path.name}: {reason}",
            hint=f"tdxctl platform delete {name} --yes && tdxctl platform create {name}",
        )


def _exists(name: str) -> StateError:
    return StateError(
        f"platform {name}", "create it", "existing", "another name", hint=f"tdxctl platform show {name}"
    )


def _fill(store: Store, state: State, now: datetime) -> None:
    pki = keys.make_pki(state.name, state.extension, now)
    for role in _IDENTITIES:
        store.write_identity(role, getattr(pki, role))
    attestation = ec.generate_private_key(ec.SECP256R1())
    files.write_atomic(store.directory / "attestation.key", keys.key_pem(attestation), mode=0o600)
    files.write_atomic(store.directory / "report.key", secrets.token_bytes(REPORT_KEY_SIZE), mode=0o600)
    store.write_state(state)
    store.renew_collateral(now)


def utc_now() -> datetime:
    """The present, with a time zone."""
    return datetime.now(UTC)
