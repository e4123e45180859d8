"""With any client, a real Ollama keeps its runner and never answers a truncated prompt."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.real_ollama import CHAT_MODEL, NOT_FOUND, RealOllama, find_ollama
from herd.core.context.windows import WindowSettings
from herd.core.state.fleet import canonical

HI = [{"role": "user", "content": "Say hi."}]
SHORT = {"num_predict": 3}


@pytest.fixture(scope="module")
def real_ollama() -> Iterator[RealOllama]:
    """A separate server, because all of its runner processes are counted."""
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary) as running:
        yield running


@pytest.fixture
def fleet(real_ollama: RealOllama) -> Iterator[Fleet]:
    real_ollama.ask("POST", "/api/generate", json.dumps({"model": CHAT_MODEL, "keep_alive": 0}).encode())
    with running_fleet({"real": real_ollama}) as running:
        yield running


def ask(port: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(
            "POST",
            path,
            json.dumps({"model": CHAT_MODEL, "stream": False, **body}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())


CLIENTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": HI, "options": {**SHORT, "num_ctx": 4096}}),
    ("/api/chat", {"messages": HI, "options": SHORT}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 3}),
    ("/v1/messages", {"messages": HI, "max_tokens": 3}),
    (
        "/api/generate",
        {"prompt": "Hi", "options": {**SHORT, "num_ctx": 1024, "num_thread": 1, "num_batch": 64, "use_mmap": False}},
    ),
]


def count_runners(real_ollama: RealOllama, port: int, fleet: Fleet | None, rounds: int) -> int:
    """The number of runner processes for these clients, including the first load."""
    seen: set[int] = set()
    for _ in range(rounds):
        for path, body in CLIENTS:
            status, answer = ask(port, path, body)
            assert status == 200, answer
            seen.update(process.pid for process in real_ollama.runners())
            if fleet is not None:
                fleet.beat()
    return len(seen)


def test_interleaved_clients_cause_reloads_directly_but_not_through_the_coordinator(
    fleet: Fleet, real_ollama: RealOllama
) -> None:
    ask(fleet.port, "/api/chat", {"messages": HI, "options": {**SHORT, "num_ctx": 6144}})
    fleet.beat()
    assert count_runners(real_ollama, fleet.port, fleet, rounds=2) == 1
    assert count_runners(real_ollama, real_ollama.port, None, rounds=2) > 3, "directly, the same clients cause reloads"


def test_two_names_of_one_file_share_its_runner(fleet: Fleet, real_ollama: RealOllama) -> None:
    real_ollama.ask("POST", "/api/copy", json.dumps({"source": CHAT_MODEL, "destination": "second-name"}).encode())
    try:
        ask(fleet.port, "/api/chat", {"messages": HI, "options": {**SHORT, "num_ctx": 6144}})
        fleet.beat()
        seen = {process.pid for process in real_ollama.runners()}
        for name in ("second-name", CHAT_MODEL, "second-name"):
            status, answer = ask(fleet.port, "/v1/chat/completions", {"model": name, "messages": HI, "max_tokens": 3})
            assert status == 200, answer
            seen.update(process.pid for process in real_ollama.runners())
            fleet.beat()
        assert len(seen) == 1
    finally:
        real_ollama.ask("DELETE", "/api/delete", json.dumps({"model": "second-name"}).encode())


@pytest.mark.parametrize("words", [500, 3000, 4080, 4110, 6000])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_no_prompt_is_silently_truncated(fleet: Fleet, path: str, words: int) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "bito " * words}],
        "max_tokens": 3,
        "options": SHORT,
    }
    status, answer = ask(fleet.port, path, body)
    counted = answer.get("prompt_eval_count") or answer.get("usage", {}).get("prompt_tokens") or 0
    assert status == 200 and counted >= words, f"{status}: {counted} of {words} words were read, {answer}"


def test_prompt_longer_than_the_model_supports_is_rejected(fleet: Fleet) -> None:
    status, answer = ask(
        fleet.port, "/api/chat", {"messages": [{"role": "user", "content": "bito " * 40000}], "options": SHORT}
    )
    assert status == 400, answer


@pytest.mark.parametrize("protection", ["strip", "passthrough"])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_strict_mode_rejects_prompts_longer_than_the_window_and_accepts_others(
    real_ollama: RealOllama, path: str, protection: str
) -> None:
    wanted = replace(settings_for_tests(), windows=WindowSettings(protection=protection, overflow="strict"))
    real_ollama.ask("POST", "/api/generate", json.dumps({"model": CHAT_MODEL, "keep_alive": 0}).encode())
    with running_fleet({"real": real_ollama}, settings=wanted) as fleet:
        ask(fleet.port, "/api/chat", {"messages": HI, "options": {**SHORT, "num_ctx": 2048}})
        fleet.beat()
        for words in (500, 1900, 2030, 2060, 3500):
            options = {**SHORT, "num_ctx": 2048}
            status, answer = ask(
                fleet.port,
                path,
                {"messages": [{"role": "user", "content": "bito " * words}], "max_tokens": 3, "options": options},
            )
            usage = answer.get("usage", {})
            counted = answer.get("prompt_eval_count") or usage.get("prompt_tokens") or usage.get("input_tokens") or 0
            assert status == 400 or counted >= words, f"{status}: {counted} of {words} words were read, {answer}"
            # With "passthrough" a request without a window makes the engine load its default, which may be larger.
            if protection == "strip":
                assert status == (200 if words < 2000 else 400) or words in (2030, 2060), answer


def test_necessary_load_uses_the_window_that_usage_requires(real_ollama: RealOllama) -> None:
    wanted = replace(settings_for_tests(), windows=WindowSettings(dynamic=True))
    real_ollama.ask("POST", "/api/generate", json.dumps({"model": CHAT_MODEL, "keep_alive": 0}).encode())
    with running_fleet({"real": real_ollama}, settings=wanted) as fleet:
        use = fleet.coordinator.driver.forecast.window_usage
        fleet.on_loop(lambda: [use.learn(canonical(CHAT_MODEL), 5000) for _ in range(60)])
        seen: set[int] = set()
        for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
            assert ask(fleet.port, path, {"messages": HI, "max_tokens": 3, "options": SHORT})[0] == 200
            seen.update(process.pid for process in real_ollama.runners())
            fleet.beat()
        [running] = json.loads(real_ollama.ask("GET", "/api/ps"))["models"]
        assert running["context_length"] == 8192 and len(seen) == 1
