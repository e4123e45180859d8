"""The real agent of ollama-herd 0.11.4 reports to our coordinator, serves its requests, and is drained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from fakes.child_process import Child, wait_until
from fakes.fleet import Fleet, Json, running_fleet
from fakes.real_ollama import CHAT_MODEL, RealOllama
from fakes.real_ollama_herd import agent

HEARTBEAT = "Ollama state:"
"""A line of its log: it has taken one heartbeat."""
REJECTED = "Heartbeat response: HTTP"
"""A line of its log: the answer to a heartbeat was an error."""
HI = [{"role": "user", "content": "Say hi."}]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet({}) as running:
        yield running


@pytest.fixture
def studio(
    ollama_herd: Path, fleet: Fleet, real_ollama: RealOllama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    with agent(ollama_herd, tmp_path_factory.mktemp("home"), fleet.url, real_ollama.url) as child:
        wait_until(lambda: child.output().count(HEARTBEAT) >= 4, "four heartbeats")
        yield child


def node(fleet: Fleet) -> Json:
    [found] = fleet.get("/fleet/status")["nodes"]
    assert isinstance(found, dict)
    return found


def test_no_heartbeat_is_rejected_and_models_keep_their_description(studio: Child, fleet: Fleet) -> None:
    """Only the first of these heartbeats describes the models; the others say that nothing has changed."""
    assert REJECTED not in studio.output()
    reported = node(fleet)
    [chat] = [model for model in reported["models"] if model["name"] == CHAT_MODEL]
    assert (reported["node_id"], reported["agent_version"], reported["status"]) == ("studio", "0.11.4", "online")
    assert len(chat["digest"]) == 64 and chat["capabilities"] == ["completion"]


def test_requests_are_answered_by_its_ollama(studio: Child, fleet: Fleet, real_ollama: RealOllama) -> None:
    options = {"seed": 5, "num_predict": 24}
    with ollama.Client(fleet.url) as client, ollama.Client(real_ollama.url) as direct:
        whole = client.chat(CHAT_MODEL, HI, options=options)
        parts = list(client.chat(CHAT_MODEL, HI, options=options, stream=True))
        assert whole.message.content == direct.chat(CHAT_MODEL, HI, options=options).message.content
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert REJECTED not in studio.output()


def test_its_models_are_copied_and_deleted_through_the_coordinator(studio: Child, fleet: Fleet) -> None:
    with ollama.Client(fleet.url) as client:
        client.copy(CHAT_MODEL, "tiny:copied")
        assert "tiny:copied" in {model.model for model in client.list().models}
        client.delete("tiny:copied")
        assert "tiny:copied" not in {model.model for model in client.list().models}
    assert studio.is_running


def test_agent_that_stops_is_drained_until_it_returns(
    studio: Child, fleet: Fleet, ollama_herd: Path, real_ollama: RealOllama, tmp_path: Path
) -> None:
    studio.terminate()
    assert studio.wait() == 0
    assert node(fleet)["draining"] and "Failed to send drain signal" not in studio.output()
    with agent(ollama_herd, tmp_path, fleet.url, real_ollama.url) as again:
        wait_until(lambda: not node(fleet)["draining"], "its return")
        assert again.is_running
