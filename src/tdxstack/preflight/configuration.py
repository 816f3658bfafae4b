"""What a diagnosis says of the configuration beside the logs: the checks of it, as problems."""

from __future__ import annotations

from tdxstack.platform.linux_host_source import HostSource
from tdxstack.preflight import report
from tdxstack.preflight.checks import attestation
from tdxstack.preflight.diagnosis import Problem
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Outcome, run
from tdxstack.preflight.signatures import Severity

#: Checks of configuration that belong to a diagnosis.
CONFIGURATION = ("attestation.qcnl", "attestation.qcnl_url", "attestation.qcnl_tls", "attestation.pccs_uri")


def problems(source: HostSource, *, absent_counts: bool = False) -> list[Problem]:
    """What the checks say of the quote provider's and the PCCS's configuration."""
    host = Host(source)
    wanted = [check for check in attestation.CHECKS if check.id == "attestation.qcnl"]
    found = []
    for result in report.everything([run(check, host) for check in wanted]):
        if result.check.id in CONFIGURATION and result.outcome in (Outcome.FAIL, Outcome.WARN):
            if "No such file" in result.finding.evidence and not absent_counts:
                continue
            severity = Severity.ERROR if result.outcome is Outcome.FAIL else Severity.WARNING
            found.append(
                Problem(
                    id=f"config.{result.check.id}",
                    severity=severity,
                    title=f"{result.check.title}: {result.check.want}",
                    detail="",
                    cause=result.check.why,
                    fix=result.fix,
                    count=1,
                    source="configuration",
                    line_number=0,
                    line=result.finding.evidence,
                )
            )
    return found
