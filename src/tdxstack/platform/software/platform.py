"""A software platform: a directory with keys, SVNs and collateral, that makes TD sessions and quotes."""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing, StateError, UsageError
from tdxstack.platform.base import HARDWARE, PlatformKind, TdParameters, TdSession, check_name
from tdxstack.platform.software.module import TdxModule
from tdxstack.platform.software.pki import reissue_pck
from tdxstack.platform.software.quoting import QuotingEnclave
from tdxstack.platform.software.store import STATE_FILE, Store, utc_now
from tdxstack.platform.software.tcb import FMSPC, PCEID, ModuleVersion, PlatformTcb, TcbReference
from tdxstack.system import paths


class SoftwarePlatform:
    """A software platform that exists on this machine. It protects nothing; all that it makes says ``software``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def names() -> list[str]:
        """Names of the software platforms of this machine, sorted."""
        found = (entry.parent.name for entry in paths.platforms().glob(f"*/{STATE_FILE}"))
        return sorted(name for name in found if not name.startswith("."))

    @classmethod
    def open(cls, name: str) -> SoftwarePlatform:
        """Open a platform by name.

        Raises:
            PlatformMissing: there is none of this name, or it is damaged.
        """
        directory = paths.platforms() / check_name(name)
        if not (directory / STATE_FILE).is_file():
            raise PlatformMissing(f"no platform named {name!r}", hint=f"tdxctl platform create {name}")
        platform = cls(Store(directory))
        platform._store.state()
        return platform

    @classmethod
    def create(
        cls,
        name: str,
        tcb: PlatformTcb | None = None,
        reference: TcbReference | None = None,
        now: datetime | None = None,
    ) -> SoftwarePlatform:
        """Make a platform.

        Args:
            tcb: its SVNs; by default the newest there are.
            reference: what its collateral calls current; give older SVNs in ``tcb`` for an OutOfDate platform.
            now: the time of making; by default the present.

        Raises:
            StateError: there is one of this name.
        """
        if check_name(name) == HARDWARE:
            raise UsageError(f"the name {HARDWARE!r} means this machine's TDX hardware", hint="choose another name")
        directory = paths.platforms() / name
        return cls(Store.create(directory, tcb or PlatformTcb(), reference or TcbReference(), now or utc_now()))

    @classmethod
    def open_or_create(cls, name: str) -> SoftwarePlatform:
        """Open a platform, making it first if need be."""
        try:
            return cls.open(name)
        except PlatformMissing:
            if (paths.platforms() / name).exists():
                raise
        if paths.looking():
            # A dry run leaves nothing: one for this process alone.
            place = Path(tempfile.mkdtemp(prefix="tdxstack-"))
            atexit.register(shutil.rmtree, place, ignore_errors=True)
            return cls(Store.create(place / name, PlatformTcb(), TcbReference(), utc_now()))
        try:
            return cls.create(name)
        except StateError:
            return cls.open(name)

    @property
    def name(self) -> str:
        return self._store.directory.name

    @property
    def kind(self) -> PlatformKind:
        return PlatformKind.SOFTWARE

    @property
    def directory(self) -> Path:
        return self._store.directory

    def tcb(self) -> PlatformTcb:
        """The platform's SVNs of this moment."""
        return self._store.state().tcb

    def quote_version(self) -> int:
        """Version of the quotes that the platform's QGS makes: 4 or 5."""
        return self._store.state().quote_version

    def set_quote_version(self, version: int) -> None:
        """Let the QGS make quotes of version 4 or 5.

        Raises:
            UsageError: another version.
        """
        if version not in (4, 5):
            raise UsageError(f"quotes of version {version} cannot be made", hint="4 or 5")
        with self._store.locked():
            self._store.write_state(dataclasses.replace(self._store.state(), quote_version=version))

    def describe(self) -> dict[str, Any]:
        state = self._store.state()
        collateral = self._store.collateral()
        tcb = state.tcb
        return {
            "name": state.name,
            "kind": str(self.kind),
            "directory": str(self.directory),
            "created": state.created,
            "fmspc": FMSPC.hex(),
            "pceid": PCEID.hex(),
            "tdx_module": str(tcb.module),
            "tee_tcb_svn": tcb.tee_tcb_svn.hex(),
            "cpusvn": tcb.cpusvn.hex(),
            "pcesvn": tcb.pcesvn,
            "tdqe_isvsvn": tcb.qe_svn,
            "quote_version": state.quote_version,
            "behind_its_collateral": tcb != state.reference.current,
            "collateral_next_update": collateral.next_update.isoformat().replace("+00:00", "Z"),
            "tcb_evaluation_data_number": state.reference.evaluation,
            "root": str(self.directory / "root.crt"),
            "tds": self._store.users(),
        }

    def collateral(self) -> dict[str, str]:
        """Collateral of the present moment; made anew first if less than a week of it is left."""
        return self.refresh(only_if_stale=True)

    def refresh(self, now: datetime | None = None, *, only_if_stale: bool = False) -> dict[str, str]:
        """Make new collateral."""
        moment = now or utc_now()
        current = self._store.collateral()
        if only_if_stale and not current.is_stale(moment):
            return current.to_json()
        with self._store.locked():
            return self._store.renew_collateral(moment).to_json()

    def trust_root(self) -> bytes:
        return self._store.pki().root_der

    def pck_chain(self) -> str:
        """PEM: the platform's PCK certificate, the platform CA, the root; what its quotes carry."""
        return self._store.pki().pck_chain

    def module(self) -> TdxModule:
        """The platform's TDX module. Its SVNs are asked of the directory at each use: it can be updated live."""
        return TdxModule(self._store.report_key(), self.tcb)

    def quoting_enclave(self) -> QuotingEnclave:
        """The platform's TD-QE."""
        return QuotingEnclave(self._store.pki(), self._store.attestation_key(), self._store.report_key(), self.tcb)

    def update_tcb(self, tcb: PlatformTcb) -> None:
        """Give the platform other SVNs, as an update of BIOS, microcode or PCE does.

        The PCK certificate is issued anew where it states them. Running TDs keep TEE_TCB_SVN and show the new module
        in TEE_TCB_SVN2.
        """
        with self._store.locked():
            state = dataclasses.replace(self._store.state(), tcb=tcb)
            old = self._store.state().tcb
            if (old.components, old.pcesvn) != (tcb.components, tcb.pcesvn):
                identity = reissue_pck(self._store.pki(), self.name, state.extension, utc_now())
                self._store.write_identity("pck", identity)
            self._store.write_state(state)

    def check_module(self, module: ModuleVersion) -> None:
        """Whether a TDX module may take the place of the present one while TDs run.

        Raises:
            StateError: its SVN is lower.
        """
        present = self.tcb().module
        if (module.major_svn, module.svn) < (present.major_svn, present.svn):
            needed = f"a module with SVN {present.svn} or higher"
            raise StateError(f"platform {self.name}", f"load TDX module {module}", f"on {present}", needed)

    def update_module(self, module: ModuleVersion) -> None:
        """Replace the TDX module while TDs run (TD-preserving update).

        Raises:
            StateError: the module's SVN would go down.
        """
        self.check_module(module)
        self.update_tcb(dataclasses.replace(self.tcb(), module=module))

    def set_reference(self, reference: TcbReference) -> None:
        """Let the collateral call other SVNs current, as a TCB recovery does; the collateral is made anew."""
        with self._store.locked():
            self._store.write_state(dataclasses.replace(self._store.state(), reference=reference))
            self._store.renew_collateral(utc_now())

    def used_by(self, td: str) -> AbstractContextManager[None]:
        """Mark the platform as in use by a running TD; see :meth:`Store.used_by`."""
        return self._store.used_by(td)

    def delete(self) -> None:
        """Remove the platform with its keys. Quotes that it made can no longer be given collateral.

        Raises:
            StateError: a TD runs on it.
        """
        self._store.delete()

    def session(self, name: str, parameters: TdParameters, firmware: bytes, run_dir: Path) -> TdSession:
        from tdxstack.platform.software.session import SoftwareTdSession

        return SoftwareTdSession(self, name, parameters, firmware, run_dir)
