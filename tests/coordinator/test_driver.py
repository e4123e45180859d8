"""Tests that no exception leaves a request without an owner: its client gets an answer, its row and slot are right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.raw_server import RawServer, answers, breaks_off, chunked, halts, stalls, whole
from herd.coordinator.driver import AUDIT_EVERY_S
from herd.coordinator.proxy.continuation import Continuation
from herd.coordinator.proxy.pass_through import PassThrough
from herd.coordinator.proxy.relaying.client_answer import ClientAnswer
from herd.coordinator.proxy.request_forms import RequestForms
from herd.coordinator.proxy.wait_comments import WaitNotice
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.placement import Placement
from herd.core.state.commands import Record
from herd.core.state.events import Ticked
from herd.core.state.request import FailureKind, Outcome
from herd.dialects.openai import DIALECT as OPENAI
from herd.errors import BadRequest
from protocol_samples import sample
from relay_fixtures import RelaySetup, a_relay_setup, run

LINES = sample("chat_stream").body.splitlines(keepends=True)
STREAM = chunked(*LINES)
BODY = b"".join(LINES)
DOCUMENT = whole(sample("chat_nostream").body)
BEGUN = chunked(*LINES)[: -len(chunked(LINES[-1])) + 60]
MIDSTREAM = Outcome.FAILED_MIDSTREAM

Setter = pytest.MonkeyPatch


class Bug(Exception):
    """An exception that nothing expects."""


def breaks(patch: Setter, where: type, name: str, error: type[Exception] = Bug, times: int = 1) -> None:
    """Lets the next calls of a method raise."""
    real, left = getattr(where, name), [times]

    def broken(*arguments: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error("broken on purpose")
        return real(*arguments, **more)

    patch.setattr(where, name, broken)


def kinds(setup: RelaySetup) -> list[FailureKind | None]:
    return [
        row.attempt.failure.kind if row.attempt is not None and row.attempt.failure is not None else None
        for row in setup.records
    ]


@pytest.mark.parametrize(("where", "name"), [(PassThrough, "feed"), (PassThrough, "end"), (RequestForms, "build")])
def test_before_the_first_byte_another_node_answers_after_an_exception(
    where: type, name: str, monkeypatch: Setter
) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(DOCUMENT)) as bad,
            RawServer(answers(DOCUMENT)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
        ):
            breaks(monkeypatch, where, name)
            client = await setup.answered(stream=False)
            assert (client.status, client.answer_headers["x-fleet-node"]) == (200, "good")
            assert setup.outcomes == [Outcome.RETRIED, Outcome.COMPLETED]
            assert kinds(setup)[0] is FailureKind.INTERNAL
            setup.expected_alarms = 1
            assert setup.driver.alarms == 1

    run(test)


def test_in_the_middle_of_a_stream_the_client_gets_an_error_in_its_format(monkeypatch: Setter) -> None:
    async def test() -> None:
        go_on = asyncio.Event()
        async with RawServer(halts(STREAM, len(BEGUN), go_on)) as server, a_relay_setup({"a": server.url}) as setup:
            client = setup.ask()
            await client.begun.wait()
            breaks(monkeypatch, PassThrough, "feed")
            go_on.set()
            await client.over
            assert not client.is_whole and client.last is not None and client.last.startswith(b'{"error":')
            assert setup.outcomes == [MIDSTREAM] and kinds(setup) == [FailureKind.INTERNAL]
            setup.expected_alarms = 1

    run(test)


@pytest.mark.parametrize("error", [Bug, BadRequest])
def test_an_exception_while_a_lost_node_is_reported_ends_the_stream(
    error: type[Exception], monkeypatch: Setter
) -> None:
    async def test() -> None:
        async with RawServer(breaks_off(BEGUN, len(BEGUN))) as server, a_relay_setup({"alpha": server.url}) as setup:
            breaks(monkeypatch, Continuation, "kinds", error)
            client = await setup.answered()
            assert not client.is_whole and client.last is not None and client.last.startswith(b'{"error":')
            assert setup.outcomes == [MIDSTREAM]
            setup.expected_alarms = 1

    run(test)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": [{"type": "web_search"}]},
        {"functions": [{"name": "f", "parameters": {}}]},
        {"response_format": {"type": "strange"}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
            ]
        },
    ],
)
def test_a_stream_that_cannot_be_translated_ends_when_its_node_dies(fields: dict[str, Any]) -> None:
    event = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    stream = chunked(event, event, more=b"Content-Type: text/event-stream\r\n")
    cut = len(stream) - 5

    async def test() -> None:
        async with (
            RawServer(breaks_off(stream, cut)) as bad,
            RawServer(breaks_off(stream, cut)) as other,
            a_relay_setup({"bad": bad.url, "other": other.url}, kind="vllm") as setup,
        ):
            body = {"stream": True, "messages": [{"role": "user", "content": "Hi"}], **fields}
            client = setup.ask("/v1/chat/completions", dialect=OPENAI, **body)
            await client.over
            assert client.status >= 400 or (client.last is not None and b"error" in client.last)
            assert setup.outcomes[-1] is not Outcome.COMPLETED

    run(test)


def test_an_exception_when_the_client_leaves_still_frees_the_slot(monkeypatch: Setter) -> None:
    async def test() -> None:
        async with RawServer(stalls(BEGUN)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = setup.ask()
            await client.begun.wait()
            breaks(monkeypatch, ClientAnswer, "forwarded_tokens")
            client.leave()
            assert setup.outcomes == [MIDSTREAM]
            setup.expected_alarms = 1

    run(test)


@pytest.mark.parametrize("name", ["record_completion", "record_end"])
def test_an_answer_from_which_nothing_could_be_learned_is_recorded_as_complete(name: str, monkeypatch: Setter) -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            breaks(monkeypatch, Forecast, name, OverflowError)
            client = await setup.answered()
            assert (client.answer, client.is_whole) == (BODY, True)
            assert setup.outcomes == [Outcome.COMPLETED] and setup.records[0].counters.completion_tokens == 4
            setup.expected_alarms = 1

    run(test)


def test_a_row_that_cannot_be_recorded_delays_no_other_request() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM), answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            real = setup.driver._record
            calls: list[Record] = []

            def failing(row: Record) -> None:
                calls.append(row)
                real(row)
                if len(calls) == 1:
                    raise Bug

            setup.driver._record = failing
            first, second = setup.ask(), setup.ask()
            await first.over
            await second.over
            assert first.is_whole and second.is_whole and len(calls) == 2
            setup.expected_alarms = 1

    run(test)


def test_a_failing_observer_changes_nothing() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:

            def observer(_message: object) -> None:
                raise Bug

            setup.driver.observe(observer)
            client = await setup.answered()
            assert client.is_whole and setup.outcomes == [Outcome.COMPLETED]
            setup.expected_alarms = setup.driver.alarms
            assert setup.driver.alarms

    run(test)


def test_a_comment_that_cannot_be_written_ends_only_its_own_request(monkeypatch: Setter) -> None:
    async def test() -> None:
        async with RawServer(stalls(BEGUN)) as server, a_relay_setup({"alpha": server.url}) as setup:
            running = setup.ask()
            body = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            asks = ((b"x-fleet-waiting", b"notes"),)
            first, second = (setup.ask("/v1/chat/completions", asks, OPENAI, **body) for _ in range(2))
            breaks(monkeypatch, WaitNotice, "write_position")
            waits = setup.dependencies.wait_comments
            waits.write_due(setup.driver.now() + 10.0)
            assert first.status == 500 and second.status == 200 and len(waits) == 1
            second.leave()
            running.leave()
            assert setup.outcomes == [Outcome.FAILED, Outcome.CLIENT_CANCELLED, Outcome.CLIENT_CANCELLED]
            setup.expected_alarms = 1

    run(test)


def test_the_audit_ends_a_stream_without_an_open_call() -> None:
    async def test() -> None:
        async with RawServer(stalls(BEGUN)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = setup.ask()
            await client.begun.wait()
            setup.driver.audit()
            assert not setup.driver.alarms
            upstream = setup.driver.runs[setup.request_id(1)]._upstream  # type: ignore[attr-defined]
            connection = upstream._connection
            upstream._end()  # as if the pool had forgotten the call
            connection.abort()
            setup.driver.audit()
            assert not client.is_whole and client.last is not None and client.last.startswith(b'{"error":')
            assert setup.outcomes == [MIDSTREAM] and setup.driver.alarms == 1
            setup.expected_alarms = 1

    run(test)


def test_the_audit_ends_a_request_without_an_owner_and_a_client_without_a_request() -> None:
    async def test() -> None:
        async with (
            RawServer(stalls(BEGUN), stalls(BEGUN)) as server,
            a_relay_setup({"alpha": server.url}, slots=2) as setup,
        ):
            first, second = setup.ask(), setup.ask()
            await first.begun.wait()
            await second.begun.wait()
            run_of_first = setup.driver.runs.pop(setup.request_id(1))
            setup.driver.audit()
            assert setup.outcomes == [MIDSTREAM] and setup.driver.alarms == 1
            setup.driver.runs[setup.request_id(1)] = run_of_first
            setup.driver.audit()
            assert not first.is_whole and first.over.done() and setup.driver.alarms == 2
            second.leave()
            setup.expected_alarms = 2

    run(test)


def test_the_audit_runs_every_few_seconds(monkeypatch: Setter) -> None:
    async def test() -> None:
        async with a_relay_setup() as setup:
            audits: list[float] = []
            now = [setup.driver.now()]
            monkeypatch.setattr(setup.driver, "audit", lambda: audits.append(now[0]))
            setup.driver.now = lambda: now[0]
            for _ in range(20):
                now[0] += AUDIT_EVERY_S / 4
                setup.driver._wake()
                setup.driver.stop()
            assert len(audits) == 5

    run(test)


@pytest.mark.parametrize("number", [b"1" + b"0" * 400, b"-5", b"1e308", b"NaN", b"1e999", b'"x"'])
@pytest.mark.parametrize("stream", [True, False])
def test_impossible_numbers_of_an_engine_are_ignored(number: bytes, stream: bool) -> None:
    body = BODY if stream else sample("chat_nostream").body
    for name in (b"eval_count", b"prompt_eval_count", b"eval_duration", b"load_duration", b"prompt_eval_duration"):
        body = _with_number(body, name, number)
    answer = chunked(body) if stream else whole(body)

    async def test() -> None:
        async with RawServer(answers(answer)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered(stream=stream)
            assert client.status in (200, 502)
            counters = setup.records[-1].counters
            for value in (counters.prompt_tokens, counters.completion_tokens, counters.decode_s, counters.load_s):
                assert value is None or 0 <= value < 1e9

    run(test)


def _with_number(body: bytes, name: bytes, number: bytes) -> bytes:
    before, separator, after = body.rpartition(b'"%b":' % name)
    assert separator
    end = next(index for index, character in enumerate(after) if character in b",}")
    return before + separator + number + after[end:]


@pytest.mark.parametrize(("stream", "name"), [(True, "finish"), (False, "respond")])
def test_a_client_is_not_left_waiting_if_the_end_of_its_answer_cannot_be_written(
    monkeypatch: Setter, stream: bool, name: str
) -> None:
    async def test() -> None:
        answer = STREAM if stream else DOCUMENT
        async with RawServer(answers(answer)) as server, a_relay_setup({"alpha": server.url}) as setup:
            breaks(monkeypatch, ClientAnswer, name)
            client = setup.ask(stream=stream)
            client.status = 0 if stream else 200  # a client in memory can only be cut off after its head
            async with asyncio.timeout(5.0):
                await client.over
            assert not client.is_whole and setup.outcomes == [Outcome.COMPLETED]
            setup.expected_alarms = 1

    run(test)


def test_the_audit_ends_a_request_that_an_exception_has_left_in_no_queue(monkeypatch: Setter) -> None:
    async def test() -> None:
        async with a_relay_setup({}) as setup:
            setup.add_node("alpha", "http://127.0.0.1:1", model="other")
            client = setup.ask()
            assert setup.driver.dispatcher.waiting.holding
            breaks(monkeypatch, Placement, "place")
            setup.driver.feed(Ticked(setup.driver.now()))
            setup.driver.audit()
            assert client.status == 500 and setup.outcomes == [Outcome.FAILED]
            setup.expected_alarms = 2

    run(test)
