"""How the guest is reached: forwarded ports and the network behind its card."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, cast

from tdxstack.vm.settings import Codec


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of 127.0.0.1 that reaches a port of the guest. ``host`` 0 lets the start choose one."""

    protocol: Literal["tcp", "udp"]
    host: int
    guest: int

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host}:{self.guest}"


def read_port_forward(value: object) -> PortForward:
    """``[tcp:|udp:]HOST:GUEST``, as in ``8080:80`` or ``udp:5353:53``."""
    if isinstance(value, PortForward):
        return value
    match = re.fullmatch(r"(?:(tcp|udp):)?(\d{1,5}):(\d{1,5})", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a port to forward (write 8080:80 or udp:5353:53)")
    host, guest = int(match[2]), int(match[3])
    if host > 65535 or not 0 < guest <= 65535:
        raise ValueError(f"{value!r}: a port is a number up to 65535")
    return PortForward(cast(Literal["tcp", "udp"], match[1] or "tcp"), host, guest)


PORT_FORWARD = Codec("[udp:]HOST:GUEST", read_port_forward, str, {"type": "string"})


def _read_network(value: object) -> str:
    text = str(value)
    if text in ("user", "none") or re.fullmatch(r"bridge:[A-Za-z0-9_.-]{1,15}", text):
        return text
    if text.startswith("user:"):
        user_network(text)
        return text
    raise ValueError(f"{text!r} is none of user, user:CIDR, user:CIDR:FIRST, none, bridge:NAME")


NETWORK = Codec("user[:CIDR[:FIRST]]|none|bridge:NAME", _read_network, str, {"type": "string"})


def is_user(network: str) -> bool:
    """Whether the network is QEMU's own, which forwards ports."""
    return network.partition(":")[0] == "user"


def user_network(network: str) -> dict[str, str]:
    """What ``user:CIDR:FIRST`` says: ``net``, and ``dhcpstart`` where the first DHCP address is given.

    Raises:
        ValueError: no network, or an address outside of it.
    """
    _, _, rest = network.partition(":")
    if not rest:
        return {}
    cidr, _, first = rest.partition(":")
    net = ipaddress.IPv4Network(cidr)
    if first and ipaddress.IPv4Address(first) not in net:
        raise ValueError(f"{first} is not in {cidr}")
    return {"net": cidr} | ({"dhcpstart": first} if first else {})


def _read_quote_path(value: object) -> str:
    text = str(value)
    if text in ("auto", "none", "tdvmcall", "vsock") or re.fullmatch(r"unix:/.+|vsock:\d+:\d+", text):
        return text
    raise ValueError(f"{text!r} is none of auto, none, tdvmcall, vsock, vsock:CID:PORT, unix:/PATH")


QUOTE_PATH = Codec("auto|none|tdvmcall|vsock|vsock:CID:PORT|unix:PATH", _read_quote_path, str, {"type": "string"})
