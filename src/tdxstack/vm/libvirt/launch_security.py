"""``<launchSecurity type='tdx'>`` in the three dialects of libvirt.

Upstream: libvirt 11.6, docs/formatdomain.rst "Launch Security". ``tdx15``: libvirt 8.6 with Intel's TDX 1.5 patches
(digests in hex, ``Quote-Generation-Service`` as text, ``allowReboot``). ``canonical``: libvirt of Ubuntu's preview
(``quoteGenerationService`` with a ``SocketAddress``).
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from tdxstack.vm.dialects import Dialect, quote_address, wanted_attributes
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
    if (address := quote_address(spec, dialect)) is not None:
        element.append(_quote_service(address, dialect))
    return element


def _quote_service(address: str, dialect: Dialect) -> ET.Element:
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return ET.Element("quoteGenerationService", path=rest)
    if dialect.name == "tdx15":
        service = ET.Element("Quote-Generation-Service")
        service.text = address
        return service
    cid, _, port = rest.partition(":")
    service = ET.Element("quoteGenerationService")
    ET.SubElement(service, "SocketAddress", type="vsock", cid=cid, port=port)
    return service
