"""Pairs an engine's own port with that of a coordinator in front of the same engine, and asks both."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from fakes.answer_comparison import ask
from fakes.fleet import ENGINES, Fleet, Machine, report_of
from fakes.llamacpp.engines import LlamaEngine
from fidelity.corpus import SEED, Endpoint, Sample
from fidelity.outcomes import Outcome, outcome
from herd.agent_protocol import heartbeat_encode

COUNT = int(os.environ.get("HERD_FIDELITY_COUNT", "12"))
"""Random combinations for each endpoint and engine; the numbers of other random requests grow with it."""
WINDOW_TOKENS = 16384
"""The context window of the engines that answer directly: every prompt of the corpus fits."""
ANSWER_MAX_S = 20.0
ANSWER_MAX_BYTES = 1 << 20
"""The tests' models do not end by themselves, so an answer whose limit was lost is longer than this."""
BEAT_EVERY_S = 1.0
SHOWN_MAX = 12
"""Most failures in one message."""


@dataclass(frozen=True, repr=False)
class Pair:
    """Two ports for the same models: the engine's own, and the coordinator's."""

    direct_port: dict[str, int]
    """By the role of the model."""
    herd_port: int
    models: dict[str, str]
    native: frozenset[str]
    """The paths that the engine serves itself, so that herd does not have to translate their requests."""

    def both(self, sample: Sample, limit_bytes: int = ANSWER_MAX_BYTES) -> tuple[Outcome, Outcome]:
        """The engine's own answer, and the one through herd."""
        return self.direct(sample, limit_bytes), self.through(sample, limit_bytes)

    def direct(self, sample: Sample, limit_bytes: int = ANSWER_MAX_BYTES) -> Outcome:
        role = sample.endpoint.model
        return ask_for(self.direct_port[role], sample, self.models[role], limit_bytes)

    def through(self, sample: Sample, limit_bytes: int = ANSWER_MAX_BYTES) -> Outcome:
        return ask_for(self.herd_port, sample, self.models[sample.endpoint.model], limit_bytes)


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


def ask_for(port: int, sample: Sample, model: str, limit_bytes: int = ANSWER_MAX_BYTES) -> Outcome:
    body = json.dumps({"model": model, **sample.body}).encode()
    try:
        answer = ask(port, "POST", sample.endpoint.path, body, limit_s=ANSWER_MAX_S, limit_bytes=limit_bytes)
    except (http.client.HTTPException, OSError) as error:
        return Outcome(status_class="no complete answer", error=repr(error))
    return outcome(sample.endpoint.path, sample.streams, answer)


def skip_if_hung(pair: Pair, endpoint: Endpoint) -> None:
    """Skips a test if the engine itself no longer answers a plain request: then there is nothing to compare with."""
    body = json.dumps({"model": pair.models[endpoint.model], **endpoint.base}).encode()
    try:
        ask(pair.direct_port[endpoint.model], "POST", endpoint.path, body, limit_s=ANSWER_MAX_S)
    except (http.client.HTTPException, OSError) as error:
        pytest.skip(f"A REAL ENGINE NO LONGER ANSWERS A PLAIN REQUEST, SO NOTHING IS COMPARED WITH IT: {error!r}")


def assert_none(found: list[str]) -> None:
    """Fails with the first differences and the seed."""
    shown = "\n  ".join(found[:SHOWN_MAX])
    assert not found, f"{len(found)} requests differ (seed {SEED}; direct != through herd):\n  {shown}"


def shown_body(sample: Sample) -> str:
    return json.dumps(sample.body, ensure_ascii=False)[:400]


def paths_of(kind: str, version: str) -> frozenset[str]:
    """The paths of client APIs that this version of an engine serves itself."""
    paths = next(engine.abilities.paths for engine in ENGINES if engine.kind == kind)
    return frozenset(path for path, served in paths.items() if served.exists_in(version))


def announce_as(fleet: Fleet, node_id: str, node: LlamaEngine, kind: str) -> None:
    """A heartbeat of a node whose llama.cpp is reported as an engine of this kind."""
    abilities = next(engine.abilities for engine in ENGINES if engine.kind == kind)
    report = report_of(node_id, node, Machine())
    endpoint = replace(report.engines[0], kind=kind, abilities=abilities)
    # Only llama.cpp's own plug-in reads what its template and its projector lack.
    models = {
        name: replace(info, engine=endpoint, lacks=info.lacks if kind == "llamacpp" else frozenset())
        for name, info in report.models.items()
    }
    report = replace(report, engines=(endpoint,), models=models)
    fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))
