"""Tests stream continuation: when a node fails, another one continues, and the client gets the same text."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace

import pytest

from fakes.faults import Counting, Cut, How, RunnerDies, Status
from fakes.fleet import Fleet, Machine, report_of, running_fleet, settings_for_tests
from fakes.llamacpp.engines import LlamaEngine
from fakes.llamacpp.tiny_gguf import TinyModel
from fakes.ollama.continuing_fleet import as_llamacpp, continuing_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from herd.agent_protocol import heartbeat_encode
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from herd.coordinator.settings import Settings
from herd.core.lifecycle.frozen_engines import CONFIRM_AFTER_S
from herd.core.state.fleet import Report
from herd.protocols.cut_streams import repeated_answer

QUESTION = [{"role": "user", "content": "Tell me of the herd."}]
MODEL = FakeModel(name="m", answer_tokens=12)
ENDLESS = TinyModel(mean_tokens=10_000_000, seed=38)
"""Its answers end at the client's limit, long after the test has stopped the engine.

llama.cpp computes a token of a prompt in a batch and a token of an answer alone, with slightly different rounding.
Where the two best tokens are nearly equal, a continued greedy text may therefore differ (with seed 1 it does after any
cut behind token 40). With this seed the best token is clear everywhere: three words in turn, after a cut at any token.
"""


@dataclass
class ReceivedAnswer:
    """The answer that a client received: its lines, and whether HTTP marked its end."""

    lines: list[bytes]
    is_whole: bool

    @property
    def pieces(self) -> list[dict]:
        data = [line.removeprefix(b"data: ") for line in self.lines if line.startswith((b"{", b"data: {"))]
        return [json.loads(one) for one in data]


def ask(fleet: Fleet, path: str, body: dict[str, object]) -> ReceivedAnswer:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        got, is_whole = b"", True
        try:
            got = response.read()
        except http.client.IncompleteRead as broken:
            got, is_whole = broken.partial, False
    finally:
        connection.close()
    return ReceivedAnswer([line for line in got.splitlines() if line], is_whole)


def ollama_text(received: ReceivedAnswer) -> str:
    return "".join(piece.get("message", {}).get("content", "") for piece in received.pieces)


def openai_text(received: ReceivedAnswer) -> str:
    return "".join((c.get("delta", {}).get("content") or "") for p in received.pieces for c in p.get("choices", []))


def a_fleet_that_can_continue(settings: Settings | None = None) -> AbstractContextManager[tuple[Fleet, FakeOllama]]:
    return continuing_fleet(MODEL, settings)


def outcomes(fleet: Fleet) -> list[str]:
    fleet.settle()
    fleet.coordinator.store.flush()
    return [row["status"] for row in reversed(fleet.get("/dashboard/api/traces")["traces"])]


@pytest.mark.parametrize("how", [How.FIN, How.RESET])
def test_an_openai_stream_cut_at_any_event_has_the_complete_text(how: How) -> None:
    body = {"model": "m", "messages": QUESTION, "stream": True, "seed": 7, "temperature": 0}
    with a_fleet_that_can_continue() as (fleet, bad):
        whole = ask(fleet, "/v1/chat/completions", body)
        expected, size = openai_text(whole), sum(len(line) + 2 for line in whole.lines)
        for cut in range(1, size, 61):
            bad.fail(Cut(how=how, after_bytes=cut, counting=Counting.BODY, times=1))
            received = ask(fleet, "/v1/chat/completions", body)
            assert received.is_whole, f"cut after {cut} bytes"
            assert openai_text(received) == expected, f"cut after {cut} bytes"
            assert received.lines[-1] == b"data: [DONE]"
            assert len({piece["id"] for piece in received.pieces}) == 1, "one answer has one id"
            bad.heal()
    assert expected


def anthropic_text(received: ReceivedAnswer) -> str:
    return "".join(piece["delta"]["text"] for piece in received.pieces if piece["type"] == "content_block_delta")


@pytest.mark.parametrize("how", [How.FIN, How.RESET])
def test_an_anthropic_stream_cut_at_any_event_is_one_message_with_the_complete_text(how: How) -> None:
    body = {"model": "m", "max_tokens": 100, "messages": QUESTION, "stream": True, "temperature": 0}
    with a_fleet_that_can_continue() as (fleet, bad):
        whole = ask(fleet, "/v1/messages", body)
        expected, size = anthropic_text(whole), sum(len(line) + 1 for line in whole.lines)
        for cut in range(1, size, 67):
            bad.fail(Cut(how=how, after_bytes=cut, counting=Counting.BODY, times=1))
            received = ask(fleet, "/v1/messages", body)
            assert received.is_whole and anthropic_text(received) == expected, f"cut after {cut} bytes"
            kinds = [piece["type"] for piece in received.pieces if piece["type"] not in ("content_block_delta", "ping")]
            assert kinds == [
                "message_start",
                "content_block_start",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ], f"cut after {cut} bytes"
            usage = [
                next(p for p in one.pieces if p["type"] == "message_delta")["usage"]["output_tokens"]
                for one in (whole, received)
            ]
            assert usage[0] == usage[1], f"cut after {cut} bytes"
            bad.heal()
    assert expected


def test_a_translated_ollama_stream_is_continued() -> None:
    body = {"model": "m", "messages": QUESTION, "options": {"seed": 7, "temperature": 0}}
    with a_fleet_that_can_continue() as (fleet, bad):
        expected = ask(fleet, "/api/chat", body)
        bad.fail(Cut(how=How.RESET, after_bytes=900, counting=Counting.BODY, times=1))
        received = ask(fleet, "/api/chat", body)
        assert received.is_whole and ollama_text(received) == ollama_text(expected)
        last, before = received.pieces[-1], expected.pieces[-1]
        assert last["done"] and last["fleet_note"] == "started on bad"
        assert last["eval_count"] == before["eval_count"], "the answer's tokens are counted once, whoever wrote them"
        assert outcomes(fleet) == ["completed", "retried", "completed"]


def test_a_second_node_failure_is_continued_by_a_third_node() -> None:
    body = {"model": "m", "messages": QUESTION, "stream": True, "seed": 7, "temperature": 0}
    with a_fleet_that_can_continue() as (fleet, bad), FakeOllama([MODEL]) as third:
        report = as_llamacpp(report_of("third", third, Machine()))
        fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))
        expected = openai_text(ask(fleet, "/v1/chat/completions", body))
        bad.fail(Cut(how=How.FIN, after_bytes=800, counting=Counting.BODY, times=1))
        good = fleet.on_loop(lambda: next(n for n in fleet.coordinator.driver.fleet if n.id == "good"))
        assert good is not None
        received = ask(fleet, "/v1/chat/completions", body)
        assert openai_text(received) == expected


@contextmanager
def a_fleet_of_ollamas(model: FakeModel) -> Iterator[tuple[Fleet, FakeOllama, FakeOllama]]:
    with FakeOllama([model]) as bad, FakeOllama([model]) as good, running_fleet({"bad": bad, "good": good}) as fleet:
        yield fleet, bad, good


CLOSING = replace(MODEL, closes_turns=True)


@pytest.mark.parametrize(
    ("path", "text_of"),
    [
        ("/v1/chat/completions", openai_text),
        ("/v1/messages", anthropic_text),
        ("/api/chat", ollama_text),
        ("/api/generate", None),
    ],
)
def test_an_ollama_engine_continues_after_its_rendered_prompt(
    path: str, text_of: Callable[[ReceivedAnswer], str] | None
) -> None:
    prompt: dict[str, object] = {"prompt": "Tell me of the herd."} if text_of is None else {"messages": QUESTION}
    body = {"model": "m", "stream": True, "max_tokens": 100, "temperature": 0, **prompt}

    def text(received: ReceivedAnswer) -> str:
        return text_of(received) if text_of else "".join(piece.get("response", "") for piece in received.pieces)

    for after_share in (0.3, 0.5, 0.8):
        with a_fleet_of_ollamas(CLOSING) as (fleet, bad, _good):
            whole = ask(fleet, path, body)
            cut = int(after_share * sum(len(line) + 1 for line in whole.lines))
            bad.fail(Cut(how=How.RESET, after_bytes=cut, counting=Counting.BODY, times=1))
            received = ask(fleet, path, body)
            assert received.is_whole and text(received) == text(whole) and text(whole), f"cut after {cut} bytes"
            assert outcomes(fleet) == ["completed", "retried", "completed"]


@pytest.mark.parametrize(
    ("path", "text_of"),
    [("/v1/chat/completions", openai_text), ("/v1/messages", anthropic_text), ("/api/chat", ollama_text)],
)
def test_an_engine_error_in_mid_stream_is_continued_by_another_node(
    path: str, text_of: Callable[[ReceivedAnswer], str]
) -> None:
    body = {"model": "m", "stream": True, "max_tokens": 100, "temperature": 0, "messages": QUESTION}
    with a_fleet_of_ollamas(CLOSING) as (fleet, bad, _good):
        whole = ask(fleet, path, body)
        bad.fail(RunnerDies(after_chunks=4, times=1))
        received = ask(fleet, path, body)
        assert received.is_whole and text_of(received) == text_of(whole) and text_of(whole)
        assert not [line for line in received.lines if b'"error"' in line], (
            "the engine's own words are for nobody any more"
        )
        assert outcomes(fleet) == ["completed", "retried", "completed"]


def test_an_ollama_answer_with_possible_thinking_or_tools_is_not_continued() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    able = replace(CLOSING, capabilities=("completion", "tools", "thinking"))
    for more in ({"tools": [tool], "think": False}, {}):
        with a_fleet_of_ollamas(able) as (fleet, bad, good):
            for node in (bad, good):
                node.fail(Cut(how=How.RESET, after_bytes=700, counting=Counting.BODY))
            received = ask(
                fleet,
                "/api/chat",
                {"model": "m", "messages": [*QUESTION, {"role": "assistant", "content": "So"}], **more},
            )
            assert "error" in received.pieces[-1]


BINDING: list[dict[str, object]] = [
    {"response_format": {"type": "json_object"}},
    {"grammar": "root ::= [a-z]*"},
    {"json_schema": {"type": "object"}},
    {"guided_regex": "[a-z]*"},
    {"structured_outputs": {"choice": ["a", "b"]}},
]


@pytest.mark.parametrize("more", [*BINDING, {"n": 2}], ids=lambda more: next(iter(more)))
@pytest.mark.replaces_methods
def test_a_stream_that_cannot_be_continued_exactly_ends_with_an_error(
    more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated_answer, "RANDOM_MAX_BYTES", 0)
    body = {"model": "m", "messages": QUESTION, "stream": True, **more}
    with a_fleet_that_can_continue() as (fleet, bad):
        bad.fail(Cut(how=How.FIN, after_bytes=800, counting=Counting.BODY, times=1))
        received = ask(fleet, "/v1/chat/completions", body)
        assert not received.is_whole
        assert "error" in received.pieces[-1] and b"data: [DONE]" not in received.lines
        assert outcomes(fleet) == ["failed_midstream"]


@pytest.mark.parametrize("more", BINDING, ids=lambda more: next(iter(more)))
def test_a_bound_answer_without_random_tokens_is_given_again(more: dict[str, object]) -> None:
    body = {"model": "m", "messages": QUESTION, "stream": True, "seed": 7, **more}
    with a_fleet_that_can_continue() as (fleet, bad):
        expected = openai_text(ask(fleet, "/v1/chat/completions", body))
        bad.fail(Cut(how=How.FIN, after_bytes=800, counting=Counting.BODY, times=1))
        received = ask(fleet, "/v1/chat/completions", body)
        assert received.is_whole and openai_text(received) == expected
        assert outcomes(fleet) == ["completed", "retried", "completed"]


def test_continuation_can_be_switched_off() -> None:
    settings = replace(settings_for_tests(), relay=RelaySettings(continuation="off"))
    body = {"model": "m", "messages": QUESTION, "stream": True, "seed": 7}
    with a_fleet_that_can_continue(settings) as (fleet, bad):
        bad.fail(Cut(how=How.FIN, after_bytes=800, counting=Counting.BODY, times=1))
        assert not ask(fleet, "/v1/chat/completions", body).is_whole
        assert outcomes(fleet) == ["failed_midstream"]


def test_without_a_rendered_prompt_the_stream_ends_with_an_error() -> None:
    """An older Ollama cannot return its rendered prompt: the stream ends with an error."""
    body = {"model": "m", "messages": QUESTION, "options": {"seed": 7}}
    with a_fleet_of_ollamas(CLOSING) as (fleet, bad, good):
        good.fail(Status(status=500, times=9))
        bad.fail(Cut(how=How.FIN, after_bytes=600, counting=Counting.BODY, times=9))
        received = ask(fleet, "/api/chat", body)
        assert not received.is_whole or "error" in received.pieces[-1]
        assert outcomes(fleet)[-1] == "failed_midstream"


@pytest.mark.parametrize("more", [{}, {"grammar": "root ::= [a-z ]+"}], ids=["continued", "repeated"])
def test_a_real_llama_cpp_killed_in_mid_stream_is_continued(more: dict[str, object]) -> None:
    """Two engines with the same weights; one is killed with SIGKILL during decode. Greedy text is the same on both.

    Under a grammar no engine can continue the answer, so the second one gives it again.
    """
    body = {"model": "tiny", "messages": QUESTION, "stream": True, "temperature": 0, "max_tokens": 900, "seed": 1}
    body |= more
    with (
        LlamaEngine(model=ENDLESS) as first,
        LlamaEngine(model=ENDLESS) as second,
        running_fleet({"first": first, "second": second}) as fleet,
    ):
        name = fleet.get("/api/tags")["models"][0]["name"]
        body["model"] = name
        expected = openai_text(ask(fleet, "/v1/chat/completions", body))
        with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                begun = b"".join(response.readline() for _ in range(6))
                node = response.headers["X-Fleet-Node"]
                (first if node == "first" else second).child.kill()
                received = ReceivedAnswer([line for line in (begun + response.read()).splitlines() if line], True)
        assert received.lines[-1] == b"data: [DONE]"
        assert openai_text(received) == expected
        assert outcomes(fleet)[-2:] == ["retried", "completed"], "the killed engine did not end it"


def test_a_stream_of_a_frozen_llama_cpp_is_continued_within_seconds_of_the_report() -> None:
    """One of two engines is stopped with SIGSTOP during decode; its agent reports that it answers nothing."""
    body = {"model": "tiny", "messages": QUESTION, "stream": True, "temperature": 0, "max_tokens": 900, "seed": 1}
    with (
        LlamaEngine(model=ENDLESS) as first,
        LlamaEngine(model=ENDLESS) as second,
        running_fleet({"first": first, "second": second}) as fleet,
    ):
        reports = {node_id: report_of(node_id, node, Machine()) for node_id, node in fleet.nodes.items()}
        body["model"] = fleet.get("/api/tags")["models"][0]["name"]
        expected = openai_text(ask(fleet, "/v1/chat/completions", body))
        with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                begun = b"".join(response.readline() for _ in range(6))
                frozen = response.headers["X-Fleet-Node"]
                (first if frozen == "first" else second).child.freeze()
                report = silent(reports[frozen], CONFIRM_AFTER_S)
                fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))
                received = ReceivedAnswer([line for line in (begun + response.read()).splitlines() if line], True)
        assert received.lines[-1] == b"data: [DONE]"
        assert openai_text(received) == expected
        assert outcomes(fleet)[-2:] == ["retried", "completed"], "the frozen engine did not end it"
        assert fleet.coordinator.driver.alarms == 0


def silent(report: Report, seconds: float) -> Report:
    """The same node, whose engine has answered nothing for this long."""
    endpoint = replace(report.engines[0], silent_s=seconds)
    models = {name: replace(model_info, engine=endpoint) for name, model_info in report.models.items()}
    return replace(report, engines=(endpoint,), models=models)
