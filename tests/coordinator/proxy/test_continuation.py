"""What a client has received of a stream is stored as its text, within a limit."""

from __future__ import annotations

import json

import pytest

from herd.coordinator.proxy import continuation
from herd.coordinator.proxy.continuation import UNREAD_MAX_BYTES, Continuation
from herd.core.state.request import Counters, RequestId
from herd.dialects.openai import DIALECT
from herd.engines.llamacpp import ENGINE

BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
REQUEST = DIALECT.parse(DIALECT.routes[0], BODY)
CHUNK = b'data: {"id":"c","created":1,"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
ENGINES = {"llamacpp": ENGINE}


def sent(chunks: int) -> Continuation:
    kept = Continuation(DIALECT, REQUEST, RequestId("r1"))
    for _ in range(chunks):
        kept.record(CHUNK)
    return kept


def test_text_of_a_long_stream_is_stored_and_not_its_events() -> None:
    chunks = 3 * (1 << 20) // len(CHUNK)
    kept = sent(chunks)
    assert sum(map(len, kept._unread)) <= UNREAD_MAX_BYTES + len(CHUNK)
    assert kept.counters() == Counters(completion_tokens=chunks)
    assert kept.kinds(ENGINES) == {"llamacpp"}


def test_longer_text_than_the_limit_is_dropped_and_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "SENT_MAX_BYTES", 1000)
    assert sent(190).kinds(ENGINES) == {"llamacpp"}
    kept = sent(210)
    assert kept.kinds(ENGINES) == frozenset() and kept.counters() is None


def test_stream_that_cannot_be_read_is_not_continued() -> None:
    kept = Continuation(DIALECT, REQUEST, RequestId("r1"))
    kept.record(b'data: {"choices":7}\n\n')
    assert kept.kinds(ENGINES) == frozenset()
