"""How fast ``tdxctl host diagnose`` reads: 1 GB of a host's mixed logs, one core, and the memory it takes.

``python -m benchmarks.diagnose [MEGABYTES]``. The requirement: 100 MB/s, and memory that does not grow with the log.
"""

from __future__ import annotations

import io
import random
import resource
import sys
import time

from tdxstack.preflight.diagnosis import Scanner, problems

REQUIRED_MB_PER_SECOND = 100.0

QUIET = (
    "Jan 22 09:17:{s:02} tdx-host1 qgsd[3424]: Added a new connection, now [1]",
    "Jan 22 09:17:{s:02} tdx-host1 qgsd[3424]: handle_read:[system:0Received 1024 bytes.]",
    "Jan 22 09:17:{s:02} tdx-host1 qgsd[3424]: process raw request [1024] bytes!.",
    "Jan 22 09:17:{s:02} tdx-host1 qgsd[3424]: tee_att_get_quote_size return Success",
    "Jan 22 09:17:{s:02} tdx-host1 qgsd[3424]: About to shutdown and close socket",
    "2026-01-22 09:17:{s:02}.{n:03} [info]: Client Request-ID : {x:032x} GET /sgx/certification/v4/pckcert 200",
    '[{n:6}.{x:06}] audit: type=1400 audit(1737537{s:02}.{n:03}:{n}): apparmor="ALLOWED" operation="open" pid={n}',
    "[{n:6}.{x:06}] kvm_intel: set kvm_intel.dump_invalid_vmcs=1 to dump internal KVM state.",
    '2026-01-22 09:17:{s:02}.{n:03}+0000: {n}: info : qemuMonitorJSONIOProcessLine:208 : {{"event": "RTC_CHANGE"}}',
    "Jan 22 09:17:{s:02} tdx-host1 systemd[1]: Started Session {n} of User root.",
    "Jan 22 09:17:{s:02} tdx-host1 kernel: IPv6: ADDRCONF(NETDEV_CHANGE): vnet{n}: link becomes ready",
    "Jan 22 09:17:{s:02} tdx-host1 sshd[{n}]: Accepted publickey for tdx from 10.0.0.{s}: ED25519 SHA256:{x:x}",
)
TROUBLE = (
    "Jan 22 09:18:{s:02} tdx-host1 qgsd[3424]: [QPL] Failed to get quote config. Error code is 0xb011",
    "Jan 22 09:18:{s:02} tdx-host1 qgsd[3424]: tee_att_get_quote_size return 0x11001",
    "[{n:6}.{x:06}] virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
)
LOOKALIKE = b"[    0.000000] pci 0000:00:1f.0: reg 0x10: [mem 0xe0000000-0xe0ffffff 64bit pref] error none\n"


class Log:
    """A log that is made while it is read: blocks of mixed lines, over and over, ``size`` bytes in all."""

    def __init__(self, size: int) -> None:
        chance = random.Random(7)
        lines = []
        for number in range(40_000):
            form = chance.choice(TROUBLE if number % 400 == 0 else QUIET)
            lines.append(form.format(s=chance.randrange(60), n=chance.randrange(1000), x=chance.getrandbits(48)))
        self._block = ("\n".join(lines) + "\n").encode()
        self._left = size
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._left, len(self._block) - self._at)
        data = self._block[self._at : self._at + count]
        self._at = (self._at + count) % len(self._block)
        self._left -= count
        return data


def measure(megabytes: int) -> tuple[float, int, int]:
    """(MB a second of processor time, KiB of memory that the reading added, problems found)."""
    log = Log(megabytes * 1_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    scan = Scanner("benchmark").read(log)
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert scan.size == megabytes * 1_000_000
    return megabytes / seconds, grown, len(problems([scan]))


def measure_lookalikes(megabytes: int) -> float:
    """MB a second where every line has what the search looks for, and none is a sign."""
    data = LOOKALIKE * (megabytes * 1_000_000 // len(LOOKALIKE))
    start = time.process_time()
    assert not Scanner("benchmark").read(io.BytesIO(data)).seen
    return len(data) / 1e6 / (time.process_time() - start)


def main(argv: list[str]) -> int:
    megabytes = int(argv[0]) if argv else 1000
    speed, grown, found = measure(megabytes)
    print(f"diagnose: {megabytes} MB at {speed:.0f} MB/s on one core, memory +{grown} KiB, {found} problems")
    worst = measure_lookalikes(megabytes // 10)
    print(f"diagnose, every line like a sign: {worst:.0f} MB/s")
    return 0 if min(speed, worst) >= REQUIRED_MB_PER_SECOND else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
