"""Tests the network zone of a caller's address and which addresses a node may have, in many notations."""

from __future__ import annotations

import pytest

from herd.trust.addresses import NetworkZone, node_address_problem, zone_of

THIS_MACHINE = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.5",
    "100.64.0.1",
    "fd12::1",
    "fe80::1%eth0",
    "::ffff:10.1.2.3",
    "169.254.1.1",
]
PUBLIC = [
    "8.8.8.8",
    "172.32.0.1",
    "192.169.0.1",
    "100.128.0.1",
    "2001:db8::1",
    "::ffff:8.8.8.8",
    "0.0.0.0",
    "::",
    "255.255.255.255",
    "224.0.0.1",
    "",
    "localhost",
    "evil.example",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "127.0.0.1:80",
    "[::1]",
    " 127.0.0.1",
    "127.0.0.1\n",
    "1" * 100,
]


@pytest.mark.parametrize("ip", THIS_MACHINE)
def test_loopback_is_this_machine_unless_a_proxy_forwards_the_request(ip: str) -> None:
    assert zone_of(ip) is NetworkZone.THIS_MACHINE
    assert zone_of(ip, is_forwarded=True) is NetworkZone.PUBLIC


@pytest.mark.parametrize("ip", PRIVATE)
def test_addresses_of_private_networks_are_private(ip: str) -> None:
    assert zone_of(ip) is NetworkZone.PRIVATE


@pytest.mark.parametrize("ip", PUBLIC)
def test_every_other_text_is_public(ip: str) -> None:
    assert zone_of(ip) is NetworkZone.PUBLIC


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "192.168.0.9", "fd12::1", "fe80::1%3", "100.100.1.1"])
def test_a_node_may_have_a_local_or_private_address(ip: str) -> None:
    assert node_address_problem(ip, 11434) == ""


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "0.0.0.0",
        "::",
        "224.0.0.5",
        "ff02::1",
        "255.255.255.255",
        "8.8.8.8",
        "2001:db8::1",
        "metadata.google.internal",
        "2130706433",
        "0x7f.1",
        "127.0.0.1@evil",
        "",
    ],
)
def test_a_node_may_not_have_a_public_or_invalid_address(ip: str) -> None:
    assert node_address_problem(ip, 11434)


def test_a_setting_allows_more_networks_but_never_the_metadata_address() -> None:
    assert node_address_problem("203.0.113.7", 80, ("203.0.113.0/24",)) == ""
    assert node_address_problem("203.0.114.7", 80, ("203.0.113.0/24",))
    assert node_address_problem("169.254.169.254", 80, ("0.0.0.0/0",))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_an_invalid_port_is_a_problem(port: int) -> None:
    assert node_address_problem("10.0.0.1", port)
