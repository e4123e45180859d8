"""A model is copied from one real Ollama to another over the local network, without internet access."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.loop_thread import LoopThread
from fakes.real_ollama import CHAT_MODEL, NOT_FOUND, RealOllama, find_ollama
from herd.agent.model_registry import ModelRegistry, ModelRegistrySettings


@pytest.fixture
def two() -> Iterator[tuple[RealOllama, RealOllama]]:
    """The second one cannot reach a registry on the internet, so that it can copy models only from the first."""
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    with RealOllama(binary) as first, RealOllama(binary, nowhere) as second:
        yield first, second


@contextlib.contextmanager
def shared(source: RealOllama, settings: ModelRegistrySettings) -> Iterator[tuple[ModelRegistry, str]]:
    """The agent's registry for this engine's store, and its URL."""
    thread = LoopThread()
    registry = ModelRegistry(settings, lambda: source.store)
    try:
        yield registry, f"http://127.0.0.1:{thread.run(registry.port())}"
    finally:
        thread.loop.call_soon_threadsafe(registry.close)
        thread.stop()


def digests(ollama: RealOllama) -> dict[str, str]:
    return {one["name"]: one["digest"] for one in json.loads(ollama.ask("GET", "/api/tags"))["models"]}


def forget(ollama: RealOllama, model: str) -> None:
    ollama.ask("DELETE", "/api/delete", json.dumps({"model": model}).encode())


def test_copied_model_has_the_same_digest_and_gives_the_same_answer(two: tuple[RealOllama, RealOllama]) -> None:
    first, second = two
    forget(second, CHAT_MODEL)
    with (
        running_fleet({"first": first, "second": second}) as fleet,
        shared(first, ModelRegistrySettings()) as (registry, url),
    ):
        fleet.libraries["first"] = url
        fleet.beat("first")
        lines = fleet.lines("POST", "/api/pull", {"model": CHAT_MODEL, "node_id": "second"})
        assert lines[-1] == {"status": "success", "node": "second", "source": "first"}, lines
        assert digests(second)[CHAT_MODEL] == digests(first)[CHAT_MODEL]
        assert not [name for name in digests(second) if "/herd/" in name]
        assert registry.sent_bytes > 0
    question = json.dumps(
        {"model": CHAT_MODEL, "prompt": "Hi", "stream": False, "options": {"num_predict": 8, "seed": 1}}
    ).encode()
    assert (
        json.loads(first.ask("POST", "/api/generate", question))["response"]
        == json.loads(second.ask("POST", "/api/generate", question))["response"]
    )


BIG_BYTES = 24 << 20
BIG_MODEL = "tiny:big"


def make_big(ollama: RealOllama) -> int:
    """Creates a model with one large layer (its license), and returns the size of all its layers in bytes."""
    order = {"model": BIG_MODEL, "from": CHAT_MODEL, "license": "herd " * (BIG_BYTES // 5), "stream": False}
    ollama.ask("POST", "/api/create", json.dumps(order).encode())
    return next(one["size"] for one in json.loads(ollama.ask("GET", "/api/tags"))["models"] if one["name"] == BIG_MODEL)


def pull_until_half(fleet: Fleet, body: dict[str, object]) -> None:
    """A client that disconnects in the middle of the download."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
        connection.request("POST", "/api/pull", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        while (line := json.loads(response.readline())).get("completed", 0) < BIG_BYTES // 2:
            assert "error" not in line and line.get("status") != "success", line


def test_interrupted_copy_resumes(two: tuple[RealOllama, RealOllama]) -> None:
    first, second = two
    size = make_big(first)
    body: dict[str, object] = {"model": BIG_MODEL, "node_id": "second"}
    slow = ModelRegistrySettings(bytes_per_s=16 << 20)
    with running_fleet({"first": first, "second": second}) as fleet, shared(first, slow) as (registry, url):
        fleet.libraries["first"] = url
        fleet.beat("first")
        pull_until_half(fleet, body)
        assert BIG_MODEL not in digests(second), "an incomplete model is not listed"
        lines = fleet.lines("POST", "/api/pull", body)
        assert lines[-1].get("status") == "success", lines
        assert digests(second)[BIG_MODEL] == digests(first)[BIG_MODEL]
        again = registry.sent_bytes - size
        assert again < size // 4, f"{again} bytes of {size} were sent twice"


def test_layer_with_a_flipped_byte_is_rejected(two: tuple[RealOllama, RealOllama]) -> None:
    first, second = two
    make_big(first)
    blob = max(first.store.glob("blobs/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with running_fleet({"first": first, "second": second}) as fleet, shared(first, ModelRegistrySettings()) as (_, url):
        fleet.libraries["first"] = url
        fleet.beat("first")
        lines = fleet.lines("POST", "/api/pull", {"model": BIG_MODEL, "node_id": "second", "lan_only": True})
        assert "digest mismatch" in lines[-1]["error"], lines
        assert BIG_MODEL not in digests(second)
