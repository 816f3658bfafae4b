"""The report tree answers as Linux's configfs-tsm does."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tdxstack.platform.software.guest import fuse
from tdxstack.platform.software.guest.attribute_fs import AttributeFileSystem
from tdxstack.platform.software.guest.fuse import Opcode
from tdxstack.platform.software.guest.tsm_report import ReportEntry, report_tree

from .kernel import Kernel, Refused

DATA = bytes(range(64))


class Quotes:
    """A quote source that counts, and fails when told to."""

    def __init__(self) -> None:
        self.made = 0
        self.error: OSError | None = None

    def __call__(self, report_data: bytes) -> bytes:
        if self.error:
            raise self.error
        self.made += 1
        return b"quote %d over " % self.made + report_data


@pytest.fixture
def quotes() -> Quotes:
    return Quotes()


@pytest.fixture
def kernel(quotes: Quotes) -> Kernel:
    return Kernel(AttributeFileSystem(report_tree(quotes)).handle)


def test_an_entry_has_the_attributes_of_a_td(kernel: Kernel) -> None:
    assert kernel.names("") == [".", ".."]
    kernel.mkdir("a")
    assert kernel.names("a") == [".", "..", "generation", "provider", "inblob", "outblob"]
    modes = {name: kernel.lookup(f"a/{name}")[1] & 0o777 for name in kernel.names("a")[2:]}
    assert modes == {"generation": 0o444, "provider": 0o444, "inblob": 0o200, "outblob": 0o444}
    assert kernel.read("a/provider") == b"tdx_guest\n"
    assert kernel.read("a/generation") == b"0\n"


def test_a_quote(kernel: Kernel, quotes: Quotes) -> None:
    kernel.mkdir("a")
    kernel.write("a/inblob", DATA)
    assert kernel.read("a/generation") == b"1\n"
    assert kernel.read("a/outblob") == b"quote 1 over " + DATA
    assert kernel.read("a/outblob") == b"quote 1 over " + DATA
    kernel.write("a/inblob", DATA[::-1])
    assert kernel.read("a/generation") == b"2\n"
    assert kernel.read("a/outblob") == b"quote 2 over " + DATA[::-1]
    assert quotes.made == 2


def test_a_write_counts_when_the_file_is_closed(kernel: Kernel) -> None:
    kernel.mkdir("a")
    opened = kernel.open("a/inblob", os.O_WRONLY)
    assert opened.write(0, DATA[:32]) == 32
    assert opened.write(32, DATA[32:]) == 32
    assert kernel.read("a/generation") == b"0\n"
    opened.close()
    assert kernel.read("a/generation") == b"1\n"
    assert kernel.read("a/outblob").endswith(DATA)


def test_duplicated_descriptors_are_one_write(kernel: Kernel) -> None:
    kernel.mkdir("a")
    opened = kernel.open("a/inblob", os.O_WRONLY)
    opened.write(0, DATA[:32])
    opened.flush()
    opened.write(32, DATA[32:])
    opened.close()
    assert kernel.read("a/generation") == b"1\n"
    assert kernel.read("a/outblob").endswith(DATA)


def test_opening_for_writing_alone_is_no_write(kernel: Kernel) -> None:
    kernel.mkdir("a")
    kernel.open("a/inblob", os.O_WRONLY | os.O_TRUNC).close()
    assert kernel.read("a/generation") == b"0\n"


def test_outblob_without_inblob(kernel: Kernel) -> None:
    kernel.mkdir("a")
    with Refused(errno.EINVAL):
        kernel.read("a/outblob")


@pytest.mark.parametrize("size", [1, 32, 63])
def test_a_short_inblob_is_taken_and_refused_on_reading(kernel: Kernel, size: int) -> None:
    kernel.mkdir("a")
    kernel.write("a/inblob", DATA[:size])
    assert kernel.read("a/generation") == b"1\n"
    with Refused(errno.EINVAL):
        kernel.read("a/outblob")


def test_a_long_inblob_is_refused_on_writing(kernel: Kernel) -> None:
    kernel.mkdir("a")
    opened = kernel.open("a/inblob", os.O_WRONLY)
    with Refused(errno.EFBIG):
        opened.write(0, DATA + b"x")
    with Refused(errno.EFBIG):
        opened.write(64, b"x")
    opened.close()
    assert kernel.read("a/generation") == b"0\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY, errno.ETIMEDOUT])
def test_a_failure_to_make_a_quote_is_the_readers(kernel: Kernel, quotes: Quotes, number: int) -> None:
    kernel.mkdir("a")
    kernel.write("a/inblob", DATA)
    quotes.error = OSError(number, "no quote")
    with Refused(number):
        kernel.read("a/outblob")
    quotes.error = None
    assert kernel.read("a/outblob") == b"quote 1 over " + DATA


def test_an_open_outblob_does_not_change(kernel: Kernel) -> None:
    kernel.mkdir("a")
    kernel.write("a/inblob", DATA)
    opened = kernel.open("a/outblob", os.O_RDONLY)
    assert opened.read(5) == b"quote"
    kernel.write("a/inblob", DATA[::-1])
    assert opened.read(1000, 5) == b" 1 over " + DATA
    assert opened.read(1000, 5000) == b""


def test_ebusy_when_the_counter_would_come_round(quotes: Quotes) -> None:
    entry = ReportEntry(quotes)
    entry.write_generation, entry.read_generation = 4, 5
    with Refused(errno.EBUSY):
        entry.begin_write()
    entry.write_generation, entry.read_generation = 2**64 - 1, 5
    entry.begin_write()
    assert entry.write_generation == 0
    entry.read_generation, entry.write_generation = 0, 2**64 - 1
    with Refused(errno.EBUSY):
        entry.begin_write()


def test_close_does_not_tell_of_ebusy(kernel: Kernel, quotes: Quotes) -> None:
    from tdxstack.platform.software.guest.tsm_report import InblobWriter

    entry = ReportEntry(quotes)
    writer = InblobWriter(entry)
    writer.write(0, DATA)
    entry.write_generation, entry.read_generation = 4, 5
    writer.flush()
    assert entry.write_generation == 4


def test_entries_are_apart_and_can_be_removed(kernel: Kernel) -> None:
    kernel.mkdir("a")
    kernel.mkdir("b")
    kernel.write("a/inblob", DATA)
    assert kernel.read("b/generation") == b"0\n"
    with Refused(errno.EEXIST):
        kernel.mkdir("a")
    opened = kernel.open("a/generation", os.O_RDONLY)
    writer = kernel.open("a/inblob", os.O_WRONLY)
    kernel.rmdir("a")
    assert kernel.names("") == [".", "..", "b"]
    with Refused(errno.ENOENT):
        kernel.lookup("a")
    with Refused(errno.ENOENT):
        opened.read(10)
    with Refused(errno.ENOENT):
        writer.write(0, DATA)
    writer.close()
    with Refused(errno.ENOENT):
        kernel.rmdir("a")


def test_nothing_else_can_be_made_or_removed(kernel: Kernel) -> None:
    kernel.mkdir("a")
    entry = kernel.lookup("a")[0]
    with Refused(errno.EPERM):
        kernel.mkdir("a/b")
    with Refused(errno.EPERM):
        kernel.rmdir("a/inblob")
    for opcode, number in (
        (Opcode.CREATE, errno.EACCES),
        (Opcode.MKNOD, errno.EPERM),
        (Opcode.SYMLINK, errno.EPERM),
        (Opcode.LINK, errno.EPERM),
        (Opcode.UNLINK, errno.EPERM),
        (Opcode.RENAME, errno.EPERM),
        (Opcode.RENAME2, errno.EPERM),
        (Opcode.FSYNC, errno.EINVAL),
        (Opcode.IOCTL, errno.ENOTTY),
        (99, errno.ENOSYS),
    ):
        with Refused(number):
            kernel.ask(opcode, entry, bytes(32) + b"x\0")


@pytest.mark.parametrize(
    ("name", "flags"),
    [("inblob", os.O_RDONLY), ("inblob", os.O_RDWR), ("outblob", os.O_WRONLY), ("provider", os.O_RDWR)],
)
def test_an_access_that_the_mode_grants_to_nobody_is_refused_to_root_also(
    kernel: Kernel, name: str, flags: int
) -> None:
    kernel.mkdir("a")
    with Refused(errno.EACCES):
        kernel.open(f"a/{name}", flags)


def test_chmod_and_chown_hold(kernel: Kernel) -> None:
    kernel.mkdir("a")
    node, _, _ = kernel.lookup("a/outblob")
    values = [0] * 8
    values[3], values[5], values[6] = 0o440, 1000, 1001
    kernel.ask(Opcode.SETATTR, node, struct.pack("<II7Q8I", 0b1111, 0, *[0] * 7, *values))
    answer = kernel.ask(Opcode.GETATTR, node, bytes(16))
    assert struct.unpack_from("<IIII", answer, 16 + 60) == (0o100440, 1, 1000, 1001)


def test_the_root_is_the_node_that_the_kernel_expects(kernel: Kernel) -> None:
    answer = kernel.ask(Opcode.GETATTR, fuse.ROOT, bytes(16))
    assert struct.unpack_from("<I", answer, 16 + 60)[0] == 0o040755
    with Refused(errno.ENOENT):
        kernel.ask(Opcode.GETATTR, 4711, bytes(16))
    with Refused(errno.EISDIR):
        kernel.ask(Opcode.OPEN, fuse.ROOT, bytes(8))
