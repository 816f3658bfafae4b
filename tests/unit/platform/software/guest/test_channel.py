"""The guest's end of the channel against a host's end behind a terminal in raw mode (a byte stream with a path)."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tdxstack.errors import PlatformMissing, SystemFault, WireError
from tdxstack.platform.software.guest.channel import CallFailed, Channel, QuoteFailed
from tdxstack.wire import channel
from tdxstack.wire.channel import Frame, FrameReader, Leaf

QUOTE = b"quote" * 200


class Host:
    """Answers requests as the module model does; ``twist`` may change what goes out for the n-th request."""

    def __init__(self) -> None:
        self._descriptor, guest = os.openpty()
        tty.setraw(guest)
        self.path = Path(os.ttyname(guest))
        self._guest = guest
        self.requests: list[Frame] = []
        self.twist: Callable[[int, bytes], bytes] = lambda number, answer: answer
        self.quote_status = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._guest)
        self._thread.join(2)
        os.close(self._descriptor)

    def _serve(self) -> None:
        reader = FrameReader()
        while True:
            try:
                data = os.read(self._descriptor, 4096)
            except OSError:
                return
            for frame in reader.feed(data):
                self.requests.append(frame)
                self.send(self.twist(len(self.requests), self._answer(frame).to_bytes()))

    def _answer(self, frame: Frame) -> Frame:
        if frame.value == Leaf.MR_REPORT:
            return channel.response(0, bytes(128) + frame.payload + bytes(832))
        if frame.value == Leaf.MR_RTMR_EXTEND:
            return channel.response(0 if frame.payload[0] < 4 else 0xC000010000000001)
        if frame.value == Leaf.VP_VMCALL:
            head = struct.pack("<QQII", 1, self.quote_status, 1024, 0 if self.quote_status else len(QUOTE))
            return channel.response(0, head + QUOTE.ljust(2000, b"\0"))
        return channel.response(0, b"events")


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture
def guest(host: Host) -> Iterator[Channel]:
    guest = Channel(host.path, seconds=3)
    yield guest
    guest.close()


def test_calls(host: Host, guest: Channel) -> None:
    assert guest.report(b"\x07" * 64)[128:192] == b"\x07" * 64
    assert guest.quote(bytes(1024)) == QUOTE
    assert guest.cc_events() == b"events"
    guest.extend(3, b"\x01" * 48)
    assert host.requests[-1].payload == struct.pack("<Q", 3) + b"\x01" * 48
    assert [frame.value for frame in host.requests] == [4, 4, 0, Leaf.SOFTWARE_CC_EVENTS, 2]


def test_the_modules_error(guest: Channel) -> None:
    with pytest.raises(CallFailed, match="0xc000010000000001") as caught:
        guest.extend(9, bytes(48))
    assert caught.value.status == 0xC000010000000001
    assert guest.cc_events() == b"events"


@pytest.mark.parametrize("status", [0x8000000000000001, 0xFFFFFFFFFFFFFFFF])
def test_no_quote(host: Host, guest: Channel, status: int) -> None:
    host.quote_status = status
    with pytest.raises(QuoteFailed) as caught:
        guest.quote(bytes(1024))
    assert caught.value.status == status


def test_answers_to_those_before_are_thrown_away(host: Host, guest: Channel) -> None:
    stale = channel.response(0, b"stale").to_bytes() + channel.response(0, bytes(1024)).to_bytes()
    host.send(stale)
    assert guest.cc_events() == b"events"


def test_half_an_answer_to_those_before_is_got_over(host: Host, guest: Channel) -> None:
    host.send(b"\xff\xff\xff\xff half a frame")
    assert guest.cc_events() == b"events"


def test_a_call_that_ran_out_of_time_does_not_disturb_the_next(host: Host) -> None:
    guest = Channel(host.path, seconds=0.5)
    late: list[bytes] = []

    def hold_back(number: int, answer: bytes) -> bytes:
        if number == 2:
            late.append(answer)
            return b""
        return b"".join([*late, answer]) if number == 3 else answer

    host.twist = hold_back
    with pytest.raises(SystemFault, match="no answer within"):
        guest.quote(bytes(1024))
    assert guest.cc_events() == b"events"
    guest.close()


def test_a_lost_frame_boundary_is_an_error_and_mends(host: Host, guest: Channel) -> None:
    host.twist = lambda number, answer: b"\0\0\0\0" if number == 2 else answer
    with pytest.raises(WireError, match="TDX_CHANNEL_FRAME"):
        guest.cc_events()
    assert guest.cc_events() == b"events"


def test_a_shared_buffer_that_lies_about_its_length(host: Host, guest: Channel) -> None:
    body = struct.pack("<QQII", 1, 0, 1024, 5000) + bytes(100)
    host.twist = lambda number, answer: channel.response(0, body).to_bytes() if number == 2 else answer
    with pytest.raises(WireError, match="out_len"):
        guest.quote(bytes(1024))


def test_no_port(tmp_path: Path) -> None:
    with pytest.raises(PlatformMissing, match="TD channel"):
        Channel(tmp_path / "none").cc_events()


def test_many_threads_share_one_channel(guest: Channel) -> None:
    seen: list[bool] = []

    def ask(number: int) -> None:
        data = bytes([number]) * 64
        seen.extend(guest.report(data)[128:192] == data for _ in range(10))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 40
