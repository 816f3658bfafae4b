"""What a firmware file tells of its own measuring: which drivers it has, and how its edk2 release behaves.

OVMF's behaviour changed seven times between 2022 and 2026 (table in ``docs/reference/measure.md``). A file does not
state its release, but each change leaves something to see: a driver, a string, a volume.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from uuid import UUID

from tdxstack.errors import UsageError, WireError
from tdxstack.wire.efi.volume import Volume, payloads, volumes
from tdxstack.wire.tdvf import TD_TCG2_DXE_GUID, SectionType, TdvfMetadata

TCG2_DXE_GUID = UUID("fdff263d-5f68-4591-87ba-b768f445a9af")
SMBIOS_MEASUREMENT_GUID = UUID("d27fed59-abb4-4fed-bead-2a878c7e4a7e")
SECURE_BOOT_CONFIG_GUID = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
SMM_CORE_GUID = UUID("e94f54cd-81eb-47ed-aec3-856f5dc157a9")
BOOT_MENU_APP_GUID = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
UI_APP_GUID = UUID("462caa21-7614-4503-836e-8ab6f4662331")
DXE_VOLUME_GUID = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")

_DATE = re.compile(rb"(?:[0-9]\0){2}/\0(?:[0-9]\0){2}/\0(?:[0-9]\0){4}\0\0")
_TEXT = re.compile(rb"(?:[\x20-\x7e]\0){3,128}\0\0")
#: The end of a padding instruction of the compiler's, which reads like the text "@".
_PADDING = b"\x0f\x1f\x40\0"
_NEIGHBOURHOOD = 512
#: Year and month of an edk2 release in a firmware's version: 2024.02-2ubuntu0.1, edk2-20240524-6.el9.
_VERSION = re.compile(r"(?<![0-9])(20[0-9]{2})\.?(0[1-9]|1[0-2])")
_FALLBACK_DATE = "02/02/2022"


@dataclass(frozen=True, slots=True)
class FirmwareProfile:
    """How a firmware measures. ``name`` says where it runs (``software`` or ``tdx``) and the edk2 release.

    Args:
        name: e.g. ``software-202508`` or ``tdx-202411``.
        tpm: it measures into a TPM's PCRs (software platform), with a separator for each PCR and a PCR 0.
        separator_in_rtmr1: the ReadyToBoot separator goes to RTMR1 (edk2 202411 and newer), else to RTMR0.
        named_kernel: it reads the kernel as the user gave it, if QEMU offers it (202502 and newer).
        fw_cfg: fw_cfg items are measured (202505 and newer, in a TD).
        smbios: SMBIOS tables are measured (202505 and newer).
        acpi: ACPI tables are measured (202302 and newer).
        volumes_as_in_file: PCR 0 holds the volumes of the file; older OVMF, and OVMF with SMM, writes into the
            first, the PEI volume, before it is measured.
        boot_menu_app: BootManagerMenuApp stands before the setup screen in the boot order (202505 and newer).
        initrd_first: the command line is ``initrd=initrd <cmdline>`` (202508 and newer), else the other way round.
    """

    name: str
    tpm: bool = False
    separator_in_rtmr1: bool = True
    named_kernel: bool = True
    fw_cfg: bool = True
    smbios: bool = True
    acpi: bool = True
    volumes_as_in_file: bool = True
    boot_menu_app: bool = True
    initrd_first: bool = True


_202508 = FirmwareProfile("tdx-202508")
_202505 = replace(_202508, name="tdx-202505", initrd_first=False, volumes_as_in_file=False)
_202502 = replace(_202505, name="tdx-202502", fw_cfg=False, smbios=False, boot_menu_app=False)
_202411 = replace(_202502, name="tdx-202411", named_kernel=False)
_202408 = replace(_202411, name="tdx-202408", separator_in_rtmr1=False)
_202211 = replace(_202408, name="tdx-202211", acpi=False)
_TDX = (_202211, _202408, _202411, _202502, _202505, _202508)
_SOFTWARE = tuple(
    replace(profile, name=profile.name.replace("tdx", "software"), tpm=True, fw_cfg=False) for profile in _TDX
)
#: All profiles by name, oldest first.
PROFILES: dict[str, FirmwareProfile] = {profile.name: profile for profile in (*_SOFTWARE, *_TDX)}
_NAME = re.compile(r"(software|tdx)-(?:edk2-stable)?(20[0-9]{4})")
#: Which profile a release has, newest first. Those from 202302 on measure as 202408, whose default is to measure.
_SINCE = (
    ("202508", "202508"),
    ("202505", "202505"),
    ("202502", "202502"),
    ("202411", "202411"),
    ("202302", "202408"),
    ("", "202211"),
)


@dataclass(frozen=True, slots=True)
class FirmwareFacts:
    """What was found in one firmware file.

    Args:
        measures_td: it measures into the RTMRs: it has TdTcg2Dxe, or is td-shim, which does so itself.
        measures_tpm: it has Tcg2Dxe, which measures into a TPM.
        version, vendor, release_date: its own strings, where found.
        secure_boot: it can enforce secure boot.
        loaded_volumes: SHA-384 of each decompressed volume.
        release: the edk2 release it acts like.
        needs_smm: it keeps its variables in flash, written in system management mode, and does not start elsewhere.
    """

    measures_td: bool
    measures_tpm: bool
    version: str | None
    vendor: str | None
    release_date: str | None
    secure_boot: bool
    loaded_volumes: tuple[bytes, ...]
    release: str
    needs_smm: bool = False

    @property
    def smbios_strings(self) -> tuple[str, str, str] | None:
        """Vendor, version and date of the SMBIOS type 0 structure that the firmware adds."""
        if self.vendor and self.version and self.release_date:
            return self.vendor, self.version, self.release_date
        return None


def inspect(firmware: bytes) -> FirmwareFacts:
    """Look into a firmware file, its compressed part included.

    Raises:
        WireError: the compressed part is damaged.
    """
    plain = payloads(firmware)
    inside = [volume for part in plain for volume in volumes(part)]
    everywhere = (firmware, *plain)
    names = {file.name for volume in (*inside, *volumes(firmware)) for file in volume.files()}
    vendor, version, date = _strings(inside)
    return FirmwareFacts(
        measures_td=TD_TCG2_DXE_GUID in names or _td_shim_file(firmware),
        measures_tpm=TCG2_DXE_GUID in names,
        version=version,
        vendor=vendor,
        secure_boot=SECURE_BOOT_CONFIG_GUID in names,
        needs_smm=SMM_CORE_GUID in names,
        release_date=date,
        loaded_volumes=tuple(hashlib.sha384(volume.data).digest() for volume in inside),
        release=_release(everywhere, names, version),
    )


def measures_boot(firmware: bytes) -> bool:
    """Whether the firmware extends the RTMRs at all: it contains TdTcg2Dxe, or is td-shim.

    Firmware of edk2 before stable202408 (Debian 12's, for one) has perfect TDVF metadata and measures nothing.

    Raises:
        WireError: the compressed part is damaged.
    """
    return inspect(firmware).measures_td


def profile_of(firmware: FirmwareFacts, platform: str) -> FirmwareProfile:
    """The profile of a firmware on a platform (``software`` or ``tdx``), as detected."""
    return PROFILES[f"{platform}-{firmware.release}"]


def named_profile(name: str, firmware: FirmwareFacts) -> FirmwareProfile:
    """A profile by its full name, by platform and edk2 release, or by the platform alone with the release detected.

    A release that changed nothing has the profile of the one before it: ``tdx-202511`` is ``tdx-202508``.

    Raises:
        UsageError: there is no such profile.
    """
    if name in ("software", "tdx"):
        return profile_of(firmware, name)
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"no firmware profile '{name}'", hint="one of: software, tdx, " + ", ".join(PROFILES))
    return PROFILES[f"{found[1]}-{next(like for since, like in _SINCE if found[2] >= since)}"]


def is_td_shim(metadata: TdvfMetadata) -> bool:
    """Whether the metadata names a payload, which td-shim starts and measures (td-shim, ``doc/tdshim_spec.md``)."""
    return bool(metadata.of_type(SectionType.PAYLOAD))


def _td_shim_file(firmware: bytes) -> bool:
    try:
        return is_td_shim(TdvfMetadata.from_bytes(firmware))
    except WireError:
        return False


def _release(parts: tuple[bytes, ...], names: set[UUID], version: str | None) -> str:
    """The newest release whose marks the firmware bears."""

    def contains(mark: bytes) -> bool:
        return any(mark in part for part in parts)

    if SMBIOS_MEASUREMENT_GUID in names:
        return "202508" if contains(b"\0initrd=initrd \0") else "202505"
    if contains(b"etc/boot/"):
        return "202502"
    if not contains(b"ACPI DATA"):
        return "202211"
    # Between 202408 and 202411 only the version, if it is one, tells where the separator goes; the newer is common.
    told = _VERSION.search(version or "")
    return "202408" if told and told[1] + told[2] < "202411" else "202411"


def _strings(inside: list[Volume]) -> tuple[str | None, str | None, str | None]:
    """Vendor, version and release date: the driver of SMBIOS type 0 holds date, version and vendor side by side."""
    for volume in inside:
        for match in _DATE.finditer(volume.data):
            date = _text(match.group())
            if date == _FALLBACK_DATE:
                continue
            near = volume.data[match.end() : match.end() + _NEIGHBOURHOOD].replace(_PADDING, bytes(4))
            found = [_text(text) for text in _TEXT.findall(near)[:2]]
            if len(found) == 2:
                return found[1], found[0], date
    return None, None, None


def _text(raw: bytes) -> str:
    return raw.decode("utf-16-le").rstrip("\0")
