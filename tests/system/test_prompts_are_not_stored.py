"""Tests that a word from prompts, answers and engine errors appears in no file and on no route."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.faults import Cut, Garbage, Status
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd import logs
from herd.core.lifecycle.holding import HoldingSettings
from herd.logs import LogSettings

CANARY = "xylocanary7q"
MESSAGES = [{"role": "system", "content": f"{CANARY} system"}, {"role": "user", "content": f"{CANARY} user"}]
ASKED = (
    ("/api/chat", {"model": "m", "messages": MESSAGES}),
    ("/api/chat", {"model": "m", "messages": MESSAGES, "stream": False}),
    ("/api/generate", {"model": "m", "prompt": CANARY, "system": CANARY, "stream": False}),
    ("/api/embed", {"model": "m", "input": [CANARY]}),
    ("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "stream": True}),
    ("/v1/completions", {"model": "m", "prompt": CANARY}),
    ("/v1/messages", {"model": "m", "max_tokens": 9, "system": CANARY, "messages": MESSAGES[1:]}),
    ("/v1/responses", {"model": "m", "input": CANARY}),
    ("/v1/embeddings", {"model": "m", "input": CANARY}),
)
WRONG = (
    ("/api/chat", {"model": CANARY * 30, "messages": MESSAGES}),
    ("/api/chat", {"model": "m", "messages": CANARY}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/messages", {"model": "m", "max_tokens": CANARY, "messages": MESSAGES}),
    ("/api/chat", {"model": "m", "messages": MESSAGES, "options": CANARY}),
    (f"/api/{CANARY}", {"model": "m", "messages": MESSAGES}),
)
BROKEN = b'{"model":"m","messages":[{"role":"user","content":"' + CANARY.encode()


def post(fleet: Fleet, path: str, body: bytes, **headers: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        connection.getresponse().read()
    except (http.client.HTTPException, OSError):
        pass  # a stream that was cut
    finally:
        connection.close()


def get(fleet: Fleet, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse().read()
    connection.close()
    return answer


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Logs everything as `herd` does; flushed at the end."""
    kept = logs.start(LogSettings(), folder, "herd")
    try:
        logging.getLogger("herd").info("the requests begin")
        yield
    finally:
        kept.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    impatient = replace(settings_for_tests(), holding=HoldingSettings(wait_max_s=0.0, start_grace_s=0.0))
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet({"one": one, "two": two}, settings=impatient) as running,
    ):
        yield running


def test_no_prompt_or_answer_text_is_stored(fleet: Fleet) -> None:
    with logged(fleet.data_dir):
        ask_everything(fleet)
        fleet.settle()
    assert fleet.coordinator.store.flush()
    seen = get(fleet, "/dashboard/api/traces?limit=200")
    assert len(json.loads(seen)["traces"]) > 50, "little was recorded, so little is shown by this test"
    for path in (
        "/dashboard/api/traces?limit=200",
        "/dashboard/api/usage",
        "/fleet/status",
        "/fleet/queue",
        "/fleet/capture",
    ):
        assert CANARY.encode() not in get(fleet, path), path
    for file in files_of(fleet.data_dir):
        assert CANARY.encode() not in file.read_bytes(), file.name


def ask_everything(fleet: Fleet) -> None:
    """Sends valid and invalid requests in every dialect while engines answer, quote the prompt, fail and disconnect."""
    error = json.dumps({"error": f"cannot parse {CANARY}"}).encode()
    quoting = [Status(status=status, body=error) for status in (400, 500, 503)]
    for fault in (None, *quoting, Garbage(), Cut(after_bytes=400), Cut(after_bytes=0)):
        for engine in fleet.nodes.values():
            assert isinstance(engine, FakeOllama)
            engine.faults[:] = [fault] if fault is not None else []
        for path, body in ASKED:
            post(fleet, path, json.dumps(body).encode())
    for path, body in WRONG:
        post(fleet, path, json.dumps(body).encode())
    post(fleet, "/api/chat", BROKEN)
    post(fleet, "/api/chat", json.dumps(ASKED[0][1]).encode(), Authorization="Bearer herd_wrong_key")
    post(fleet, "/api/chat", json.dumps(ASKED[0][1]).encode(), Origin=f"https://{CANARY}.example")


def files_of(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".db") for path in found) and any(path.name.endswith(".jsonl") for path in found), (
        found
    )
    return found
