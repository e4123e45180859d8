"""Decides which network a caller's IP address belongs to, and whether the coordinator may connect to a node's address.

Sources: RFC 1918, RFC 4193 (unique local), RFC 3927 and RFC 4291 (link-local), RFC 6598 (shared address space, which
overlay networks use). The metadata services of clouds have link-local IPv4 addresses, so a node may not have one.
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


class NetworkZone(Enum):
    THIS_MACHINE = "this machine"
    PRIVATE = "a private network"
    PUBLIC = "elsewhere"


def zone_of(ip: str, is_forwarded: bool = False) -> NetworkZone:
    """The caller's network. `is_forwarded`: a proxy forwards the request, so the caller's own address is unknown."""
    address = parse_address(ip)
    if address is None or is_forwarded:
        return NetworkZone.PUBLIC
    if address.is_loopback:
        return NetworkZone.THIS_MACHINE
    is_private = _is_in(address, PRIVATE) or _is_in(address, LINK_LOCAL)
    return NetworkZone.PRIVATE if is_private else NetworkZone.PUBLIC


def node_address_problem(ip: str, port: int, allowed: tuple[str, ...] = ()) -> str:
    """Why the coordinator may not connect to a node at this address; empty if it may.

    Loopback and private networks are allowed, other networks only if they are in `allowed`, for example
    "203.0.113.0/24". An address that is not a unicast address of a machine is never allowed.
    """
    if not 0 < port <= PORT_MAX:
        return f"{port} is not a port"
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
        return f"{address} is not the address of a machine"
    if _is_in(address, (LINK_LOCAL[1],)) or _is_in(address, parse_networks(allowed)):
        return ""
    return f"{address} is outside the private networks; to allow its network, add it to FLEET_NETWORKS"


def is_in_networks(ip: str, networks: tuple[_Network, ...]) -> bool:
    """Whether this text is an address in one of these networks."""
    address = parse_address(ip) if networks else None
    return address is not None and _is_in(address, networks)


def parse_networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    """Raises `ValueError` if a text is not a network."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def _is_in(address: IpAddress, networks: tuple[_Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
