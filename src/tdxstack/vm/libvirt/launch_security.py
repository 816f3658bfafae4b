"""``<launchSecurity type='tdx'>`` in the three dialects of libvirt.

Upstream: libvirt 11.6, docs/formatdomain.rst "Launch Security". ``tdx15``: libvirt 8.6 with Intel's TDX 1.5 patches
(digests in hex, ``Quote-Generation-Service`` as text, ``allowReboot``). ``canonical``: libvirt of Ubuntu's preview
(``quoteGenerationService`` with a ``SocketAddress``).
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from tdxstack.vm.dialects import Dialect, wanted_attributes
from tdxstack.vm.qemu.argv import QGS_SOCKET, QGS_VSOCK_HOST, QGS_VSOCK_PORT
from tdxstack.vm.spec import TdAttributes, TdSpec, VmType

DIGESTS = (("mrConfigId", "mrconfigid"), ("mrOwner", "mrowner"), ("mrOwnerConfig", "mrownerconfig"))
#: Bits of <policy> that libvirt and QEMU know.
POLICY = int(TdAttributes.DEBUG | TdAttributes.SEPT_VE_DISABLE)


def refusals(spec: TdSpec, dialect: Dialect) -> Iterator[str]:
    """What the dialect's libvirt cannot say, besides what its QEMU cannot do."""
    if spec.type is not VmType.TD or not dialect.hardware:
        return
    kind = spec.quote.partition(":")[0]
    if dialect.name == "upstream" and kind == "vsock":
        yield "upstream libvirt reaches the quoting service by a unix socket only"
    if dialect.name != "upstream" and kind == "unix":
        yield f"libvirt of {dialect.title} reaches the quoting service by vsock only"
    other = wanted_attributes(spec) & ~POLICY
    if other:
        yield f"libvirt's <policy> has no TD attribute bits {other:#x}"
    if dialect.name == "upstream" and wanted_attributes(spec) & TdAttributes.DEBUG:
        yield "upstream QEMU refuses TD attribute bit 0 (DEBUG)"


def launch_security(spec: TdSpec, dialect: Dialect) -> ET.Element:
    """The element, for a spec that ``refusals`` lets through."""
    element = ET.Element("launchSecurity", type="tdx")
    ET.SubElement(element, "policy").text = f"{wanted_attributes(spec):#x}"
    for tag, name in DIGESTS:
        if any(digest := getattr(spec, name)):
            ET.SubElement(element, tag).text = dialect.encode_digest(digest)
    if spec.quote != "none":
        element.append(_quote_service(spec, dialect))
    return element


def _quote_service(spec: TdSpec, dialect: Dialect) -> ET.Element:
    if dialect.name == "upstream":
        path = spec.quote.partition(":")[2] if spec.quote.startswith("unix:") else QGS_SOCKET
        return ET.Element("quoteGenerationService", path=path)
    cid, port = _vsock(spec)
    if dialect.name == "tdx15":
        service = ET.Element("Quote-Generation-Service")
        service.text = f"vsock:{cid}:{port}"
        return service
    service = ET.Element("quoteGenerationService")
    ET.SubElement(service, "SocketAddress", type="vsock", cid=cid, port=port)
    return service


def _vsock(spec: TdSpec) -> tuple[str, str]:
    parts = spec.quote.split(":")
    if parts[0] == "vsock" and len(parts) == 3:
        return parts[1], parts[2]
    return str(QGS_VSOCK_HOST), str(QGS_VSOCK_PORT)
