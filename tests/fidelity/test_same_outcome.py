"""A request through herd has the outcome that it has at the engine's own endpoint, whatever fields it has.

The engines are real: Ollama with and without an explicitly set context window, and llama.cpp, which also plays the
engines whose protocol it speaks. Requests are all fields of the published schemas, alone and combined at random. A
failure prints the seed; `HERD_FIDELITY_SEED` repeats it, `HERD_FIDELITY_COUNT` sets the number of combinations.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest

from fakes.answer_comparison import ask
from fakes.fleet import ENGINES, Fleet, Machine, report_of, running_fleet
from fakes.llamacpp.engines import HAS_XLLAMACPP, EngineSettings, LlamaEngine
from fakes.llamacpp.tiny_gguf import TinyModel
from fakes.real_ollama import CHAT_MODEL, EMBED_MODEL, ENDLESS_TOKENS, NOT_FOUND, TOOLS_MODEL, RealOllama, find_ollama
from fidelity.corpus import ENDPOINTS, SEED, Endpoint, Sample, combinations, lengthened, single_fields
from fidelity.outcomes import Outcome, outcome
from herd.agent_protocol import heartbeat_encode

COMBINATIONS = int(os.environ.get("HERD_FIDELITY_COUNT", "12"))
"""Random combinations for each endpoint and engine."""
WINDOW_TOKENS = 16384
"""The context window of the engines that answer directly: every prompt of the corpus fits."""
ANSWER_MAX_S = 20.0
ANSWER_MAX_BYTES = 1 << 20
"""The tests' models do not end by themselves, so an answer whose limit was lost is longer than this."""
BEAT_EVERY_S = 1.0
SHOWN_MAX = 12
"""Most failures in one message."""

OLLAMA_MODELS = {"chat": CHAT_MODEL, "tools": TOOLS_MODEL, "embed": EMBED_MODEL}
LLAMA_MODELS = {"chat": "tiny", "tools": "tiny", "embed": "tiny-embed"}
ENDLESS = TinyModel(seed=3, mean_tokens=ENDLESS_TOKENS)
LLAMA_KINDS = ("llamacpp", "openai", "vllm", "lmstudio")


@dataclass(frozen=True, repr=False)
class Pair:
    """Two ports for the same models: the engine's own, and the coordinator's."""

    direct_port: dict[str, int]
    """By the role of the model."""
    herd_port: int
    models: dict[str, str]


@contextmanager
def heartbeats(beat: Callable[[], None]) -> Iterator[None]:
    """Sends the nodes' heartbeats in the background, as agents do, while an answer takes long."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(BEAT_EVERY_S):
            beat()

    beat()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ask_for(port: int, sample: Sample, model: str) -> Outcome:
    body = json.dumps({"model": model, **sample.body}).encode()
    try:
        answer = ask(port, "POST", sample.endpoint.path, body, limit_s=ANSWER_MAX_S, limit_bytes=ANSWER_MAX_BYTES)
    except (http.client.HTTPException, OSError) as error:
        return Outcome(status_class="no complete answer", error=repr(error))
    return outcome(sample.endpoint.path, sample.streams, answer)


def differences(pair: Pair, samples: Iterator[Sample]) -> list[str]:
    found = []
    for sample in samples:
        model = pair.models[sample.endpoint.model]
        direct = ask_for(pair.direct_port[sample.endpoint.model], sample, model)
        through = ask_for(pair.herd_port, sample, model)
        if difference := direct.difference(through):
            sent = json.dumps(sample.body, ensure_ascii=False)
            found.append(f"{', '.join(sample.fields)}: {difference}\n    {sent[:400]}")
    return found


def assert_same(pair: Pair, samples: Iterator[Sample]) -> None:
    found = differences(pair, samples)
    shown = "\n  ".join(found[:SHOWN_MAX])
    assert not found, f"{len(found)} requests differ (seed {SEED}; direct != through herd):\n  {shown}"


def samples_of(endpoint: Endpoint) -> Iterator[Sample]:
    yield from single_fields(endpoint)
    yield from combinations(endpoint, random.Random(f"{SEED} {endpoint.path}"), COMBINATIONS)


def long_samples_of(endpoint: Endpoint) -> Iterator[Sample]:
    rng = random.Random(f"long {SEED} {endpoint.path}")
    singles = list(single_fields(endpoint))
    for sample in rng.sample(singles, min(len(singles), COMBINATIONS)):
        yield lengthened(sample)


# --- Ollama ---


@pytest.fixture(scope="module")
def direct_ollama() -> Iterator[RealOllama]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary, {"OLLAMA_CONTEXT_LENGTH": str(WINDOW_TOKENS)}) as server:
        yield server


@pytest.fixture(scope="module", params=["window by default", "window set"])
def ollama_pair(request: pytest.FixtureRequest, direct_ollama: RealOllama) -> Iterator[Pair]:
    binary = find_ollama()
    assert binary is not None
    with RealOllama(binary) as node, running_fleet({"alpha": node}) as fleet:
        if request.param == "window set":
            for model in (CHAT_MODEL, TOOLS_MODEL):
                load = {"model": model, "options": {"num_ctx": 8192}, "stream": False}
                node.ask("POST", "/api/generate", json.dumps(load).encode())
        with heartbeats(fleet.beat):
            yield Pair(dict.fromkeys(OLLAMA_MODELS, direct_ollama.port), fleet.port, OLLAMA_MODELS)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_ollama_answers_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    assert_same(ollama_pair, samples_of(endpoint))


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if one.can_stream], ids=lambda endpoint: endpoint.path)
def test_ollama_answers_a_long_prompt_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    assert_same(ollama_pair, long_samples_of(endpoint))


# --- llama.cpp, and engines that speak its protocols ---


@pytest.fixture(scope="module")
def llama_engines() -> Iterator[dict[str, LlamaEngine]]:
    if not HAS_XLLAMACPP:
        pytest.skip("xllamacpp is not installed")
    chat = EngineSettings(alias=LLAMA_MODELS["chat"], slots=1, context_tokens=WINDOW_TOKENS)
    embed = EngineSettings(alias=LLAMA_MODELS["embed"], embedding=True)
    with ExitStack() as started:
        engines = {
            "chat": started.enter_context(LlamaEngine(chat, ENDLESS)),
            "embed": started.enter_context(LlamaEngine(embed)),
        }
        yield engines


@pytest.fixture(scope="module", params=LLAMA_KINDS)
def llama_pair(request: pytest.FixtureRequest, llama_engines: dict[str, LlamaEngine]) -> Iterator[Pair]:
    with running_fleet({}) as fleet:

        def beat() -> None:
            for node_id, engine in llama_engines.items():
                announce_as(fleet, node_id, engine, request.param)

        ports = {role: llama_engines["embed" if role == "embed" else "chat"].port for role in LLAMA_MODELS}
        with heartbeats(beat):
            yield Pair(ports, fleet.port, LLAMA_MODELS)


def announce_as(fleet: Fleet, node_id: str, node: LlamaEngine, kind: str) -> None:
    """A heartbeat of a node whose llama.cpp is reported as an engine of this kind."""
    abilities = next(engine.abilities for engine in ENGINES if engine.kind == kind)
    report = report_of(node_id, node, Machine())
    endpoint = replace(report.engines[0], kind=kind, abilities=abilities)
    # Only llama.cpp's own plug-in reads what its template and its projector lack.
    lacks = {} if kind == "llamacpp" else {"lacks": frozenset[str]()}
    models = {name: replace(info, engine=endpoint, **lacks) for name, info in report.models.items()}
    report = replace(report, engines=(endpoint,), models=models)
    fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.path.startswith("/v1/")], ids=lambda endpoint: endpoint.path
)
def test_llamacpp_answers_the_same_through_herd(llama_pair: Pair, endpoint: Endpoint) -> None:
    assert_same(llama_pair, samples_of(endpoint))
