"""Tests how IP addresses are read and written into URLs."""

import pytest

from herd.addresses import (
    ADDRESS_MAX_CHARS,
    address_group,
    bracketed,
    host_and_port,
    is_loopback,
    parse_address,
    plain_address,
)


@pytest.mark.parametrize("text", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_loopback_addresses_of_both_families(text: str) -> None:
    assert is_loopback(text)


@pytest.mark.parametrize("text", ["192.168.1.2", "fe80::1", "0.0.0.0", "localhost", "", "1" * (ADDRESS_MAX_CHARS + 1)])
def test_anything_else_is_not_loopback(text: str) -> None:
    assert not is_loopback(text)


def test_an_address_is_compared_without_zone_and_without_ipv6_mapping() -> None:
    assert plain_address("::ffff:10.0.0.7") == plain_address("10.0.0.7") == "10.0.0.7"
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("box") == "box"
    assert parse_address("box") is None


def test_only_an_ipv6_address_gets_brackets_and_gets_them_once() -> None:
    assert [bracketed(host) for host in ("box", "10.0.0.7", "::1", "[::1]")] == ["box", "10.0.0.7", "[::1]", "[::1]"]
    assert host_and_port("fd00::7", 11434) == "[fd00::7]:11434"


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2%eth0", "2001:db8:0:1::/64"),
        ("127.0.0.9", "this machine"),
        ("::1", "this machine"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_and_all_loopback_addresses_have_one_owner(text: str, group: str) -> None:
    assert address_group(text) == group
