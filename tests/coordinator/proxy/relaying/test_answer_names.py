"""The model's name is replaced in passed-through answers, and nothing else."""

from __future__ import annotations

import json

import pytest

from herd.coordinator.proxy.relaying.answer_names import renamed_document, renamed_lines

LINES = [
    {"model": "tiny:chat", "message": {"content": 'the "model": "x"'}, "done": False},
    {"message": {"tool_calls": [{"function": {"arguments": {"other": "model"}}}]}, "done": True},
    {"model": "tiny:chat", "message": {"tool_calls": [{"function": {"arguments": {"model": "theirs"}}}]}},
    {"type": "response.created", "response": {"id": "r", "model": "tiny:chat"}},
]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("prefix", ["", "data: "])
def test_the_name_in_each_line_is_replaced(prefix: str, separators: tuple[str, str]) -> None:
    sent = "".join(f"{prefix}{json.dumps(line, separators=separators)}\n" for line in LINES).encode()
    got = renamed_lines(sent, 'cl"aude')
    wanted = json.loads(json.dumps(LINES))
    wanted[0]["model"] = wanted[2]["model"] = wanted[3]["response"]["model"] = 'cl"aude'
    assert [json.loads(line.decode().removeprefix(prefix)) for line in got.splitlines()] == wanted


def test_only_the_first_name_of_a_document_is_replaced() -> None:
    document = {"id": "1", "model": 'a "quoted" \\ name', "choices": [{"arguments": {"model": "theirs"}}]}
    for indent in (None, 2):
        got = json.loads(renamed_document(json.dumps(document, indent=indent).encode(), "claude"))
        assert got == {**document, "model": "claude"}


@pytest.mark.parametrize("data", [b"", b"data: [DONE]\n\n", b'{"error":"no"}\n', b'{"model":5}\n', b'{"model":"cut'])
def test_other_data_stays_as_it_is(data: bytes) -> None:
    assert renamed_lines(data, "n") == renamed_document(data, "n") == data
