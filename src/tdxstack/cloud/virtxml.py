"""libvirt's domain XML as a document that can be read, changed and checked.

Reference: libvirt, docs/formatdomain.rst. ``VirtXml.from_record`` makes the document of a machine; what the setters
change is for programs that give it to libvirt themselves.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from tdxstack.errors import SystemFault, UsageError
from tdxstack.system.files import write_atomic
from tdxstack.system.process import run
from tdxstack.vm import plan
from tdxstack.vm.record import TdRecord

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
KIB_PER_MIB = 1024
VALIDATE_TIMEOUT = 60.0
#: A template is a page or two.
MAX_SIZE = 1 << 20
ET.register_namespace("qemu", QEMU_NAMESPACE)


class VirtXml:
    """One domain's document.

    Raises:
        UsageError: not the XML of a domain, or one with entities of its own.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_SIZE or "<!DOCTYPE" in text:
            raise UsageError("not a plain domain XML", hint="virsh dumpxml NAME")
        try:
            self._root = ET.fromstring(text)  # noqa: S314 - entities are refused above
        except ET.ParseError as error:
            raise UsageError(f"not XML: {error}", hint="virsh dumpxml NAME") from None
        if self._root.tag != "domain":
            raise UsageError(f"<{self._root.tag}> is no domain", hint="virsh dumpxml NAME")

    @classmethod
    def load(cls, path: Path) -> VirtXml:
        """Read a file.

        Raises:
            UsageError: it cannot be read, or is none.
        """
        try:
            return cls(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}") from None

    @classmethod
    def from_record(cls, record: TdRecord) -> VirtXml:
        """The domain of a machine of ours.

        Raises:
            PlatformMissing: libvirt has no word for something that it has.
        """
        return cls(plan.preview_xml(record))

    def clone(self, name: str) -> VirtXml:
        """A copy under another name and UUID."""
        other = copy.deepcopy(self)
        other.name = name
        other._text("uuid", str(uuid.uuid4()))
        return other

    def tostring(self) -> str:
        """The document as text."""
        document = copy.deepcopy(self._root)
        ET.indent(document)
        return ET.tostring(document, encoding="unicode") + "\n"

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        write_atomic(path, self.tostring())

    def validate(self) -> None:
        """Have libvirt's ``virt-xml-validate`` judge it.

        Raises:
            ProgramMissing: it is not installed.
            SystemFault: the document is not valid.
        """
        argv, text = ["virt-xml-validate", "-", "domain"], self.tostring().encode()
        done = run(argv, stdin=text, timeout=VALIDATE_TIMEOUT, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise SystemFault(f"domain {self.name}: {said[-500:]}", hint="see libvirt's docs/formatdomain")

    @property
    def name(self) -> str:
        return self._root.findtext("name", "")

    @name.setter
    def name(self, value: str) -> None:
        self._text("name", value)

    @property
    def uuid(self) -> str:
        return self._root.findtext("uuid", "")

    @property
    def memory(self) -> int:
        """KiB."""
        return int(self._root.findtext("memory", "0"))

    @memory.setter
    def memory(self, kib: int) -> None:
        for tag in ("memory", "currentMemory"):
            if tag == "memory" or self._root.find(tag) is not None:
                self._text(tag, str(kib)).set("unit", "KiB")

    @property
    def vcpu(self) -> int:
        return int(self._root.findtext("vcpu", "1"))

    @vcpu.setter
    def vcpu(self, count: int) -> None:
        self._text("vcpu", str(count))
        topology = self._root.find("cpu/topology")
        if topology is not None:
            topology.attrib |= {"sockets": "1", "cores": str(count), "threads": "1"}

    @property
    def kernel(self) -> str | None:
        return self._root.findtext("os/kernel")

    @kernel.setter
    def kernel(self, path: str | None) -> None:
        self._optional("os/kernel", path)

    @property
    def cmdline(self) -> str | None:
        return self._root.findtext("os/cmdline")

    @cmdline.setter
    def cmdline(self, text: str | None) -> None:
        self._optional("os/cmdline", text)

    @property
    def loader(self) -> str | None:
        """The firmware."""
        return self._root.findtext("os/loader")

    @loader.setter
    def loader(self, path: str | None) -> None:
        self._optional("os/loader", path)

    def set_disk(self, path: str | Path, disk_format: str = "qcow2") -> None:
        """The first disk's file and format.

        Raises:
            UsageError: there is no disk.
        """
        disk = self._root.find("devices/disk")
        source, driver = (None, None) if disk is None else (disk.find("source"), disk.find("driver"))
        if source is None or driver is None:
            raise UsageError(f"domain {self.name} has no disk", hint="take a template with one")
        source.attrib = {"file": str(path)}
        driver.set("type", disk_format)

    def set_hugepages(self, size_kib: int) -> None:
        """Back the memory by huge pages of a size."""
        pages = self._child(self._child(self._root, "memoryBacking"), "hugepages")
        self._child(pages, "page").attrib = {"size": str(size_kib), "unit": "KiB"}

    def set_vsock(self, cid: int | None = None) -> None:
        """A vsock device, with a CID or one that libvirt chooses."""
        device = self._child(self._child(self._root, "devices"), "vsock")
        device.set("model", "virtio")
        choice = {"auto": "yes"} if cid is None else {"auto": "no", "address": str(cid)}
        self._child(device, "cid").attrib = choice

    def bind_cpuids(self, cpus: Iterable[int]) -> None:
        """Pin vCPU 0, 1, ... each to one of the host's CPUs.

        Raises:
            UsageError: fewer CPUs than vCPUs.
        """
        chosen = list(cpus)
        if len(chosen) < self.vcpu:
            raise UsageError(f"{len(chosen)} CPUs for {self.vcpu} vCPUs", hint="give one for each vCPU")
        tune = self._child(self._root, "cputune")
        for pin in tune.findall("vcpupin"):
            tune.remove(pin)
        for number in range(self.vcpu):
            ET.SubElement(tune, "vcpupin", {"vcpu": str(number), "cpuset": str(chosen[number])})

    def set_mem_numa(self, nodes: Iterable[int]) -> None:
        """Take the memory from these NUMA nodes of the host, strictly."""
        memory = self._child(self._child(self._root, "numatune"), "memory")
        memory.attrib = {"mode": "strict", "nodeset": ",".join(str(node) for node in nodes)}

    def _text(self, tag: str, text: str) -> ET.Element:
        element = self._child(self._root, tag)
        element.text = text
        return element

    def _optional(self, path: str, text: str | None) -> None:
        parent_tag, _, tag = path.partition("/")
        parent = self._child(self._root, parent_tag)
        if text is not None:
            self._child(parent, tag).text = text
        elif (element := parent.find(tag)) is not None:
            parent.remove(element)

    @staticmethod
    def _child(parent: ET.Element, tag: str) -> ET.Element:
        found = parent.find(tag)
        return ET.SubElement(parent, tag) if found is None else found
