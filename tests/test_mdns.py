"""Tests that announced coordinators are found, on loopback only, and that a network without mDNS is not an error."""

from __future__ import annotations

import asyncio
import errno

import pytest

import herd.mdns
from herd.mdns import SERVICE, Advertisement, FoundCoordinator, addresses, advertise, browse

LOOPBACK = ["127.0.0.1"]
TIMEOUT_S = 30.0


def announced(port: int, fleet_id: str = ""):  # noqa: ANN201
    return advertise(port, "1.2.3", "127.0.0.1", fleet_id, LOOPBACK)


async def found_on(port: int, queue: asyncio.Queue[FoundCoordinator]) -> FoundCoordinator:
    """The announcement of this test: other programs may announce coordinators too."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = await queue.get()
            if found.url.endswith(f":{port}"):
                return found


def test_an_announced_coordinator_is_found_with_its_version_and_fleet() -> None:
    async def go() -> None:
        out = await announced(40111, "f-1")
        if out is None:
            pytest.skip("this machine has no multicast: ANNOUNCING IS NOT TESTED")
        async with browse(LOOPBACK) as queue:
            found = await found_on(40111, queue)
        assert (found.url, found.version, found.fleet_id) == ("http://127.0.0.1:40111", "1.2.3", "f-1")
        assert f"{found.name}.{SERVICE}" == out.name
        await out.withdraw()

    asyncio.run(go())


def test_a_name_that_is_still_announced_after_a_crash_is_replaced_by_another() -> None:
    async def go() -> None:
        left = await announced(40112)
        if left is None:
            pytest.skip("this machine has no multicast: NAME CONFLICTS ARE NOT TESTED")
        again = await announced(40113)
        assert isinstance(again, Advertisement) and again.name != left.name and again.name.endswith(SERVICE)
        async with browse(LOOPBACK) as queue:
            assert (await found_on(40113, queue)).url == "http://127.0.0.1:40113"
        await again.withdraw()
        await left.withdraw()

    asyncio.run(go())


def test_announcing_and_browsing_do_not_fail_without_multicast(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def impossible(interfaces: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(herd.mdns, "_open", impossible)

    async def go() -> None:
        assert await announced(40114) is None
        async with browse(LOOPBACK) as queue:
            assert queue.empty()

    with caplog.at_level("INFO", "herd.mdns"):
        asyncio.run(go())
    assert caplog.text.count("No such device") == 2


def test_network_addresses_come_before_loopback_and_a_given_address_excludes_others() -> None:
    assert addresses("127.0.0.1") == ["127.0.0.1"]
    assert addresses()[-1].startswith("127.") and addresses("0.0.0.0") == addresses()
