"""Tests the relay with a real core, driver and connections, a client in memory, and scripted nodes."""

from __future__ import annotations

import asyncio
import json

import pytest

from fakes.raw_server import (
    RawServer,
    answers,
    breaks_off,
    chunked,
    closes_when_idle,
    halts,
    refused_url,
    stalls,
    whole,
)
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from herd.coordinator.upstream.connection import SWEEP_EVERY_S
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.core.state.events import NodeLeft
from herd.core.state.fleet import NodeId
from herd.core.state.request import FailureKind, Outcome
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from protocol_samples import sample
from relay_fixtures import TURN, RelaySetup, a_relay_setup, run

LINES = sample("chat_stream").body.splitlines(keepends=True)
STREAM = chunked(*LINES)
STREAM_BODY = b"".join(LINES)
DOCUMENT_BODY = sample("chat_nostream").body
DOCUMENT = whole(DOCUMENT_BODY)
BEGUN = chunked(*LINES)[: -len(chunked(LINES[-1])) + 60]
"""The stream up to the middle of its last but one piece."""
DYING = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
COMPLETED, FAILED, RETRIED = Outcome.COMPLETED, Outcome.FAILED, Outcome.RETRIED
MIDSTREAM, CANCELLED = Outcome.FAILED_MIDSTREAM, Outcome.CLIENT_CANCELLED


def text_of(lines: bytes) -> str:
    return "".join(json.loads(line)["message"]["content"] for line in lines.splitlines())


def first_failure(setup: RelaySetup) -> FailureKind | None:
    attempt = setup.records[0].attempt
    return attempt.failure.kind if attempt is not None and attempt.failure is not None else None


# --- passed through ---


def test_a_stream_passes_unchanged_and_its_headers_name_the_node() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(*(STREAM[n : n + 7] for n in range(0, len(STREAM), 7)))) as server,
            a_relay_setup({"alpha": server.url}) as setup,
        ):
            client = await setup.answered()
            assert (client.status, client.answer, client.is_whole, client.length) == (200, STREAM_BODY, True, None)
            headers = client.answer_headers
            assert headers["content-type"] == "application/x-ndjson"
            assert (headers["x-fleet-node"], headers["x-fleet-retries"], headers["x-fleet-request"]) == (
                "alpha",
                "0",
                "r1",
            )
            assert float(headers["x-fleet-score"]) > 0 and headers["x-fleet-fallback"] == "false"
            (record,) = setup.records
            assert (record.outcome, record.counters.completion_tokens) == (COMPLETED, 4)
            assert record.attempt is not None and record.attempt.first_byte_at is not None

    run(test)


def test_a_complete_answer_keeps_its_length() -> None:
    async def test() -> None:
        async with RawServer(answers(DOCUMENT)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered(stream=False)
            assert (client.answer, client.length, client.is_whole) == (DOCUMENT_BODY, len(DOCUMENT_BODY), True)
            assert setup.outcomes == [COMPLETED]

    run(test)


def test_the_request_to_the_node_has_new_headers() -> None:
    """No header about the client's connection, identity or browser reaches the node."""

    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            names = (
                "host content-length transfer-encoding connection keep-alive te trailer upgrade "
                "proxy-authorization x-named "
                "origin referer cookie authorization x-api-key accept-encoding expect x-herd-tags content-type"
                " x-herd-node"
            )
            headers = [(name.encode(), b"secret") for name in names.split() if name != "connection"]
            headers += [
                (b"connection", b"close, X-Named"),
                (b"x-trace", b"7"),
                (b"x-bad", b"a\r\nx-injected: 1"),
                (b"x-nul", b"\0"),
            ]
            client = setup.ask(headers=headers, user="me", fallback_models=["n"])
            await client.over
            head, _, body = server.requests[0].partition(b"\r\n\r\n")
            assert b"secret" not in head and b"injected" not in head and b"\0" not in head
            assert head.split(b"\r\n") == [
                b"POST /api/chat HTTP/1.1",
                b"Host: 127.0.0.1:%d" % server.port,
                b"Content-Type: application/json",
                b"Accept-Encoding: identity",
                b"x-trace: 7",
                b"Content-Length: %d" % len(body),
            ]
            assert json.loads(body) == {"model": "m", "messages": [{"role": "user", "content": "Say hi."}]}

    run(test)


def test_names_cannot_inject_headers() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(STREAM)) as server,
            a_relay_setup({"büro\r\nX-Evil: 1\0 50%": server.url}) as setup,
        ):
            client = await setup.answered()
            assert client.answer_headers["x-fleet-node"] == "b%C3%BCro%0D%0AX-Evil: 1%00 50%25"

    run(test)


def test_a_fallback_is_in_the_headers() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered(model="gone", fallback_models=["m"])
            names = ("x-fleet-fallback", "x-fleet-requested-model", "x-fleet-served-model")
            assert [client.answer_headers[name] for name in names] == ["true", "gone", "m"]
            assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["model"] == "m"

    run(test)


def test_a_prompt_over_the_context_window_is_in_the_headers() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered(messages=[{"role": "user", "content": "x" * 40_000}])
            assert client.answer_headers["x-fleet-context-overflow"].endswith("; context_length=4096")

    run(test)


# --- a node fails ---


def test_a_stream_that_ends_too_early_is_never_completed() -> None:
    """FIN after every number of bytes: complete if and only if the line with `done` has passed."""

    async def test() -> None:
        done_at = STREAM.rindex(b"}") + 1
        for n in range(len(STREAM) + 1):
            async with RawServer(breaks_off(STREAM, n)) as server, a_relay_setup({"alpha": server.url}) as setup:
                client = await setup.answered()
                if n >= done_at:
                    assert client.is_whole and client.answer.rstrip() == STREAM_BODY.rstrip(), f"FIN after {n} bytes"
                    assert setup.outcomes == [COMPLETED]
                elif client.status == 200:
                    assert not client.is_whole and STREAM_BODY.startswith(client.answer), f"FIN after {n} bytes"
                    assert client.last is not None and b'"error"' in client.last
                    assert setup.outcomes == [MIDSTREAM]
                else:
                    assert client.status == 502 and set(client.json) == {"error"}, f"FIN after {n} bytes"
                    assert setup.outcomes == [FAILED] or setup.outcomes == [RETRIED, FAILED]

    run(test)


def test_another_node_answers_what_one_could_not_begin() -> None:
    async def test() -> None:
        first_piece = STREAM.index(b"\r\n\r\n") + 4
        for n in range(first_piece + 4):
            async with (
                RawServer(breaks_off(STREAM, n)) as bad,
                RawServer(answers(STREAM)) as good,
                a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
            ):
                client = await setup.answered()
                assert (client.answer, client.is_whole) == (STREAM_BODY, True), f"FIN after {n} bytes"
                assert client.answer_headers["x-fleet-retries"] == "1"
                assert client.answer_headers["x-fleet-node"] == "good"
                assert setup.outcomes == [RETRIED, COMPLETED]

    run(test)


def test_an_answer_without_streaming_survives_a_node_failure_at_any_byte() -> None:
    """An answer without streaming is held until it is complete, so a client never sees half of it."""

    async def test() -> None:
        for n in range(len(DOCUMENT)):
            async with (
                RawServer(breaks_off(DOCUMENT, n)) as bad,
                RawServer(answers(DOCUMENT)) as good,
                a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
            ):
                client = await setup.answered(stream=False)
                assert (client.status, client.answer) == (200, DOCUMENT_BODY), f"FIN after {n} bytes"
                assert setup.outcomes == [RETRIED, COMPLETED]

    run(test)


def test_a_reset_in_the_middle_is_visible_to_the_client() -> None:
    async def test() -> None:
        async with (
            RawServer(breaks_off(STREAM, len(BEGUN), reset=True)) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
        ):
            client = await setup.answered()
            if client.status == 200 and not client.is_whole:  # otherwise the reset overtook all the bytes
                assert STREAM_BODY.startswith(client.answer)
                assert setup.outcomes[-1] == MIDSTREAM
            # Or the other node has given the same answer again, with a note about the first one.
            assert not client.is_whole or text_of(client.answer) == text_of(STREAM_BODY)

    run(test)


def test_an_incomplete_line_is_not_forwarded() -> None:
    async def test() -> None:
        async with RawServer(breaks_off(BEGUN, len(BEGUN))) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered()
            assert client.answer == b"".join(LINES[: client.answer.count(b"\n")])
            assert client.last is not None and client.last.startswith(b'{"error":')
        at_line_end = STREAM.index(LINES[0]) + len(LINES[0])
        async with RawServer(breaks_off(STREAM, at_line_end)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered()
            assert client.answer == LINES[0]
            assert client.last is not None and client.last.startswith(b'{"error":')

    run(test)


def test_an_orderly_close_without_the_end_marker_is_a_failure() -> None:
    async def test() -> None:
        async with RawServer(answers(chunked(*LINES[:-1]))) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered()
            assert (client.is_whole, client.answer) == (False, b"".join(LINES[:-1]))
            assert setup.outcomes == [MIDSTREAM] and first_failure(setup) is FailureKind.TRUNCATED

    run(test)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\x00\xffnot http at all\r\n\r\n", FailureKind.GARBAGE),
        (whole(b"", "302 Found", b"Location: http://127.0.0.1:1/\r\n"), FailureKind.GARBAGE),
        (whole(b"\x1f\x8b", more=b"Content-Encoding: gzip\r\n"), FailureKind.GARBAGE),
        (whole(b""), FailureKind.TRUNCATED),
        (
            whole(b'{"error":"llama runner process has terminated"}', "500 Internal Server Error"),
            FailureKind.MODEL_CRASHED,
        ),
        (whole(b'{"error":"failed to decode"}', "500 Internal Server Error"), FailureKind.SERVER_ERROR),
        (whole(b'{"error":"server busy"}', "503 Service Unavailable"), FailureKind.BUSY),
        (whole(b'{"error":"model \'m\' not found"}', "404 Not Found"), FailureKind.MODEL_MISSING),
        (whole(b"", "401 Unauthorized"), FailureKind.UNAUTHORIZED),
        (whole(b"", "403 Forbidden"), FailureKind.UNAUTHORIZED),
    ],
)
def test_a_failing_node_is_followed_by_a_working_one(answer: bytes, kind: FailureKind) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(answer)) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
        ):
            client = await setup.answered()
            assert (client.answer, client.is_whole) == (STREAM_BODY, True)
            assert setup.outcomes == [RETRIED, COMPLETED] and first_failure(setup) is kind

    run(test)


def test_a_refused_connection_is_retried_on_another_node() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as good, a_relay_setup({"bad": refused_url(), "good": good.url}) as setup:
            client = await setup.answered()
            assert client.answer == STREAM_BODY and client.answer_headers["x-fleet-retries"] == "1"
            assert first_failure(setup) is FailureKind.CONNECT

    run(test)


def test_a_stale_connection_does_not_count_as_an_attempt() -> None:
    async def test() -> None:
        async with (
            RawServer(closes_when_idle(STREAM), answers(STREAM)) as server,
            a_relay_setup({"alpha": server.url}) as setup,
        ):
            await setup.answered()
            client = await setup.answered()
            assert client.is_whole and client.answer_headers["x-fleet-retries"] == "0"
            assert setup.outcomes == [COMPLETED, COMPLETED] and server.connections == 2

    run(test)


def test_a_hanging_node_is_abandoned_after_the_first_byte_timeout() -> None:
    async def test() -> None:
        async with (
            RawServer(stalls()) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
        ):
            client = setup.ask()
            while not bad.requests:
                await asyncio.sleep(0)
            setup.time_passes()
            await bad.leavings.get()
            await client.over
            assert client.answer == STREAM_BODY
            assert setup.outcomes == [RETRIED, COMPLETED] and first_failure(setup) is FailureKind.FIRST_BYTE_TIMEOUT

    run(test)


def test_a_request_that_waits_again_has_closed_the_connection_to_its_lost_node() -> None:
    """Its node leaves before its first byte and the only other node is busy: the old connection is closed."""

    async def test() -> None:
        go_on = asyncio.Event()
        async with (
            RawServer(stalls()) as bad,
            RawServer(halts(STREAM, 0, go_on), answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url}) as setup,
        ):
            moved = setup.ask()
            while not bad.requests:
                await asyncio.sleep(0)
            setup.add_node("good", good.url, loaded=True)
            other = setup.ask()
            while not good.requests:
                await asyncio.sleep(0)
            setup.driver.feed(NodeLeft(setup.driver.now(), NodeId("bad")))
            await bad.leavings.get()
            assert not moved.over.done() and len(good.requests) == 1
            go_on.set()
            await asyncio.gather(moved.over, other.over)
            assert moved.answer == other.answer == STREAM_BODY
            assert setup.outcomes == [RETRIED, COMPLETED, COMPLETED]

    run(test)


def test_a_stall_in_the_middle_ends_the_answer() -> None:
    async def test() -> None:
        async with (
            RawServer(stalls(BEGUN)) as server,
            a_relay_setup({"alpha": server.url}, upstream=UpstreamSettings(stall_timeout_s=10)) as setup,
        ):
            client = setup.ask()
            await client.begun.wait()
            for _ in range(int(10 / SWEEP_EVERY_S) + 1):
                setup.pool.sweep()
            assert not client.is_whole and client.last is not None and b"node_timeout" in client.last
            assert setup.outcomes == [MIDSTREAM] and first_failure(setup) is FailureKind.STALLED
            await server.leavings.get()

    run(test)


# --- an engine refuses ---


def test_a_client_error_has_the_text_of_the_engine() -> None:
    async def test() -> None:
        error = b'{"error":"registry.ollama.ai/library/m does not support tools"}'
        async with (
            RawServer(answers(whole(error, "400 Bad Request"))) as server,
            RawServer(answers(STREAM)) as other,
            a_relay_setup({"alpha": server.url, "beta": other.url}) as setup,
        ):
            client = await setup.answered()
            assert (client.status, client.answer, client.is_whole) == (400, error, True)
            assert client.answer_headers["x-fleet-node"] == "alpha"
            assert setup.outcomes == [FAILED] and not other.requests

    run(test)


def test_an_endless_error_answer_is_not_collected() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(b"x" * 2_000_000, "400 Bad Request"))) as server,
            a_relay_setup({"alpha": server.url}, relay=RelaySettings(refusal_max_bytes=1000)) as setup,
        ):
            client = await setup.answered()
            assert client.status == 400 and len(client.json["error"]) <= 300

    run(test)


def test_busy_nodes_give_a_retry_after() -> None:
    async def test() -> None:
        busy = whole(b'{"error":"server busy"}', "503 Service Unavailable", b"Retry-After: 7\r\n")
        async with RawServer(answers(busy)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await setup.answered()
            assert client.status == 503
            assert 7 <= int(client.answer_headers["retry-after"]) <= 11, "Retry-After is spread at random"
            assert client.answer_headers["x-fleet-request"] == "r1" and "error" in client.json

    run(test)


def test_an_unknown_model_is_refused_in_the_dialects_format() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            setup.driver.dispatcher.placement._started_at -= 3600.0  # the start grace period is over
            client = await setup.answered(model="unheard-of")
            assert client.status == 404 and "unheard-of" in client.json["error"]
            assert not server.requests

    run(test)


# --- the client ---


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("sent", [b"", BEGUN], ids=["before the first byte", "in the middle"])
def test_a_client_disconnect_closes_the_node_connection_at_once(stream: bool, sent: bytes) -> None:
    async def test() -> None:
        async with RawServer(stalls(sent), answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = setup.ask(stream=stream)
            while not server.requests or (sent and stream and not client.status):
                await asyncio.sleep(0)
            (connection,) = setup.pool.connections
            client.leave()
            assert setup.outcomes == [CANCELLED] and not setup.pool.connections, "at once, not at the loop's next turn"
            assert connection._request is None
            await server.leavings.get()
            assert (await setup.answered()).is_whole, "the slot is free again"

    run(test)


@pytest.mark.parametrize("kind", ["ollama", "other"], ids=["passed on", "translated"])
def test_a_client_that_disconnects_after_the_last_event_has_a_complete_answer(kind: str) -> None:
    """Codex does so, before the engine has sent HTTP's end marker."""

    async def test() -> None:
        without_marker = STREAM[: -len(b"0\r\n\r\n")]
        async with (
            RawServer(stalls(without_marker), answers(STREAM)) as server,
            a_relay_setup({"alpha": server.url}, kind=kind) as setup,
        ):
            client = setup.ask()
            while b'"done":true' not in bytes(client.answer):
                await asyncio.sleep(0)
            client.leave()
            (record,) = setup.records
            assert (record.outcome, record.counters.completion_tokens) == (COMPLETED, 4)
            await server.leavings.get()
            assert (await setup.answered()).is_whole, "the slot is free again"

    run(test)


def test_a_request_whose_client_disconnects_while_queued_is_never_sent() -> None:
    async def test() -> None:
        async with RawServer(stalls(), answers(STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            first, second = setup.ask(), setup.ask()
            while not server.requests:
                await asyncio.sleep(0)
            second.leave()
            assert setup.outcomes == [CANCELLED]
            first.leave()
            assert (await setup.answered()).is_whole
            assert len(server.requests) == 2

    run(test)


def test_a_slow_client_slows_its_node_only() -> None:
    async def test() -> None:
        huge = chunked(*([b'{"done":false,"x":"' + b"y" * 60_000 + b'"}\n'] * 200), LINES[-1])
        async with RawServer(answers(huge)) as server, a_relay_setup({"alpha": server.url}, slots=2) as setup:
            slow = setup.ask()
            await slow.begun.wait()
            assert slow.on_writable is not None
            slow.on_writable(False)
            taken = len(slow.answer)
            quick = await setup.answered()
            assert quick.is_whole and len(slow.answer) == taken
            slow.on_writable(True)
            await slow.over
            assert slow.answer == quick.answer

    run(test)


# --- without streaming ---


def test_an_answer_too_long_to_hold_is_forwarded_as_it_arrives() -> None:
    async def test() -> None:
        body = b'{"embeddings":[' + b"[0.25]," * 50_000 + b"[0.5]]}"
        async with (
            RawServer(answers(whole(body))) as server,
            a_relay_setup({"alpha": server.url}, relay=RelaySettings(held_max_bytes=1000)) as setup,
        ):
            client = await setup.answered("/api/embed", input="x")
            assert (client.answer, client.length, client.is_whole) == (body, len(body), True)
            assert len(client.pieces) > 1

    run(test)


def test_a_forwarded_long_answer_is_cut_when_its_node_fails() -> None:
    async def test() -> None:
        answer = whole(b'{"embeddings":[' + b"[0.25]," * 50_000 + b"[0.5]]}")
        async with (
            RawServer(breaks_off(answer, 200_000)) as server,
            a_relay_setup({"alpha": server.url}, relay=RelaySettings(held_max_bytes=1000)) as setup,
        ):
            client = await setup.answered("/api/embed", input="x")
            assert (client.is_whole, client.last, setup.outcomes) == (False, b"", [MIDSTREAM])

    run(test)


# --- translated ---


def test_a_translated_stream_has_the_same_text() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(*(STREAM[n : n + 5] for n in range(0, len(STREAM), 5)))) as server,
            a_relay_setup({"alpha": server.url}, kind="other") as setup,
        ):
            client = await setup.answered(options={"num_predict": 4})
            lines = [json.loads(line) for line in client.answer.splitlines()]
            assert "".join(line["message"]["content"] for line in lines) == "Wai! Thank"
            assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
            assert client.is_whole and client.length is None
            (record,) = setup.records
            assert (record.outcome, record.counters.completion_tokens, record.counters.finish_reason) == (
                COMPLETED,
                4,
                "length",
            )
            assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["options"] == {"num_predict": 4}

    run(test)


def test_a_translated_answer_without_streaming_is_sent_at_once() -> None:
    async def test() -> None:
        async with RawServer(answers(DOCUMENT)) as server, a_relay_setup({"alpha": server.url}, kind="other") as setup:
            client = await setup.answered(stream=False)
            assert client.json["message"]["content"] == json.loads(DOCUMENT_BODY)["message"]["content"]
            assert client.length == len(client.answer) and setup.outcomes == [COMPLETED]

    run(test)


def test_a_translated_stream_that_ends_too_early_is_never_completed() -> None:
    async def test() -> None:
        done_at = STREAM.rindex(b"}") + 1
        for n in range(0, len(STREAM) + 1, 3):
            async with (
                RawServer(breaks_off(STREAM, n)) as server,
                a_relay_setup({"alpha": server.url}, kind="other") as setup,
            ):
                client = await setup.answered()
                is_done = client.is_whole and client.status == 200
                assert is_done == (setup.outcomes == [COMPLETED]), f"FIN after {n} bytes"
                assert n >= done_at or not is_done, f"FIN after {n} bytes"

    run(test)


def test_invalid_data_in_a_translated_answer_causes_a_retry() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(chunked(b"<html>\n"))) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}, kind="other") as setup,
        ):
            assert (await setup.answered()).is_whole
            assert setup.outcomes == [RETRIED, COMPLETED] and first_failure(setup) is FailureKind.GARBAGE

    run(test)


@pytest.mark.parametrize("kind", ["ollama", "other"])
def test_an_engine_error_before_the_first_byte_causes_a_retry(kind: str) -> None:
    """Ollama reports the error with status 200, as the only line of its stream."""

    async def test() -> None:
        async with (
            RawServer(answers(chunked(DYING))) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}, kind=kind) as setup,
        ):
            assert (await setup.answered()).is_whole
            assert setup.outcomes == [RETRIED, COMPLETED] and first_failure(setup) is FailureKind.MODEL_CRASHED

    run(test)


@pytest.mark.parametrize("kind", ["ollama", "other"])
def test_an_engine_error_in_the_middle_ends_the_answer(kind: str) -> None:
    async def test() -> None:
        go_on = asyncio.Event()
        dying = chunked(LINES[0], DYING)
        async with (
            RawServer(halts(dying, dying.index(DYING), go_on)) as bad,
            a_relay_setup({"bad": bad.url}, kind=kind) as setup,
        ):
            client = setup.ask()
            await client.begun.wait()
            go_on.set()
            await client.over
            assert not client.is_whole and setup.outcomes == [MIDSTREAM]

    run(test)

    run(test)


def test_an_engine_refusal_is_translated_into_the_clients_format() -> None:
    async def test() -> None:
        error = b'{"error":{"message":"context is full","type":"x"}}'
        async with (
            RawServer(answers(whole(error, "400 Bad Request"))) as server,
            a_relay_setup({"alpha": server.url}, kind="other") as setup,
        ):
            client = await setup.answered()
            assert (client.status, client.json) == (400, {"error": "context is full"})

    run(test)


def test_a_request_that_an_engine_cannot_express_is_a_client_error() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as server, a_relay_setup({"alpha": server.url}, kind="other") as setup:
            client = await setup.answered("/api/generate", prompt="x", template="{{ .Prompt }}")
            assert client.status == 400 and "template" in client.json["error"]
            assert setup.outcomes == [RETRIED, FAILED] and not server.requests
            assert first_failure(setup) is FailureKind.UNSUPPORTED

    run(test)


def test_a_path_that_an_old_engine_lacks_is_translated_from_then_on() -> None:
    """The engine reports no version, so its plug-in believes that it has the path."""

    async def test() -> None:
        unknown = whole(b"404 page not found", "404 Not Found", b"Content-Type: text/plain\r\n")
        async with (
            RawServer(breaks_off(unknown, len(unknown)), answers(DOCUMENT)) as server,
            a_relay_setup({"alpha": server.url}) as setup,
        ):
            for _ in range(2):
                client = await setup.answered("/v1/messages", dialect=ANTHROPIC, messages=TURN, max_tokens=9)
                assert client.status == 200 and client.json["type"] == "message"
            paths = [request.split(b" ", 2)[1] for request in server.requests]
            assert paths == [b"/v1/messages", b"/api/chat", b"/api/chat"]
            assert setup.outcomes == [COMPLETED, COMPLETED]

    run(test)


def test_a_missing_model_is_not_a_missing_path() -> None:
    async def test() -> None:
        gone = whole(b'{"error":"model \'m\' not found"}', "404 Not Found")
        async with (
            RawServer(answers(gone)) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}) as setup,
        ):
            assert (await setup.answered()).is_whole
            assert first_failure(setup) is FailureKind.MODEL_MISSING and len(bad.requests) == 1

    run(test)


def test_a_request_moves_on_to_an_engine_that_can_express_it() -> None:
    """The first engine cannot express a template; the attempt costs neither a strike nor a request to the node."""

    async def test() -> None:
        async with RawServer(answers(DOCUMENT)) as good, a_relay_setup({}) as setup:
            for number in range(4):
                setup.add_node(f"a{number}", f"http://127.0.0.1:{number + 1}", kind="other", loaded=True)
            setup.add_node("good", good.url)
            client = await setup.answered("/api/generate", prompt="x", template="{{ .Prompt }}", stream=False)
            assert client.status == 200 and client.answer_headers["x-fleet-node"] == "good"
            assert setup.outcomes == [RETRIED] * 4 + [COMPLETED]
            assert not any(setup.driver.dispatcher.liveness.quarantined_until(n, "m:latest") for n in setup.beats)

    run(test)


def test_an_unknown_engine_kind_is_a_failure_of_its_node() -> None:
    async def test() -> None:
        async with RawServer(answers(STREAM)) as good, a_relay_setup({"bad": good.url}, kind="of-tomorrow") as setup:
            setup.add_node("good", good.url)
            assert (await setup.answered()).is_whole
            assert first_failure(setup) is FailureKind.GARBAGE

    run(test)


# --- many requests ---


def test_a_node_that_dies_under_load_fails_no_request() -> None:
    async def test() -> None:
        async with (
            RawServer(*[breaks_off(STREAM, 20)] * 3, answers(STREAM)) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"bad": bad.url, "good": good.url}, slots=3) as setup,
        ):
            clients = [setup.ask() for _ in range(50)]
            await asyncio.gather(*(client.over for client in clients))
            assert all(client.answer == STREAM_BODY and client.is_whole for client in clients)
            assert setup.outcomes.count(COMPLETED) == 50

    run(test)
