"""``tdxctl measure``: MRTD of a firmware file, and the registers to expect of a boot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output, td_names
from tdxstack.cli.firmware_names import firmware_path
from tdxstack.cli.sizes import memory_size
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.measure import FirmwareBlobs, Prediction
    from tdxstack.vm.spec import TdSpec

MAX_FIRMWARE = 256 << 20


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    text = "MRTD of a firmware file, in both orders of page addition and extension"
    mrtd = verbs.add_parser("mrtd", help=text, description=text, formatter_class=output.help_formatter())
    mrtd.add_argument("firmware", metavar="FILE", help="TDVF: a single-file OVMF.fd, or a td-shim image")
    output.add_json(mrtd)
    mrtd.set_defaults(run=run_mrtd)
    _add_predict(verbs)


def _add_predict(verbs: Any) -> None:
    text = "MRTD and RTMRs to expect of a boot, event by event"
    predict = verbs.add_parser("predict", help=text, description=text, formatter_class=output.help_formatter())
    what = predict.add_argument_group("what boots", "a TD by name or its TOML file, or files and options")
    known = what.add_mutually_exclusive_group()
    td_names.completed(
        known.add_argument(
            "--td", metavar="NAME", help="a TD that is defined here; further options change its settings"
        )
    )
    known.add_argument("--spec", type=Path, metavar="FILE", help="TOML file of a TD, as `td create --spec` takes it")
    what.add_argument("--firmware", type=Path, metavar="F", help="firmware file (default: the one found here)")
    what.add_argument("--memory", metavar="SIZE", help="memory (default: 2G)")
    what.add_argument("--kernel", type=Path, metavar="F", help="kernel of a direct boot")
    what.add_argument("--initrd", type=Path, metavar="F", help="initial RAM disk")
    what.add_argument("--cmdline", metavar="S", help="kernel command line")
    what.add_argument(
        "--image", metavar="I", help="disk that it boots from where no kernel is given: a file, or a name"
    )
    what.add_argument("--vcpus", type=int, metavar="N", help="virtual CPUs (default: 2, as quickstart's)")
    what.add_argument("--no-disk", action="store_true", help="the TD has no disk")
    what.add_argument("--device", action="append", metavar="D", help="further device, as QEMU's -device takes it")
    how = predict.add_argument_group("how")
    how.add_argument("--qemu", metavar="PATH", help="QEMU binary that will boot it, run for its ACPI tables")
    how.add_argument("--blobs", type=Path, metavar="DIR", help="fw_cfg files in place of running QEMU")
    how.add_argument(
        "--profile", metavar="P", help="software, tdx, or with an edk2 release: tdx-202411 (default: found)"
    )
    how.add_argument(
        "--order", choices=("single-pass", "two-pass"), default="single-pass", help="MRTD order of the host"
    )
    how.add_argument("--no-cache", action="store_true", help="run the firmware even if its tables are known")
    predict.add_argument(
        "--reference-values",
        choices=("json", "rvps"),
        metavar="FORM",
        help="print reference values instead: json, rvps",
    )
    output.add_json(predict)
    predict.set_defaults(run=run_predict)


def run_mrtd(args: argparse.Namespace) -> ExitCode:
    """``measure mrtd``."""
    from tdxstack.cli.evidence import read_bytes
    from tdxstack.measure.firmware import measures_boot
    from tdxstack.measure.mrtd import MrtdOrder, mrtd
    from tdxstack.wire.tdvf import TdvfMetadata

    firmware = read_bytes(args.firmware, "firmware", limit=MAX_FIRMWARE)
    metadata = TdvfMetadata.from_bytes(firmware)
    body = output.document(
        "mrtd",
        {
            "single_pass": mrtd(firmware, MrtdOrder.SINGLE_PASS, metadata).hex(),
            "two_pass": mrtd(firmware, MrtdOrder.TWO_PASS, metadata).hex(),
            "measures_boot": measures_boot(firmware),
            "sections": [
                {
                    "type": section.name,
                    "data_offset": section.data_offset,
                    "raw_size": section.raw_size,
                    "gpa": f"0x{section.gpa:x}",
                    "memory_size": section.memory_size,
                    "measured": section.measured,
                }
                for section in metadata.sections
            ],
        },
    )
    output.emit(args, body, lambda: _mrtd_text(body))
    return ExitCode.DONE


def _mrtd_text(body: dict[str, Any]) -> str:
    from tdxstack.measure.mrtd import MrtdOrder

    lines = [
        f"single pass  {body['single_pass']}",
        f"             {MrtdOrder.SINGLE_PASS.stacks}",
        f"two passes   {body['two_pass']}",
        f"             {MrtdOrder.TWO_PASS.stacks}",
    ]
    if not body["measures_boot"]:
        lines.append("warning: this firmware extends no RTMR (it lacks TdTcg2Dxe); what it boots is not measured")
    lines.append(f"{'section':9} {'address':>12} {'memory':>10} {'file':>18}  in MRTD")
    for section in body["sections"]:
        where = f"0x{section['data_offset']:x}+0x{section['raw_size']:x}" if section["raw_size"] else "-"
        measured = "yes" if section["measured"] else "no"
        lines.append(
            f"{section['type']:9} {section['gpa']:>12} {hex(section['memory_size']):>10} {where:>18}  {measured}"
        )
    return "\n".join(lines)


def run_predict(args: argparse.Namespace) -> ExitCode:
    """``measure predict``."""
    import json

    from tdxstack.measure import export
    from tdxstack.measure.mrtd import MrtdOrder
    from tdxstack.vm.expect import expect

    spec, disk = _spec(args)
    machine = _machine(args, spec)
    prediction = expect(
        spec,
        disk=disk,
        profile=args.profile,
        order=MrtdOrder(args.order),
        blobs=_blobs(args),
        machine=machine,
        cache=not args.no_cache,
    )
    if args.reference_values:
        values: Any = export.reference_values(prediction)
        message = export.rvps_message(prediction) if args.reference_values == "rvps" else values
        output.raw(json.dumps(message, indent=2).encode() + b"\n")
        return ExitCode.DONE
    body = output.document("prediction", export.prediction_members(prediction))
    output.emit(args, body, lambda: _prediction_text(prediction))
    return ExitCode.DONE


def _named(args: argparse.Namespace) -> tuple[TdSpec, Path | None]:
    """The TD that is meant, before options change it, and its disk as it stands, if it has one by now."""
    from tdxstack.cli.commands.quickstart import VCPUS
    from tdxstack.cli.commands.td_images import resolve
    from tdxstack.vm import spec_file
    from tdxstack.vm.spec import TdSpec

    if args.td:
        from tdxstack.vm.lifecycle import status

        record = status(args.td)
        overlay = record.place.overlay
        return record.spec, overlay if record.spec.overlay and overlay.is_file() else None
    if args.spec:
        return TdSpec.from_mapping(resolve(spec_file.read_settings(args.spec))), None
    if args.firmware is None and args.kernel is None and args.image is None:
        hint = "give --td NAME, --spec FILE, --firmware F --kernel K --cmdline S, or --image I"
        raise UsageError("nothing to predict", hint=hint)
    # The default TD has a disk; its content does not count in a direct boot, that it is there does.
    return TdSpec(name="predicted", vcpus=VCPUS, image=None if args.no_disk else Path("/image")), None


def _spec(args: argparse.Namespace) -> tuple[TdSpec, Path | None]:
    """The TD that is meant: a known one, or one with the default devices; options take precedence.

    With it comes its disk as it stands, if it has one by now.
    """
    import dataclasses

    from tdxstack.vm.spec import Boot
    from tdxstack.vm.spec_rules import check_size

    spec, disk = _named(args)
    changes: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("firmware", "kernel", "initrd", "cmdline", "vcpus", "qemu")
        if getattr(args, name) is not None
    }
    if args.firmware is not None:
        changes["firmware"] = firmware_path(args.firmware)
    if args.image:
        changes["image"], disk = _image(args.image), None
        changes["boot"] = Boot.DIRECT if args.kernel else Boot.GRUB
    if args.memory is not None:
        changes["memory"] = memory_size(args.memory)
    if args.no_disk:
        changes["image"] = None
    if args.device:
        changes["devices"] = (*spec.devices, *args.device)
    if args.profile and args.profile.startswith("tdx") and not (args.td or args.spec):
        changes |= {"platform": "tdx", "dialect": _tdx_dialect(changes.get("qemu", spec.qemu))}
    spec = dataclasses.replace(spec, **changes)
    check_size(spec)
    return spec, disk


def _machine(args: argparse.Namespace, spec: TdSpec) -> list[str] | None:
    """The argument list of the TD that runs, if no option makes another machine of it."""
    from tdxstack.vm.expect import started_argv
    from tdxstack.vm.lifecycle import status

    if not args.td:
        return None
    record = status(args.td)
    return started_argv(record) if record.spec == spec else None


def _tdx_dialect(qemu: str) -> str:
    """The TDX dialect that this QEMU speaks; upstream's where it speaks none: the tables are the same."""
    from tdxstack.errors import PlatformMissing
    from tdxstack.vm.dialects import UPSTREAM
    from tdxstack.vm.qemu.probe import dialect_of, probe

    try:
        return dialect_of(probe(qemu), qemu).name
    except PlatformMissing:
        return UPSTREAM.name


def _image(name: str) -> Path:
    path = Path(name)
    if "/" not in name and not path.exists():
        from tdxstack.image.store import find_image

        return find_image(name).disk
    if not path.is_file():
        raise UsageError(f"no disk image {name}", hint="give a file, or a name of `tdxctl image list`")
    return path.absolute()


def _blobs(args: argparse.Namespace) -> FirmwareBlobs | None:
    if args.blobs is None:
        return None
    import dataclasses

    from tdxstack.measure.acpi_blobs import RSDP, TABLES, TPM_LOG, loader_of_tables, rsdp_of_tables
    from tdxstack.measure.blobs import LOADER, MEASURED_ITEMS, SMBIOS_TABLES
    from tdxstack.vm.expect import read_blobs

    if not args.blobs.is_dir():
        raise UsageError(f"{args.blobs}: no directory")
    settings = [name for name, _ in MEASURED_ITEMS]
    found = read_blobs(args.blobs, (LOADER, RSDP, TABLES, TPM_LOG, SMBIOS_TABLES, "etc/boot/kernel", *settings))
    tables = found.get(TABLES)
    if tables is None or found.get(LOADER) is not None:
        return found
    # The loader script and the RSDP follow from the tables.
    derived = ((LOADER, loader_of_tables(tables)), (RSDP, rsdp_of_tables(tables)))
    return dataclasses.replace(found, files=(*derived, *(pair for pair in found.files if pair[0] != RSDP)))


def _prediction_text(prediction: Prediction) -> str:
    from tdxstack.measure.mrtd import MrtdOrder
    from tdxstack.wire.tcg import event_type_name

    lines = [f"profile  {prediction.profile}", f"MRTD     {prediction.mrtd.hex()}"]
    for number, value in enumerate(prediction.rtmr):
        shown = value.hex() if value is not None else f"not known: {prediction.reasons[number]}"
        lines.append(f"RTMR{number}    {shown}")
    lines.append("")
    lines.append(f"{'':5} {'event':33} {'SHA-384':16}  what and why")
    for event in prediction.events:
        digest = event.digest.hex()[:16] if event.digest else "?"
        kind = event_type_name(event.event_type).removeprefix("EV_")
        lines.append(f"RTMR{event.rtmr} {kind:33} {digest:16}  {event.name}: {event.why}")
    lines.append(
        f"MRTD is that of a single-pass host ({MrtdOrder.SINGLE_PASS.stacks}), unless --order says otherwise."
    )
    return "\n".join(lines)
