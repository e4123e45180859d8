"""The count of a prompt takes a limited time, and ends its answer exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from herd.coordinator.proxy.relaying.prompt_count import COUNT_MAX_S, PromptCount
from herd.coordinator.proxy.visible_limit import VisibleLimit
from herd.coordinator.upstream.contract import UpstreamSink
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import FailureKind, RequestId, RequestKind
from herd.engines import EngineRequest
from herd.engines.ollama import ENGINE
from herd.engines.vllm import ENGINE as OTHER
from herd.protocols.conversation import Conversation

SENT = EngineRequest(
    "POST", "/api/chat", b'{"model":"m","messages":[],"stream":true,"format":"json","options":{"seed":1}}'
)


class Upstream:
    is_open = True

    def cancel(self) -> None:
        self.is_open = False


class RecordingPool:
    """Takes requests and timers, and calls nothing by itself."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.upstream = Upstream()

    def send(self, _url: str, _method: bytes, _path: bytes, _lines: bytes, body: bytes, sink: UpstreamSink) -> Upstream:
        self.bodies.append(body)
        self.sink = sink
        return self.upstream

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))


def a_limit() -> VisibleLimit:
    limit = VisibleLimit(ENGINE.reader(Conversation(kind=RequestKind.CHAT, model="m", stream=True)), 3, 7)
    limit.request = SENT
    return limit


def counting(pool: RecordingPool, limit: VisibleLimit, ended: list[int | None], engine: Any = ENGINE) -> Any:
    count = PromptCount(
        RequestId("r1"),
        cast("Pool", pool),
        lambda *_: pytest.fail("raised"),
        lambda: ended.append(limit.counted_tokens),
    )
    return count.send(limit, engine, "http://node:1")


def test_the_same_prompt_is_asked_with_an_answer_of_one_token() -> None:
    pool, limit, ended = RecordingPool(), a_limit(), list[int | None]()
    assert counting(pool, limit, ended) is pool.upstream
    assert pool.bodies == [b'{"model":"m","messages":[],"stream":false,"options":{"seed":1,"num_predict":1}}']
    pool.sink.on_head(200, [])
    pool.sink.on_body(b'{"done":true,"prompt_eval_count":11,"eval_count":1}')
    assert not ended
    pool.sink.on_end()
    pool.upstream.cancel()
    pool.timers[0][1]()
    assert ended == [11]


@pytest.mark.parametrize("answer", [(500, b'{"error":"no"}'), (200, b"not JSON"), (200, b'{"done":true}')])
def test_an_answer_without_a_number_leaves_the_estimate(answer: tuple[int, bytes]) -> None:
    pool, limit, ended = RecordingPool(), a_limit(), list[int | None]()
    counting(pool, limit, ended)
    pool.sink.on_head(answer[0], [])
    pool.sink.on_body(answer[1])
    pool.sink.on_end()
    assert ended == [None]


def test_an_engine_that_does_not_answer_in_time_or_is_gone_leaves_the_estimate() -> None:
    pool, limit, ended = RecordingPool(), a_limit(), list[int | None]()
    counting(pool, limit, ended)
    assert pool.timers[0][0] == COUNT_MAX_S
    pool.timers[0][1]()
    assert ended == [None] and not pool.upstream.is_open
    other = RecordingPool()
    counting(other, limit, ended)
    other.sink.on_error(FailureKind.CONNECT, "refused")
    assert ended == [None, None]


def test_nothing_is_asked_without_need() -> None:
    pool, ended = RecordingPool(), list[int | None]()
    known, unseen = a_limit(), a_limit()
    known.counted_tokens, unseen.request = 9, None
    assert counting(pool, known, ended) is counting(pool, unseen, ended) is None
    assert counting(pool, a_limit(), ended, OTHER) is None
    assert not pool.bodies and not ended
