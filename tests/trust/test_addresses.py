"""How near an address is, and which a node may have, over the many ways of writing one."""

from __future__ import annotations

import pytest

from herd.trust.addresses import Nearness, nearness, node_problem

HERE = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
NEAR = [
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
FAR = [
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


@pytest.mark.parametrize("ip", HERE)
def test_loopback_is_here_unless_somebody_else_is_spoken_for(ip: str) -> None:
    assert nearness(ip) is Nearness.HERE
    assert nearness(ip, is_forwarded=True) is Nearness.FAR


@pytest.mark.parametrize("ip", NEAR)
def test_private_networks_are_near(ip: str) -> None:
    assert nearness(ip) is Nearness.NEAR


@pytest.mark.parametrize("ip", FAR)
def test_everything_else_is_far(ip: str) -> None:
    assert nearness(ip) is Nearness.FAR


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "192.168.0.9", "fd12::1", "fe80::1%3", "100.100.1.1"])
def test_a_node_may_be_in_the_house(ip: str) -> None:
    assert node_problem(ip, 11434) == ""


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
def test_a_node_may_not_be_elsewhere_or_nowhere(ip: str) -> None:
    assert node_problem(ip, 11434)


def test_further_networks_are_allowed_by_name_but_never_the_metadata_address() -> None:
    assert node_problem("203.0.113.7", 80, ("203.0.113.0/24",)) == ""
    assert node_problem("203.0.114.7", 80, ("203.0.113.0/24",))
    assert node_problem("169.254.169.254", 80, ("0.0.0.0/0",))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_is_a_port(port: int) -> None:
    assert node_problem("10.0.0.1", port)
