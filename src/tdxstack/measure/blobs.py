"""What QEMU hands to the firmware over fw_cfg, and the firmware measures as it is."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.errors import WireError
from tdxstack.wire.acpi import allocated_files

LOADER = "etc/table-loader"
SMBIOS_TABLES = "etc/smbios/smbios-tables"
#: fw_cfg items that a TDVF measures, with their size in bytes (None: any), in its order. Source: edk2
#: ``OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgPei.c`` and ``PlatformInitLib`` (stable202505 and newer).
MEASURED_ITEMS: tuple[tuple[str, int | None], ...] = (
    ("etc/extra-pci-roots", 8),
    ("BootMenu", 2),
    ("etc/boot-menu-wait", 2),
    ("etc/reserved-memory-end", 8),
    ("opt/ovmf/X-PciMmio64Mb", None),
    ("bootorder", None),
)


@dataclass(frozen=True, slots=True)
class FirmwareBlobs:
    """fw_cfg files by name, as the firmware reads them: ACPI loader script and its blobs, SMBIOS tables, settings.

    They depend on QEMU's version, the machine and its devices, and for ACPI on what the firmware did to PCI.
    ``boot_options`` are BootOrder and the Boot#### variables it lists, in its order, where the firmware was run.
    """

    files: tuple[tuple[str, bytes], ...]
    source: str = "files"
    boot_options: tuple[tuple[str, bytes], ...] = ()

    def get(self, name: str) -> bytes | None:
        """One file's content, or None."""
        return next((content for known, content in self.files if known == name), None)

    def acpi(self) -> tuple[tuple[str, bytes], ...]:
        """The loader script, then each blob it allocates, in its order: what is measured as ``ACPI DATA``.

        Raises:
            WireError: there is no loader script, or a blob that it names is missing.
        """
        loader = self.get(LOADER)
        if loader is None:
            raise WireError(LOADER, "file", 0, "not among the blobs")
        found = [(LOADER, loader)]
        for name in allocated_files(loader):
            content = self.get(name)
            if content is None:
                raise WireError(LOADER, "ALLOCATE", 0, f"{name} is not among the blobs")
            found.append((name, content))
        return tuple(found)
