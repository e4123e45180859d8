"""How near an address is, and whether a node may have it. Knows no name service: addresses only, as the kernel gives them.

Sources: RFC 1918, RFC 4193 (unique local), RFC 3927 and RFC 4291 (link-local), RFC 6598 (shared address space, which
overlay networks use). Link-local IPv4 holds the metadata services of clouds, so no node may have such an address.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

from herd.addresses import IpAddress, parse_address

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
LINK_LOCAL: Final = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
PORT_MAX = 65535


class Nearness(Enum):
    HERE = "this machine"
    NEAR = "a private network"
    FAR = "elsewhere"


def nearness(ip: str, is_forwarded: bool = False) -> Nearness:
    """How near the caller is. `is_forwarded`: a proxy says that it speaks for somebody else, so nothing is known."""
    address = parse_address(ip)
    if address is None or is_forwarded:
        return Nearness.FAR
    if address.is_loopback:
        return Nearness.HERE
    return Nearness.NEAR if _is_in(address, PRIVATE) or _is_in(address, LINK_LOCAL) else Nearness.FAR


def node_problem(ip: str, port: int, allowed: tuple[str, ...] = ()) -> str:
    """Why a node may not be reached at this address; empty when it may. `allowed`: further networks, as "203.0.113.0/24".

    Loopback is this machine, private networks are the fleet's; everything else must be allowed by name, and what is no
    unicast address of a machine never is.
    """
    if not 0 < port <= PORT_MAX:
        return f"{port} is no port"
    address = parse_address(ip)
    if address is None:
        return "not an address"
    if address.is_loopback or _is_in(address, PRIVATE):
        return ""
    if (
        address.is_unspecified
        or address.is_multicast
        or _is_in(address, (LINK_LOCAL[0],))
        or str(address) == "255.255.255.255"
    ):
        return f"{address} is no address of a machine"
    if _is_in(address, (LINK_LOCAL[1],)) or _is_in(address, networks(allowed)):
        return ""
    return f"{address} is outside the private networks; FLEET_NETWORKS allows more"


def networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    """Raises `ValueError` for what is no network."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def _is_in(address: IpAddress, among: tuple[_Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in among)
