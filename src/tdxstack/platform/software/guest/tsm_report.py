"""The configfs tree of attestation reports, ``/sys/kernel/config/tsm/report``, as a TD's kernel offers it.

Source: Documentation/ABI/testing/configfs-tsm-report and the behaviour of Linux 6.12's tsm and tdx_guest modules. An
entry is made by mkdir and has four attributes: ``inblob`` (write-only, at most 64 bytes), ``outblob``, ``provider``,
``generation``. A write takes effect when the file is closed. ``outblob`` makes a quote when first read after a write
and keeps it until the next; ``inblob`` of another size than 64 bytes is found out then (EINVAL).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from tdxstack.platform.software.guest.attribute_fs import Attribute, Directory, refuse

PROVIDER = "tdx_guest"
INBLOB_MAX = 64
REPORT_DATA_SIZE = 64
#: Size that configfs shows for a text attribute.
TEXT_SIZE = 4096
_GENERATIONS = 1 << 64

#: REPORTDATA (64 bytes) -> quote. Raises OSError for what the reader of ``outblob`` is to see.
QuoteSource = Callable[[bytes], bytes]


class ReportEntry:
    """The state of one report: what was written, what was made of it, and how often was written."""

    def __init__(self, quotes: QuoteSource) -> None:
        self._quotes = quotes
        self._inblob = b""
        self._outblob: bytes | None = None
        self.write_generation = 0
        self.read_generation = 0
        self.dropped = False

    def begin_write(self) -> None:
        """Count a write.

        Raises:
            OSError: EBUSY if so many writes came without a read that the counter would meet the last read's.
        """
        self.require_alive()
        if self.write_generation == (self.read_generation - 1) % _GENERATIONS:
            raise refuse(errno.EBUSY)
        self.write_generation = (self.write_generation + 1) % _GENERATIONS

    def set_inblob(self, data: bytes) -> None:
        """Take over what was written; the quote made before is void."""
        self.require_alive()
        self._inblob = data
        self._outblob = None

    def outblob(self) -> bytes:
        """The quote over ``inblob``.

        Raises:
            OSError: EINVAL without an ``inblob``, or with one that is not 64 bytes; else what making the quote gave.
        """
        self.require_alive()
        if not self._inblob:
            raise refuse(errno.EINVAL)
        if self._outblob is None or self.read_generation != self.write_generation:
            self._outblob = None
            if len(self._inblob) != REPORT_DATA_SIZE:
                raise refuse(errno.EINVAL)
            self._outblob = self._quotes(self._inblob)
            self.read_generation = self.write_generation
        return self._outblob

    def generation(self) -> bytes:
        self.require_alive()
        return b"%d\n" % self.write_generation

    def provider(self) -> bytes:
        self.require_alive()
        return PROVIDER.encode() + b"\n"

    def require_alive(self) -> None:
        """Raises OSError ENOENT once the entry's directory was removed: files may be open longer than that."""
        if self.dropped:
            raise refuse(errno.ENOENT)


class Snapshot:
    """An open attribute for reading: its content is made at the first read and stays until close."""

    def __init__(self, source: Callable[[], bytes]) -> None:
        self._source = source
        self._content: bytes | None = None

    def read(self, offset: int, size: int) -> bytes:
        if self._content is None:
            self._content = self._source()
        return self._content[offset : offset + size]

    def write(self, offset: int, data: bytes) -> int:
        raise refuse(errno.EINVAL)

    def flush(self) -> None:
        """Nothing was written."""


class InblobWriter:
    """An open ``inblob``. However often its descriptor was duplicated, it counts as one write."""

    def __init__(self, entry: ReportEntry) -> None:
        self._entry = entry
        self._data = bytearray()
        self._counted = self._dirty = False

    def read(self, offset: int, size: int) -> bytes:
        raise refuse(errno.EINVAL)

    def write(self, offset: int, data: bytes) -> int:
        """Keep bytes until close.

        Raises:
            OSError: EFBIG beyond 64 bytes; ENOENT if the entry is gone.
        """
        self._entry.require_alive()
        end = offset + len(data)
        if end > INBLOB_MAX:
            raise refuse(errno.EFBIG)
        self._data.extend(bytes(max(0, end - len(self._data))))
        self._data[offset:end] = data
        self._dirty = True
        return len(data)

    def flush(self) -> None:
        """Hand over what was written. As in configfs, close(2) does not tell whether that was refused."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            if not self._counted:
                self._entry.begin_write()
                self._counted = True
            self._entry.set_inblob(bytes(self._data))
        except OSError:
            return


class _EntryDirectory(Directory):
    """The directory of one entry."""

    def __init__(self, entry: ReportEntry) -> None:
        super().__init__(
            {
                "generation": Attribute(0o444, TEXT_SIZE, lambda: Snapshot(entry.generation)),
                "provider": Attribute(0o444, TEXT_SIZE, lambda: Snapshot(entry.provider)),
                "inblob": Attribute(0o200, 0, lambda: InblobWriter(entry)),
                "outblob": Attribute(0o444, 0, lambda: Snapshot(entry.outblob)),
            }
        )
        self.entry = entry


def report_tree(quotes: QuoteSource) -> Directory:
    """The root of the tree: mkdir in it makes entries, rmdir removes them."""

    def make(_name: str) -> Directory:
        return _EntryDirectory(ReportEntry(quotes))

    def drop(directory: Directory) -> None:
        if isinstance(directory, _EntryDirectory):
            directory.entry.dropped = True

    return Directory(make=make, drop=drop)
