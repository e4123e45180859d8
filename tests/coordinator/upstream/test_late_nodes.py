"""An engine behind a node that sends no heartbeats is asked by the coordinator, and left if it answers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.coordinator.driver import Driver
from herd.coordinator.upstream.engine_client import EngineRequestFailed
from herd.coordinator.upstream.late_nodes import EVERY_S, SILENT_AFTER_S, LateNodes
from herd.core.state.commands import Dispatch, GiveUp
from herd.core.state.events import Ticked
from herd.core.state.fleet import NodeId
from herd.core.state.liveness import LivenessSettings
from herd.engines import EngineRequest, EngineResponse
from herd.engines.llamacpp import ENGINE

LATE_AFTER_S = LivenessSettings().late_after_s
URLS = {name: f"http://{name}:1" for name in ("alpha", "beta")}


class Client:
    """Stands for the engines: `answers` returns the response, raises, or returns None for an engine that hangs."""

    def __init__(self, answers: Callable[[str], EngineResponse | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def send(self, url: str, _request: EngineRequest) -> EngineResponse:
        self.asked.append(url)
        while (answer := self.answers(url)) is None:
            await asyncio.sleep(0)
        return answer


class Clock:
    """A driver whose time is the world's."""

    def __init__(self, world: World) -> None:
        self.now: Callable[[], float] = lambda: world.now
        self.fleet = world.dispatcher.fleet
        self.live_requests = world.dispatcher.live_requests
        self.feed = world.feed


def a_fleet() -> World:
    world = a_world()
    for name, url in URLS.items():
        engine = an_engine(4, "llamacpp", url)
        world.receives(a_report(name, [a_model_info(loaded=True, engine=engine)], engines=(engine,)))
    return world


def late_nodes(world: World, client: Client) -> LateNodes:
    driver: Driver = Clock(world)  # type: ignore[assignment]
    return LateNodes(driver, client, {"llamacpp": ENGINE}, asyncio.get_running_loop(), LATE_AFTER_S)  # type: ignore[arg-type]


async def pass_time(world: World, watch: LateNodes, seconds: float, lag_s: float = 0.0) -> None:
    for _ in range(round(seconds / EVERY_S)):
        world.now += EVERY_S
        world.feed(Ticked(world.now))
        watch.step(world.now, lag_s)
        for _ in range(4):
            await asyncio.sleep(0)


def silent(world: World) -> list[str]:
    nodes = world.dispatcher.fleet.nodes.values()
    return sorted(node.id for node in nodes if any(engine.silent_s for engine in node.report.engines))


def lost() -> EngineResponse | None:
    raise EngineRequestFailed("no connection within 3 s")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silence", [lambda: None, lost])
def test_a_request_leaves_a_node_that_sends_nothing_any_more(
    stream: bool, silence: Callable[[], EngineResponse | None]
) -> None:
    async def check() -> None:
        world = a_fleet()
        world.arrives(stream=stream)
        (first,) = (command.node_id for command in world.commands if isinstance(command, Dispatch))
        if stream:
            world.first_byte()
        watch = late_nodes(world, Client(lambda url: silence() if url == URLS[first] else EngineResponse(200, b"{}")))
        await pass_time(world, watch, LATE_AFTER_S + SILENT_AFTER_S + 1.0)
        assert silent(world) == [first]
        moves = [c for c in world.commands if isinstance(c, GiveUp) or (isinstance(c, Dispatch) and c.attempt == 2)]
        assert len(moves) == 1 or stream
        assert moves
        watch.stop()

    asyncio.run(check())


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_late_heartbeat_alone_proves_nothing(status: int) -> None:
    async def check() -> None:
        world = a_fleet()
        world.arrives()
        watch = late_nodes(world, Client(lambda _url: EngineResponse(status, b"{}")))
        await pass_time(world, watch, LATE_AFTER_S + 3 * SILENT_AFTER_S)
        assert silent(world) == []
        watch.stop()

    asyncio.run(check())


def test_nodes_with_heartbeats_or_without_requests_are_not_asked() -> None:
    async def check() -> None:
        world, client = a_fleet(), Client(lambda _url: EngineResponse(200, b"{}"))
        watch = late_nodes(world, client)
        await pass_time(world, watch, 2 * LATE_AFTER_S)
        assert client.asked == []
        world.receives(*(node.report for node in world.dispatcher.fleet.nodes.values()))
        world.arrives()
        await pass_time(world, watch, LATE_AFTER_S - 1.0)
        assert client.asked == []
        watch.stop()

    asyncio.run(check())


def test_an_engine_that_answers_again_is_used_again() -> None:
    async def check() -> None:
        world, hangs = a_fleet(), True
        world.arrives("r1")
        watch = late_nodes(world, Client(lambda _url: None if hangs else EngineResponse(200, b"{}")))
        await pass_time(world, watch, LATE_AFTER_S + SILENT_AFTER_S + 1.0)
        assert silent(world)
        hangs = False
        await pass_time(world, watch, 1.0)
        assert silent(world) == []
        watch.stop()

    asyncio.run(check())


def test_a_heartbeat_replaces_what_the_coordinator_noticed() -> None:
    async def check() -> None:
        world = a_fleet()
        reports = {node.id: node.report for node in world.dispatcher.fleet.nodes.values()}
        world.arrives()
        watch = late_nodes(world, Client(lambda _url: None))
        await pass_time(world, watch, LATE_AFTER_S + SILENT_AFTER_S + 1.0)
        (name,) = silent(world)
        world.receives(reports[NodeId(name)])
        assert silent(world) == []
        watch.stop()

    asyncio.run(check())


def test_time_in_which_the_coordinator_did_not_run_is_not_the_engines_silence() -> None:
    async def check() -> None:
        world = a_fleet()
        world.arrives()
        watch = late_nodes(world, Client(lambda _url: None))
        await pass_time(world, watch, LATE_AFTER_S)
        world.now += 60.0
        watch.step(world.now, 60.0)
        assert silent(world) == []
        watch.stop()

    asyncio.run(check())
