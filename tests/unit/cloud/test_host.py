"""The device under test and its registers, from a captured host; commands on this one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tdxstack.cloud.cmdrunner import NativeCmdRunner, SSHCmdRunner
from tdxstack.cloud.dut import DUT
from tdxstack.cloud.msr import MSR
from tdxstack.errors import ProcessTimeout, ProgramMissing, StateError, UsageError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_open_host import open_host

HOSTS = Path(__file__).resolve().parents[2] / "vectors" / "hosts"


def test_a_tdx_host() -> None:
    dut = DUT(open_host(HOSTS / "good-1.5"))
    assert dut.support_tdx()
    assert dut.support_sgx()
    assert dut.get_distro() == "ubuntu"
    assert dut.file_contains("/proc/cpuinfo", "GenuineIntel")
    assert not dut.cmdline_contains("nohiber")


def test_registers() -> None:
    msr = MSR(open_host(HOSTS / "good-1.5"))
    assert msr.readmsr(0x1401, 11, 11) == 1
    assert msr.readmsr(0x982, 1, 1) == 1
    assert msr.readmsr(0x87, 63, 32) > 0
    assert set(msr.readmsr_all(0x982, 1, 1).values()) == {1}
    assert msr.readmsr(0x1401) >> 11 & 1 == 1
    with pytest.raises(UsageError, match="64-bit"):
        msr.readmsr(0x87, 64, 0)
    with pytest.raises(HostReadError):
        msr.readmsr(0xDEAD)
    with pytest.raises(UsageError, match="does not fit"):
        msr.dangerous_writemsr(0x3A, 1 << 64)


def test_free_port() -> None:
    port = DUT.find_free_port()
    assert not DUT.check_port(port)


@pytest.mark.processes
def test_a_command() -> None:
    runner = NativeCmdRunner(
        [sys.executable, "-c", "import sys; print('a\\nb'); print('c', file=sys.stderr); sys.exit(3)"]
    )
    with pytest.raises(StateError, match="not started"):
        runner.wait()
    done = runner.runwait()
    assert (done.retcode, done.stdout, done.stderr) == (3, ["a", "b"], ["c"])
    with pytest.raises(StateError, match="run it again"):
        runner.runwait()


@pytest.mark.processes
def test_commands_that_do_not_end_or_do_not_exist() -> None:
    slow = NativeCmdRunner(["sleep", "60"], timeout=0.2)
    with pytest.raises(ProcessTimeout, match="did not end"):
        slow.runwait()
    assert slow.retcode == -15
    background = NativeCmdRunner(["sleep", "60"]).runnowait()
    assert background.is_running
    background.terminate()
    assert not background.is_running
    with pytest.raises(ProgramMissing):
        NativeCmdRunner(["no-such-program-here"]).runwait()
    with pytest.raises(UsageError, match="empty"):
        NativeCmdRunner([])


def test_ssh_command_line() -> None:
    runner = SSHCmdRunner(["cd", "/root", "&&", "ls"], "host", port=2222, ssh_id_key="/k", options=["-o", "A=b"])
    assert runner.argv[0] == "ssh"
    assert runner.argv[-2:] == ["root@host", "cd /root && ls"]
    assert "-p 2222 -o BatchMode=yes -i /k" in " ".join(runner.argv)
    assert SSHCmdRunner("ls -l; id", "h").argv[-1] == "ls -l; id"
    with pytest.raises(UsageError, match="no destination"):
        SSHCmdRunner(["ls"], "-oProxyCommand=x")
