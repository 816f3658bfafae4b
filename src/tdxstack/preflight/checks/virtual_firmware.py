"""The virtual firmware: one with TDX, that measures, and is its package's."""

from __future__ import annotations

from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight.firmware_files import PLACES, FirmwareFile
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned

#: A captured tree without its firmware.
UNTOLD = "the tree does not tell"


def _installed(host: Host) -> list[FirmwareFile]:
    return [one for one in host.firmware if one.path in PLACES]


def _tdvf(host: Host) -> FirmwareFile | None:
    return next((one for one in _installed(host) if one.tdvf), None)


def _firmware(host: Host) -> Finding:
    present = _installed(host)
    if not present and not host.source.tells(Answer.PROGRAMS):
        return warned(UNTOLD)
    if not present:
        return failed(f"none of {', '.join(PLACES)}")
    chosen = _tdvf(host)
    if chosen is None:
        return failed(f"{', '.join(one.path for one in present)}: without TDX metadata: no TDVF")
    return passed(f"{chosen.path}: carries TDX metadata")


def _firmware_unmodified(host: Host) -> Finding:
    chosen = _tdvf(host)
    if chosen is None:
        return skipped("no TDVF")
    for name in host.files.names("/var/lib/dpkg/info"):
        if not name.endswith(".md5sums") or "ovmf" not in name.lower():
            continue
        for line in host.files.text(f"/var/lib/dpkg/info/{name}").splitlines():
            listed, _, where = line.partition("  ")
            if f"/{where.strip()}" == chosen.listed:
                owner = name.removesuffix(".md5sums")
                evidence = f"{chosen.listed}: MD5 {chosen.md5}, package {owner} lists {listed}"
                return judged(listed == chosen.md5, evidence)
    return skipped(f"no package lists {chosen.listed}")


def _measures(host: Host) -> Finding:
    chosen = _tdvf(host)
    if chosen is None or chosen.measures is None:
        return skipped("whether the firmware measures cannot be read from what is there")
    acts = f"{chosen.path}: acts like edk2 {chosen.release}"
    if chosen.measures:
        return passed(f"{acts}, and measures into the RTMRs")
    return failed(f"{acts}, and lacks TdTcg2Dxe: it extends no RTMR")


OVMF = Check(
    "ovmf.present",
    "Virtual firmware with TDX (TDVF)",
    _firmware,
    "a firmware file with TDX metadata",
    "the TDX module starts a TD only in a firmware that describes its sections",
    "install the package ovmf-inteltdx or ovmf (edk2-ovmf on RHEL)",
    children=(
        Check(
            "ovmf.measures",
            "Virtual firmware measures what it boots",
            _measures,
            "TdTcg2Dxe in the firmware",
            "else RTMR0 to RTMR2 stay zero and there is no CCEL: a quote says nothing of what the TD booted",
            "take an OVMF of edk2-stable202408 or later (older ones measure only if built so: "
            "CC_MEASUREMENT_ENABLE): package ovmf-inteltdx, or tdxctl firmware fetch inteltdx",
        ),
        Check(
            "ovmf.unmodified",
            "Virtual firmware is the package's",
            _firmware_unmodified,
            "the digest that its package lists",
            "another file under the same name gives another MRTD and RTMR0: 'RTMR mismatch'",
            "reinstall the package, or predict measurements from the file in use: tdxctl measure predict",
        ),
    ),
)

CHECKS = (OVMF,)
