"""Reads IP addresses and writes them into URLs, without resolving host names."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

ADDRESS_MAX_CHARS = 64
ADDRESSES_CACHED_MAX = 4096
"""Addresses of clients and nodes that are parsed once: each of their requests asks for them several times."""
_HOST_BITS = 64

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> IpAddress | None:
    """The IP address without its zone, an IPv4-mapped IPv6 address as IPv4; None if the text is not an address."""
    return _parsed(text) if len(text) <= ADDRESS_MAX_CHARS else None


@lru_cache(ADDRESSES_CACHED_MAX)
def _parsed(text: str) -> IpAddress | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_address(text: str) -> str:
    """One spelling per address, to compare two of them; a text that is not an address stays as it is."""
    address = parse_address(text)
    return text if address is None else str(address)


def is_loopback(text: str) -> bool:
    address = parse_address(text)
    return address is not None and address.is_loopback


def address_group(text: str) -> str:
    """Whose address this is: a network (/64) of IPv6 has one owner, and all loopback addresses are this machine's."""
    return _group(text) if len(text) <= ADDRESS_MAX_CHARS else text


@lru_cache(ADDRESSES_CACHED_MAX)
def _group(text: str) -> str:
    address = parse_address(text)
    if address is None:
        return text
    if address.is_loopback:
        return "this machine"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((int(address) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))


def bracketed(host: str) -> str:
    """The host as it is written in a URL: an IPv6 address in square brackets, anything else unchanged."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def host_and_port(host: str, port: int) -> str:
    return f"{bracketed(host)}:{port}"
