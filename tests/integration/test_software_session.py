"""A real firmware boots behind the tap: what it measures into its TPM is what the TD's RTMRs hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import WireError
from tdxstack.measure.launch import launch_events
from tdxstack.measure.mrtd import mrtd
from tdxstack.measure.replay import replay
from tdxstack.measure.rtmr import fold
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.session import SoftwareTdSession
from tdxstack.system import process
from tdxstack.wire.tcg import Algorithm, EventLog, cc_log_of_tpm_log
from tdxstack.wire.tpm2 import Extend

pytestmark = pytest.mark.integration

FIRMWARE = Path(os.environ.get("TDXSTACK_TEST_FIRMWARE", "/usr/share/ovmf/OVMF.fd"))
MEMORY = 256 << 20
#: PCR 4 of a boot: that a boot option is called, the separator, and the application (the firmware's own here).
PCR4_EVENTS = 3
BOOT_SECONDS = 120
REGISTER_OF_PCR = {1: 0, 7: 0} | dict.fromkeys(range(2, 7), 1) | dict.fromkeys(range(8, 16), 2)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    if not FIRMWARE.is_file():
        pytest.skip(f"no firmware at {FIRMWARE} (set TDXSTACK_TEST_FIRMWARE)")


@dataclass
class Boot:
    """A session, its QEMU, and every extend that went through the tap."""

    session: SoftwareTdSession
    qemu: subprocess.Popen[bytes]
    extends: list[Extend] = field(default_factory=list)

    async def until_booted(self, count: int = 1) -> None:
        """Wait until the firmware has called its own setup ``count`` times: the last that it measures."""
        async with asyncio.timeout(BOOT_SECONDS):
            while sum(item.pcr == 4 for item in self.extends) < PCR4_EVENTS * count:
                assert self.qemu.poll() is None, "QEMU ended"
                await asyncio.sleep(0.1)

    async def pcr(self, number: int) -> bytes:
        """The TPM's own SHA-384 PCR."""
        selection = struct.pack(">IHB", 1, Algorithm.SHA384, 3) + (1 << number).to_bytes(3, "little")
        command = struct.pack(">HII", 0x8001, 10 + len(selection), 0x17E) + selection
        assert self.session._tap is not None
        return (await self.session._tap.execute(command))[-48:]

    async def end(self) -> None:
        """QEMU says goodbye to its TPM through the tap, so the event loop must run while it ends."""
        self.qemu.kill()
        await asyncio.to_thread(self.qemu.wait, 20)
        await self.session.close()


async def start(platform: SoftwarePlatform, directory: Path, *more: str, state: bytes | None = None) -> Boot:
    parameters = TdParameters(memory_bytes=MEMORY)
    session = platform.session("demo", parameters, FIRMWARE.read_bytes(), directory)
    assert isinstance(session, SoftwareTdSession)
    if state is not None:
        session.load_state(state)
    await session.start()
    assert session._tap is not None
    carry_over = session._tap._on_extend
    extends: list[Extend] = []

    def record(extend: Extend) -> None:
        extends.append(extend)
        carry_over(extend)

    session._tap._on_extend = record
    argv = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", str(MEMORY >> 20), "-nodefaults"]
    argv += ["-display", "none", "-bios", str(FIRMWARE), "-device", "virtio-serial-pci,id=serial0"]
    qemu = process.spawn([*argv, *session.qemu_arguments(), *more])
    boot = Boot(session, qemu, extends)
    try:
        await session.attach()
    except BaseException:
        await boot.end()
        raise
    return boot


def folded(extends: list[Extend], pcrs: set[int], first: list[bytes] | None = None) -> bytes:
    digests = [item.digest(Algorithm.SHA384) or b"" for item in extends if item.pcr in pcrs]
    return fold([*(first or []), *digests])


def test_registers_are_what_the_firmware_measured(tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")
    run = tmp_path / "run"

    async def main() -> None:
        boot = await start(platform, run)
        try:
            failed = asyncio.create_task(boot.session.wait_failed())
            await boot.until_booted()
            for number in range(8):
                assert await boot.pcr(number) == folded(boot.extends, {number}), f"PCR {number}"
            firmware = FIRMWARE.read_bytes()
            first = [event.digest() or b"" for event in launch_events(firmware, MEMORY)]
            registers = boot.session.registers()
            assert registers["mrtd"] == mrtd(firmware).hex()
            assert registers["rtmr0"] == folded(boot.extends, {1, 7}, first).hex()
            assert registers["rtmr1"] == folded(boot.extends, set(range(2, 7))).hex()
            assert registers["rtmr2"] == registers["rtmr3"] == bytes(48).hex()
            assert not failed.done()
            failed.cancel()
        finally:
            await boot.end()

    asyncio.run(main())
    assert sorted(path.name for path in run.iterdir()) == ["swtpm.log", "tpm"]


def test_reset_makes_a_new_td(tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")

    async def main() -> None:
        boot = await start(platform, tmp_path / "run", *qmp(tmp_path / "qmp"))
        try:
            await boot.until_booted()
            before = boot.session.registers()
            td = boot.session.td()
            td.mr_rtmr_extend(3, b"x" * 48)
            monitor = await Monitor.connect(tmp_path / "qmp")
            await monitor.execute("system_reset")
            await boot.until_booted(2)
            assert boot.session.td() is not td
            assert boot.session.registers() == before
            monitor.close()
        finally:
            await boot.end()

    asyncio.run(main())


def test_death_of_swtpm_is_told(tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")

    async def main() -> None:
        boot = await start(platform, tmp_path / "run")
        try:
            failed = asyncio.create_task(boot.session.wait_failed())
            await boot.until_booted()
            assert boot.session._swtpm is not None
            assert boot.session._swtpm.pid is not None
            os.kill(boot.session._swtpm.pid, 9)
            async with asyncio.timeout(60):
                assert "TPM" in (await failed).upper()
        finally:
            await boot.end()

    asyncio.run(main())


class Monitor:
    """The little of QMP that a test needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Monitor:
        monitor = cls(*await asyncio.open_unix_connection(path))
        await monitor.execute("qmp_capabilities")
        return monitor

    async def execute(self, command: str, **arguments: object) -> Any:
        self._writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(await self._reader.readline())
            if "return" in answer or "error" in answer:
                assert "return" in answer, answer
                return answer["return"]

    async def until_migrated(self) -> None:
        async with asyncio.timeout(BOOT_SECONDS):
            while (found := await self.execute("query-migrate")).get("status") != "completed":
                assert found.get("status") not in ("failed", "cancelled"), found
                await asyncio.sleep(0.1)

    def close(self) -> None:
        self._writer.close()


def qmp(path: Path) -> tuple[str, str]:
    return "-qmp", f"unix:{path},server=on,wait=off"


def test_saved_machine_is_restored_with_its_registers(tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")
    memory = f"file:{tmp_path / 'machine.state'}"

    async def save() -> tuple[bytes, dict[str, str], list[bytes]]:
        boot = await start(platform, tmp_path / "first", *qmp(tmp_path / "qmp1"))
        try:
            await boot.until_booted()
            monitor = await Monitor.connect(tmp_path / "qmp1")
            await monitor.execute("stop")
            boot.session.td().mr_rtmr_extend(3, b"x" * 48)
            pcrs = [await boot.pcr(number) for number in range(8)]
            saved = boot.session.save_state(), boot.session.registers(), pcrs
            await monitor.execute("migrate", uri=memory)
            await monitor.until_migrated()
            monitor.close()
            return saved
        finally:
            await boot.end()

    async def load(state: bytes, registers: dict[str, str], pcrs: list[bytes]) -> None:
        boot = await start(platform, tmp_path / "second", *qmp(tmp_path / "qmp2"), "-incoming", "defer", state=state)
        try:
            assert boot.session.registers() != registers
            monitor = await Monitor.connect(tmp_path / "qmp2")
            await monitor.execute("migrate-incoming", uri=memory)
            await monitor.until_migrated()
            assert boot.session.registers() == registers
            assert [await boot.pcr(number) for number in range(8)] == pcrs
            monitor.close()
        finally:
            await boot.end()

    asyncio.run(load(*asyncio.run(save())))


def firmware_log(memory: bytes) -> EventLog:
    """The longest TPM event log in a guest's memory; firmware leaves copies of its beginning."""
    logs: list[EventLog] = []
    at = memory.find(b"Spec ID Event03")
    while at >= 0:
        with contextlib.suppress(WireError):
            logs.append(EventLog.read(memory[at - 32 : at + (1 << 16)])[0])
        at = memory.find(b"Spec ID Event03", at + 1)
    return max(logs, key=lambda log: len(log.events))


def test_log_of_the_firmware_replays_to_the_registers(tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")

    async def main() -> None:
        boot = await start(platform, tmp_path / "run", *qmp(tmp_path / "qmp"))
        try:
            await boot.until_booted()
            monitor = await Monitor.connect(tmp_path / "qmp")
            registers = boot.session.registers()
            launched = launch_events(FIRMWARE.read_bytes(), MEMORY)
            async with asyncio.timeout(BOOT_SECONDS):  # the last event is extended first, then written to the log
                while True:
                    await monitor.execute("stop")
                    await monitor.execute("pmemsave", val=0, size=MEMORY, filename=str(tmp_path / "memory"))
                    log = cc_log_of_tpm_log(firmware_log((tmp_path / "memory").read_bytes()), launched)
                    if len(log.events) == len(launched) + sum(item.pcr > 0 for item in boot.extends):
                        break
                    await monitor.execute("cont")
            monitor.close()
            assert [value.hex() for value in replay(log).rtmr] == [registers[f"rtmr{n}"] for n in range(4)]
        finally:
            await boot.end()

    asyncio.run(main())
