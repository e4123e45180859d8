"""Tests how the agent finds its coordinator, reports to it, and reconnects."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from functools import partial
from pathlib import Path
from random import Random

import pytest

from builders import a_report
from fakes.coordinator import FakeCoordinator
from herd import mdns
from herd.agent.coordinator_link import CoordinatorLink, LinkSettings
from herd.agent.node_identity import JoinSettings, open_identity
from herd.agent_protocol import heartbeat_encode

HEARTBEAT = heartbeat_encode.encode(a_report("alpha"), 0.0)


def a_link(url: str, interval_s: float = 5.0, seed: int = 7) -> CoordinatorLink:
    with tempfile.TemporaryDirectory() as folder:
        identity = open_identity(Path(folder), "alpha", "boot-1", JoinSettings(), bytes([seed]) * 32)
    return CoordinatorLink(LinkSettings(url, interval_s, timeout_s=2.0), Random(seed), identity)


def test_a_heartbeat_arrives_and_the_reply_has_the_assigned_name() -> None:
    async def go() -> None:
        async with FakeCoordinator() as coordinator:
            coordinator.gives_name = "alpha-2"
            link = a_link(coordinator.url)
            assert await link.find()
            reply = await link.report(HEARTBEAT)
            assert reply.is_accepted and reply.node_id == "alpha-2" and coordinator.reports[0].node_id == "alpha"
            assert link.pause_s() == 5.0

    asyncio.run(go())


def test_a_goodbye_names_node_and_boot() -> None:
    async def go() -> None:
        async with FakeCoordinator() as coordinator:
            await a_link(coordinator.url).goodbye("alpha", "boot-1")
            assert coordinator.goodbyes == [{"node_id": "alpha", "boot_id": "boot-1"}]

    asyncio.run(go())


def test_a_rejected_heartbeat_is_logged_with_the_coordinators_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with FakeCoordinator() as coordinator:
            coordinator.status = 422
            reply = await a_link(coordinator.url).report(HEARTBEAT)
            assert not reply.is_accepted and "422" in reply.problem and "memory.total_gb" in reply.problem

    with caplog.at_level(logging.WARNING, "herd.agent.coordinator_link"):
        asyncio.run(go())
    assert "memory.total_gb" in caplog.text


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with FakeCoordinator() as coordinator:
            link = a_link(coordinator.url)
            for status in (200, 200, 422, 422, 500, 200, 200):
                coordinator.status = status
                await link.report(HEARTBEAT)

    with caplog.at_level(logging.INFO, "herd.agent.coordinator_link"):
        asyncio.run(go())
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING", "INFO"]


def test_the_backoff_grows_to_the_interval_and_ends_with_the_first_success() -> None:
    async def go() -> list[float]:
        async with FakeCoordinator() as coordinator:
            link, pauses = a_link(coordinator.url), []
            coordinator.status = 503
            for _ in range(6):
                await link.report(HEARTBEAT)
                pauses.append(link.pause_s())
            coordinator.status = 200
            await link.report(HEARTBEAT)
            return [*pauses, link.pause_s()]

    pauses = asyncio.run(go())
    for pause, base in zip(pauses, (1, 2, 4, 5, 5, 5), strict=False):
        assert 0.5 * base <= pause <= 1.5 * base
    assert pauses[-1] == 5.0


def test_the_backoff_of_different_agents_differs() -> None:
    async def go() -> set[float]:
        links = [a_link("http://127.0.0.1:1", seed=seed) for seed in range(5)]
        for link in links:
            await link.report(HEARTBEAT)
        return {link.pause_s() for link in links}

    assert len(asyncio.run(go())) == 5


def test_a_configured_coordinator_is_used_even_if_it_never_answers() -> None:
    async def go() -> None:
        link = a_link("127.0.0.1:1")
        for _ in range(10):
            await link.report(HEARTBEAT)
        assert await link.find() and link.url == "http://127.0.0.1:1"

    asyncio.run(go())


@pytest.mark.parametrize("answer", [b"", b"null", b"[]", b'{"node_id":5}'])
def test_an_answer_without_a_valid_name_gives_an_empty_name_or_text(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> str:
        async with FakeCoordinator() as coordinator:
            monkeypatch.setattr(coordinator, "_answer", lambda path, body: (200, answer))
            return (await a_link(coordinator.url).report(HEARTBEAT)).node_id

    assert asyncio.run(go()) in ("", "5")


def test_the_first_announced_coordinator_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "browse", partial(mdns.browse, ["127.0.0.1"]))

    async def go() -> None:
        async with FakeCoordinator() as coordinator:
            # No program listens on port 1, as after a crash.
            advertisements = [
                await mdns.advertise(port, "1", "127.0.0.1", interfaces=["127.0.0.1"]) for port in (1, coordinator.port)
            ]
            if advertisements[0] is None or advertisements[1] is None:
                pytest.skip("this machine has no multicast: FINDING A COORDINATOR IS NOT TESTED")
            link = a_link("")
            async with asyncio.timeout(30.0):
                while link.url != coordinator.url:
                    await link.find()
            assert (await link.report(HEARTBEAT)).is_accepted
            coordinator.refuse()
            await link.report(HEARTBEAT)
            assert await link.find() and link.url == coordinator.url
            for one in advertisements:
                assert one is not None
                await one.withdraw()

    asyncio.run(go())
