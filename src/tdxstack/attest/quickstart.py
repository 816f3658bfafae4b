"""From nothing to an attested TD: image, firmware, launch, evidence, prediction, judgement, in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.attest.attestation import Attestation
from tdxstack.attest.evidence import Evidence
from tdxstack.attest.running import fresh_evidence, judged
from tdxstack.errors import SystemFault, TdxStackError, UsageError
from tdxstack.image import build_image, by_sudo
from tdxstack.image.builder import plan_build
from tdxstack.image.firmware import FirmwareFile, cached_firmware, default_firmware, firmware_file
from tdxstack.image.store import find_by_key
from tdxstack.measure.prediction import Prediction
from tdxstack.platform.base import Platform, PlatformKind
from tdxstack.platform.registry import default_name, open_platform
from tdxstack.system import paths
from tdxstack.system.files import private_directory, write_atomic
from tdxstack.vm import lifecycle
from tdxstack.vm.expect import expect
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import TdSpec

Progress = Callable[[str], None]
NAME = "quickstart"
MIB = 1 << 20
READY_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; None is the default. ``expected`` replaces the prediction from the TD's own files."""

    platform: str | None = None
    recipe: str = "debian-13"
    firmware: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    append: str = ""
    memory: int = 2048 * MIB
    vcpus: int = 2
    keep: bool = False
    expected: Prediction | None = None
    output: Path | None = None


def spec_for(request: Request, platform: Platform, name: str, firmware: FirmwareFile, progress: Progress) -> TdSpec:
    """The TD's specification; builds the guest image if it is not there yet."""
    if by_sudo.needed() and not find_by_key(plan_build(request.recipe).key):
        by_sudo.build(request.recipe, progress)
    image = build_image(request.recipe, progress=progress)
    cmdline = request.cmdline if request.cmdline is not None else image.default_cmdline
    return TdSpec(
        name=name,
        platform=platform.name,
        firmware=firmware.path,
        image=image.disk,
        kernel=request.kernel or image.kernel,
        initrd=request.initrd or image.initrd,
        cmdline=f"{cmdline} {request.append}".strip(),
        memory=request.memory,
        vcpus=request.vcpus,
    )


def plan(request: Request) -> dict[str, Any]:
    """What ``run`` would use and do, as plain values; nothing is made, downloaded or started.

    Raises:
        UsageError: no such recipe or file.
    """
    platform = request.platform or default_name()
    firmware = firmware_file(request.firmware) if request.firmware else cached_firmware()
    wanted = plan_build(request.recipe)
    image = find_by_key(wanted.key)
    steps = [
        *([] if firmware else ["download the firmware"]),
        *([] if image else [f"build the guest image {request.recipe}"]),
        f"boot a TD on platform {platform}, with {request.vcpus} vCPU and {request.memory // MIB} MiB",
        "take TDREPORT, event log and quote over a fresh nonce; verify, replay, compare with the prediction",
        "leave the TD running" if request.keep else "delete the TD; the evidence stays",
    ]
    return {
        "platform": platform,
        "firmware": None if firmware is None else {"path": str(firmware.path), "sha256": firmware.sha256},
        "image": None if image is None else image.name,
        "steps": steps,
    }


def run(request: Request, progress: Progress) -> tuple[Attestation, dict[str, Any]]:
    """Do it all; the attestation and the ``tdxstack/quickstart/v1`` document without its schema.

    The TD is gone afterwards, whatever happened, unless ``keep`` was asked for and it came up.

    Raises:
        TdxStackError: some step could not be done; a rejected attestation is no error here.
    """
    platform = open_platform(request.platform)
    progress(_platform_line(platform))
    firmware = firmware_file(request.firmware) if request.firmware else default_firmware(progress)
    with _defined(request, platform, firmware, progress) as record:
        evidence, expected = _boot(record, request, progress)
        progress("verify the quote, replay the log, compare with the prediction")
        attestation, members = judged(record, platform, evidence, expected, request.output)
    state = members["td"]["state"] if request.keep else "deleted"
    return attestation, {**members, "td": {**members["td"], "state": state}}


@contextmanager
def _defined(request: Request, platform: Platform, firmware: FirmwareFile, progress: Progress) -> Iterator[TdRecord]:
    """A TD that is defined, under a name of its own, and deleted again."""
    spec = spec_for(request, platform, NAME, firmware, progress)
    record = _create(spec)
    came_up = False
    try:
        yield record
        came_up = True
    finally:
        if not (request.keep and came_up):
            with contextlib.suppress(TdxStackError):
                lifecycle.delete(record.name, force=True)


def _create(spec: TdSpec) -> TdRecord:
    """Define the TD as ``quickstart``, or ``quickstart-2`` and so on where that is taken."""
    for number in itertools.count(1):
        name = NAME if number == 1 else f"{NAME}-{number}"
        try:
            return lifecycle.create(dataclasses.replace(spec, name=name))
        except UsageError:
            if number > 99 or not _exists(name):
                raise
    raise AssertionError("unreachable")


def _exists(name: str) -> bool:
    return any(record.name == name for record in lifecycle.list_all())


def _boot(record: TdRecord, request: Request, progress: Progress) -> tuple[Evidence, Prediction]:
    """Start the TD, predict its registers while it boots, and have it make its evidence."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        prediction: Future[Prediction] | None = None
        if request.expected is None:
            prediction = pool.submit(expect, record.spec)
        progress(f"start TD {record.name}")
        lifecycle.start(record.name, progress=progress)
        progress("wait for the guest; predict MRTD and RTMR0..3 from the files that boot")
        try:
            lifecycle.wait_ready(record.name, READY_TIMEOUT)
        except TdxStackError as fault:
            if kept := _keep_console(record):
                fault.hint = f"look at the guest's console: {kept}"
            raise
        progress("TDREPORT, event log and quote over a fresh nonce")
        evidence = fresh_evidence(record.name)
        return evidence, prediction.result() if prediction else request.expected  # type: ignore[return-value]


def _keep_console(record: TdRecord) -> Path | None:
    """The guest's console where it outlives the TD; None if there is none or it cannot be kept."""
    kept = paths.home() / "logs" / f"{record.name}-console.log"
    try:
        write_atomic(private_directory(kept.parent) / kept.name, record.place.console_log.read_bytes())
    except (OSError, SystemFault):
        return None
    return kept


def _platform_line(platform: Platform) -> str:
    if platform.kind is PlatformKind.SOFTWARE:
        return f"platform: software ({platform.name}); it stands in for the silicon and protects nothing"
    return "platform: TDX hardware of this host"
