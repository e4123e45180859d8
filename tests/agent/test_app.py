"""Tests the complete agent: its heartbeats, its stored state, and its end."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from threading import Event

import pytest

from fakes.child_process import Child
from fakes.coordinator import FakeCoordinator
from fakes.ollama.server import FakeOllama
from fakes.ollama.store import make
from herd.agent.app import Agent, AgentSettings, CannotStart, Settings, models_by_name
from herd.agent.coordinator_link import LinkSettings
from herd.agent.inventory import EngineSettings
from herd.agent.model_registry import ModelRegistrySettings
from herd.agent.sensors import Sensor, SensorPaths
from herd.agent_protocol.heartbeat_json import MODELS_MAX
from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo, Report
from herd.http1.client import request

Play = Callable[[Agent, FakeCoordinator, FakeOllama], Awaitable[None]]


def settings_for(folder: Path, coordinator_url: str, engine_url: str, **more: object) -> Settings:
    return Settings(
        agent=AgentSettings(node_id="alpha", data_dir=folder, **more),  # type: ignore[arg-type]
        engines=EngineSettings("ollama", engine_url, slots=3),
        link=LinkSettings(coordinator_url, 0.1, 2.0),
        model_registry=ModelRegistrySettings(
            share=False
        ),  # a test must not read the store of an Ollama on this machine
    )


def with_agent(folder: Path, play: Play, **more: object) -> None:
    async def go() -> None:
        async with FakeCoordinator() as coordinator, FakeOllama(["m"]) as ollama:
            agent = Agent(settings_for(folder, coordinator.url, ollama.url, **more), Random(1), "boot-1")
            await agent.start()
            try:
                await play(agent, coordinator, ollama)
            finally:
                await agent.stop()

    asyncio.run(go())


def test_a_heartbeat_contains_name_hardware_engines_and_models(tmp_path: Path) -> None:
    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        reply = await agent.beat()
        report = coordinator.reports[0]
        assert reply is not None and reply.is_accepted and (report.node_id, report.boot_id) == ("alpha", "boot-1")
        assert list(report.models) == ["m:latest"] and report.engines == (
            EngineEndpoint("ollama", ollama.url, "0.32.15", 3, report.engines[0].models_max),
        )
        assert (
            report.memory.total_bytes > 1 << 28
            and report.cores > 0
            and report.os
            and report.arch
            and report.disk is not None
        )
        assert report.capacity is None and report.agent_version

    with_agent(tmp_path, play)


def test_an_engine_that_stops_and_returns_is_reported(tmp_path: Path) -> None:
    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        await agent.beat()
        await ollama.refuse()
        for _ in range(3):
            await agent.beat()
        await ollama.listen()
        await agent.beat()
        assert [len(report.models) for report in coordinator.reports] == [1, 1, 1, 0, 1]
        assert [report.connection_failures for report in coordinator.reports] == [0, 1, 2, 3, 0]

    with_agent(tmp_path, play)


def test_the_agent_continues_without_a_coordinator_and_reports_again_when_it_is_back(tmp_path: Path) -> None:
    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        await agent.beat()
        coordinator.refuse()
        for _ in range(4):
            reply = await agent.beat()
            assert reply is not None and not reply.is_accepted
        await coordinator.listen()
        await agent.beat()
        assert [report.boot_id for report in coordinator.reports] == ["boot-1"] * 2

    with_agent(tmp_path, play)


def test_an_assigned_name_is_used_also_after_a_restart(tmp_path: Path) -> None:
    async def first(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        coordinator.gives_name = "alpha-2"
        await agent.beat()
        await agent.beat()
        await agent.stop()
        assert [report.node_id for report in coordinator.reports] == ["alpha", "alpha-2"]
        assert coordinator.goodbyes[0] == {"node_id": "alpha-2", "boot_id": "boot-1"}

    async def second(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        await agent.beat()
        assert coordinator.reports[0].node_id == "alpha-2"

    with_agent(tmp_path, first)
    with_agent(tmp_path, second)


@pytest.mark.parametrize(
    "stored", ["", "[]", '{"asked":"beta","given":"beta-2"}', '{"asked":"alpha","given":7}', '{"asked":"alpha"}']
)
def test_an_invalid_stored_name_or_one_for_another_request_is_ignored(tmp_path: Path, stored: str) -> None:
    (tmp_path / "node-name.json").write_text(stored)

    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        assert agent.node_id == "alpha"

    with_agent(tmp_path, play)


def test_a_sensor_that_hangs_or_fails_does_not_stop_the_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, starts = Event(), []

    def hangs(_: SensorPaths) -> Mapping[str, object]:
        starts.append(1)
        release.wait(30)
        return {"chip": "late"}

    def breaks(_: SensorPaths) -> Mapping[str, object]:
        raise OSError("no such thing")

    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        agent._sensors = (*agent._sensors, Sensor("zz-hangs", hangs), Sensor("zz-breaks", breaks))
        for _ in range(3):
            await agent.beat()
        assert len(coordinator.reports) == 3 and len(starts) == 1
        release.set()
        await agent.beat()
        await agent.beat()
        assert coordinator.reports[-1].chip == "late"

    monkeypatch.setattr("herd.agent.app.SENSORS_MAX_S", 0.05)
    try:
        with_agent(tmp_path, play)
    finally:
        release.set()


def test_availability_estimates_start_with_observation_and_are_stored(tmp_path: Path) -> None:
    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        await agent.beat()
        await agent.stop()
        capacity = coordinator.reports[0].capacity
        assert capacity is not None and (capacity.mode, capacity.paused) == ("bootstrap", True)

    with_agent(tmp_path, play, capacity_learning=True)
    stored = json.loads((tmp_path / "capacity-learner-alpha.json").read_bytes())
    assert len(stored["slots"]) == 168 and stored["first_observation"] > 0


def test_an_invalid_file_of_estimates_is_renamed_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "capacity-learner-alpha.json").write_bytes(b"{broken")

    async def play(agent: Agent, coordinator: FakeCoordinator, ollama: FakeOllama) -> None:
        assert (tmp_path / "capacity-learner-alpha.broken").read_bytes() == b"{broken"

    with_agent(tmp_path, play, capacity_learning=True)


def test_an_unknown_engine_prevents_the_start_and_the_error_lists_the_valid_ones(tmp_path: Path) -> None:
    settings = dataclasses.replace(settings_for(tmp_path, "http://127.0.0.1:1", ""), engines=EngineSettings("olama"))

    async def go() -> None:
        with pytest.raises(CannotStart, match=r"'olama'.*ollama"):
            await Agent(settings, Random(1), "b").start()

    asyncio.run(go())


def test_of_too_many_models_the_loaded_and_the_newest_are_reported() -> None:
    endpoint = EngineEndpoint("ollama", "http://127.0.0.1:1")
    reported = [
        ModelInfo(name=f"m{n}", engine=endpoint, modified_at=f"2026-01-01T00:00:{n:06}Z")
        for n in range(MODELS_MAX + 10)
    ]
    reported[0] = dataclasses.replace(reported[0], loaded=Loaded(1))
    models = models_by_name(reported)
    assert (
        len(models) == MODELS_MAX
        and "m0:latest" in models
        and "m1:latest" not in models
        and f"m{MODELS_MAX + 9}:latest" in models
    )


def test_if_two_engines_have_a_model_the_one_that_has_it_in_memory_is_reported() -> None:
    endpoints = [EngineEndpoint("ollama", "http://127.0.0.1:1"), EngineEndpoint("llamacpp", "http://127.0.0.1:2")]
    reported = [
        ModelInfo(name="m", engine=endpoints[0]),
        ModelInfo(name="M:latest", engine=endpoints[1], loaded=Loaded(1)),
    ]
    assert models_by_name(reported) == models_by_name(reported[::-1]) == {"m:latest": reported[1]}


def a_process(folder: Path, *arguments: str) -> Child:
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FLEET_ENV_FILE": os.devnull,
        "FLEET_NODE_HEARTBEAT_INTERVAL": "0.1",
    }
    return Child(
        [sys.executable, "-m", "herd", "node", "--node-id", "alpha", "--data-dir", str(folder), *arguments], environment
    )


def test_sigterm_sends_a_goodbye_and_exits_with_status_0(tmp_path: Path) -> None:
    async def go() -> tuple[Report, int]:
        async with FakeCoordinator() as coordinator, FakeOllama(["m"]) as ollama:
            with a_process(
                tmp_path, "--router-url", coordinator.url, "--engine", "ollama", "--engine-url", ollama.url
            ) as child:
                await coordinator.until(lambda: len(coordinator.reports) > 1, "two heartbeats", 30.0)
                child.terminate()
                await coordinator.until(lambda: coordinator.goodbyes, "a goodbye", 30.0)
                code = await asyncio.to_thread(child.wait)
                assert coordinator.goodbyes == [{"node_id": "alpha", "boot_id": coordinator.reports[0].boot_id}]
                return coordinator.reports[0], code

    report, code = asyncio.run(go())
    assert code == 0 and list(report.models) == ["m:latest"]


def test_sigterm_ends_the_agent_while_a_coordinator_does_not_answer(tmp_path: Path) -> None:
    async def go() -> int:
        connected = asyncio.Event()
        gone = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            await gone.wait()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with a_process(
            tmp_path, "--router-url", url, "--engine", "ollama", "--engine-url", "http://127.0.0.1:1"
        ) as child:
            await asyncio.wait_for(connected.wait(), 30.0)
            child.terminate()
            code = await asyncio.to_thread(child.wait)
        gone.set()
        server.close()
        return code

    assert asyncio.run(go()) == 0


def test_a_machine_with_an_ollama_store_reports_the_url_of_its_model_registry(tmp_path: Path) -> None:
    digest = make(tmp_path / "store")

    async def go() -> None:
        async with FakeCoordinator() as coordinator, FakeOllama(["m"]) as ollama:
            settings = settings_for(tmp_path, coordinator.url, ollama.url)
            settings = dataclasses.replace(
                settings, model_registry=ModelRegistrySettings(store=str(tmp_path / "store"))
            )
            agent = Agent(settings, Random(1), "boot-1")
            await agent.start()
            try:
                await agent.beat()
                (endpoint,) = coordinator.reports[0].engines
                reply = await request("GET", f"{endpoint.library_url}/v2/herd/{digest}/manifests/latest")
                assert reply.status == 200 and hashlib.sha256(reply.body).hexdigest() == digest
            finally:
                await agent.stop()

    asyncio.run(go())
