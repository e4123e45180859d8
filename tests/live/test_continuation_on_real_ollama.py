"""After a real Ollama is killed mid-stream, another continues the answer, and the client gets the same text."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from fakes.real_ollama import CHAT_MODEL, ENDLESS_TOKENS, NOT_FOUND, RealOllama, find_ollama

LIBRARY_MODEL = "tiny:library"
LIBRARY_TEMPLATE = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|im_start|>{{ .Role }}\n"
    "{{ .Content }}{{ if not $last }}<|im_end|>\n{{ end }}"
    '{{- if and $last (ne .Role "assistant") }}<|im_end|>\n<|im_start|>assistant\n{{ end }}{{- end }}'
)
"""Leaves a trailing assistant turn open, like the templates in Ollama's library."""


@pytest.fixture
def two() -> Iterator[tuple[RealOllama, RealOllama]]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary) as first, RealOllama(binary) as second:
        for one in (first, second):
            one.create(
                LIBRARY_MODEL, tiny_gguf(TinyModel(seed=1, mean_tokens=ENDLESS_TOKENS)), template=LIBRARY_TEMPLATE
            )
        yield first, second


def text_of(lines: list[bytes]) -> str:
    return "".join(json.loads(line)["message"]["content"] for line in lines)


def ask(fleet: Fleet, body: bytes, nodes: dict[str, RealOllama], kill_after_lines: int = 0) -> list[bytes]:
    """The lines of the answer. After `kill_after_lines` lines the answering node is killed with all its processes."""
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
        connection.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            begun = [response.readline() for _ in range(kill_after_lines)]
            if kill_after_lines:
                lost = nodes[response.headers["X-Fleet-Node"]]
                for process in lost.runners():
                    process.kill()
                lost.child.kill()
            return begun + response.read().splitlines()


@pytest.mark.parametrize("model", [CHAT_MODEL, LIBRARY_MODEL], ids=["chatml", "library"])
def test_stream_of_a_killed_ollama_is_continued_by_another(two: tuple[RealOllama, RealOllama], model: str) -> None:
    nodes = {"first": two[0], "second": two[1]}
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hi."}]
    # Without a penalty this tiny model repeats one word, and Ollama silently ends a stream of repetitions.
    options = {"temperature": 0, "num_predict": 60, "repeat_penalty": 1.5}
    body = json.dumps({"model": model, "messages": messages, "options": options}).encode()
    with running_fleet(nodes) as fleet:
        expected = ask(fleet, body, nodes)
        continued = ask(fleet, body, nodes, kill_after_lines=20)
        assert text_of(continued) == text_of(expected)
        last, before = json.loads(continued[-1]), json.loads(expected[-1])
        assert last["done"] and last["done_reason"] == before["done_reason"] == "length"
        assert last["eval_count"] == before["eval_count"] and "started on" in last["fleet_note"]


def test_answer_in_a_format_of_a_killed_ollama_is_given_again_by_another(two: tuple[RealOllama, RealOllama]) -> None:
    """A grammar cannot begin in the middle of its text, so the second Ollama gets the client's own request."""
    nodes = {"first": two[0], "second": two[1]}
    schema = {"type": "object", "properties": {"words": {"type": "array", "items": {"type": "string"}}}}
    options = {"temperature": 0, "num_predict": 60, "repeat_penalty": 1.5}
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Say hi."}], "options": options}
    request = json.dumps(body | {"format": schema | {"required": ["words"]}}).encode()
    with running_fleet(nodes) as fleet:
        expected = ask(fleet, request, nodes)
        repeated = ask(fleet, request, nodes, kill_after_lines=20)
        assert text_of(repeated) == text_of(expected) and text_of(expected).startswith("{")
        last, before = json.loads(repeated[-1]), json.loads(expected[-1])
        assert last["eval_count"] == before["eval_count"] and "started on" in last["fleet_note"]
