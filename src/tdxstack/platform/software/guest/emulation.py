"""Brings up what a software TD's guest offers: device, report tree, event log and measurement registers.

Each part stands or falls for itself: a kernel without CUSE still has its quotes by configfs. What failed is kept by
name and told by ``tdxctl guest check``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tdxstack.errors import SystemFault, TdxStackError
from tdxstack.platform.software.guest import ccel, fuse, misc_class, modules, mounts
from tdxstack.platform.software.guest.attribute_fs import AttributeFileSystem, Directory
from tdxstack.platform.software.guest.channel import GET_QUOTE_IN_FLIGHT, CallFailed, Channel, QuoteFailed
from tdxstack.platform.software.guest.cuse import TdxGuestDevice
from tdxstack.platform.software.guest.measurements import measurements_tree
from tdxstack.platform.software.guest.tsm_report import report_tree

REPORTS = Path("/sys/kernel/config/tsm/report")
CONFIGFS = Path("/sys/kernel/config")
SECURITYFS = Path("/sys/kernel/security")
_OPERAND_INVALID = 0xC0000100
_OPERAND_BUSY = 0x80000200


class Emulation:
    """The parts of one guest. ``faults`` has the message of each part that could not be brought up."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._undo: list[Callable[[], object]] = []
        self.faults: dict[str, str] = {}

    def start(self) -> None:
        """Bring up all parts; never raises."""
        parts: dict[str, Callable[[], None]] = {
            "device": self._start_device,
            "report": self._start_reports,
            "ccel": self._start_ccel,
            "measurements": self._start_measurements,
        }
        for name, start in parts.items():
            try:
                start()
            except TdxStackError as error:
                self.faults[name] = error.message + (f" ({error.hint})" if error.hint else "")
            except OSError as error:
                self.faults[name] = str(error)

    def stop(self) -> None:
        """Take away everything again."""
        while self._undo:
            with contextlib.suppress(OSError):
                self._undo.pop()()
        self._channel.close()

    def _start_device(self) -> None:
        modules.load("cuse")
        try:
            descriptor = os.open("/dev/cuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFault(f"/dev/cuse: {error.strerror}", hint="modprobe cuse") from error
        device = TdxGuestDevice(self.report)
        # The first request, CUSE_INIT, makes the device: when it is answered, /dev/tdx_guest is there.
        request = fuse.Request.from_bytes(os.read(descriptor, fuse.BUFFER_SIZE))
        os.write(descriptor, fuse.respond(request, device.handle) or b"")
        self._serve("tdx_guest", descriptor, device.handle)

    def _start_reports(self) -> None:
        # Newer kernels first: there ``tsm`` is another module.
        modules.load("tsm_report", "tsm")
        require_configfs()
        mounts.detach_own(REPORTS)
        if not REPORTS.is_dir():
            raise SystemFault(f"{REPORTS} is not there, and only the kernel's tsm module can make it")
        self._serve_tree("tsm-report", REPORTS, report_tree(self.quote))

    def _start_ccel(self) -> None:
        mounts.require_mounted(SECURITYFS, "securityfs")
        area = ccel.cc_log(ccel.read_tpm_log(), self._channel.cc_events())
        mounts.detach_own(ccel.TABLES)
        ccel.install(area)
        self._undo.append(lambda: mounts.detach(ccel.TABLES))

    def _start_measurements(self) -> None:
        misc_class.remove()
        uevents = misc_class.uevent_socket()
        misc = misc_class.MiscClass()
        misc.install()
        self._undo.append(misc_class.remove)
        _thread("uevents", lambda: misc.follow(uevents))
        self._serve_tree("tsm-mr", misc.measurements, measurements_tree(lambda: self.report(bytes(64)), self.extend))

    def _serve_tree(self, name: str, target: Path, root: Directory) -> None:
        descriptor = mounts.mount_fuse(target, name)
        self._undo.append(lambda: mounts.detach(target))
        self._serve(name, descriptor, AttributeFileSystem(root).handle)

    def _serve(self, name: str, descriptor: int, handler: fuse.Handler) -> None:
        self._undo.insert(0, lambda: os.close(descriptor))
        _thread(name, lambda: fuse.serve(descriptor, handler))

    def report(self, report_data: bytes) -> bytes:
        """TDREPORT for a client. Raises OSError as the kernel's driver does."""
        with _as_errno():
            return self._channel.report(report_data)

    def quote(self, report_data: bytes) -> bytes:
        """A quote for a client. Raises OSError as the kernel's driver does."""
        with _as_errno():
            return self._channel.quote(self._channel.report(report_data))

    def extend(self, index: int, digest: bytes) -> None:
        """Extend an RTMR for a client. Raises OSError as the kernel's driver does."""
        with _as_errno():
            self._channel.extend(index, digest)


def require_configfs() -> None:
    """configfs, mounted.

    Raises:
        SystemFault: this kernel has none.
    """
    if not CONFIGFS.is_dir():
        raise SystemFault(f"{CONFIGFS} is not there", hint="modprobe configfs")
    mounts.require_mounted(CONFIGFS, "configfs")


def _thread(name: str, target: Callable[[], object]) -> None:
    def run() -> None:
        try:
            target()
        except Exception:  # noqa: BLE001
            # A server that died would leave its clients waiting for ever: end all, the service is started anew.
            import traceback

            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


@contextlib.contextmanager
def _as_errno() -> Iterator[None]:
    """Turn the channel's errors into what the kernel's driver would have returned."""
    try:
        yield
    except CallFailed as error:
        known = {_OPERAND_INVALID: errno.ENXIO, _OPERAND_BUSY: errno.EBUSY}
        number = known.get(error.status >> 32, errno.EIO)
        raise OSError(number, error.message) from error
    except QuoteFailed as error:
        number = errno.ETIMEDOUT if error.status == GET_QUOTE_IN_FLIGHT else errno.EIO
        raise OSError(number, error.message) from error
    except TdxStackError as error:
        raise OSError(errno.EIO, error.message) from error
