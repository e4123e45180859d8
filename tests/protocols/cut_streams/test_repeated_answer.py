"""A second answer is compared with what the client has of the first one, character by character."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest

from herd.protocols.conversation import Delta, Sampling, ToolCall, Usage
from herd.protocols.cut_streams.joined_reader import RepeatedReader
from herd.protocols.cut_streams.repeated_answer import RANDOM_MAX_BYTES, Diverged, RepeatedAnswer, is_worth_repeating
from herd.protocols.resumption import PartialAnswer, SentCall

WHOLE = (
    ("thinking", "Hm \ud83d“x”\n"),
    ("text", 'é😀 "a\\'),
    ("call", ("note", '{"a": "b \\" {", "c": [1,  2]}')),
    ("call", ("other", "{}")),
)
Part = tuple[str, str | tuple[str, str]]


def pieces(parts: Sequence[Part], rng: random.Random) -> list[Delta]:
    """The answer in chunks of random sizes; a chunk may have several parts."""
    found: list[Delta] = []
    call = -1
    for kind, content in parts:
        if isinstance(content, tuple):
            call += 1
            found.append(Delta(tool_calls=[ToolCall(call, f"id{call}", content[0])]))
        text = content[1] if isinstance(content, tuple) else content
        while text:
            size = rng.randint(1, 4)
            piece, text = text[:size], text[size:]
            if kind == "call":
                found.append(Delta(tool_calls=[ToolCall(call, arguments=piece)]))
            else:
                found.append(Delta(**{kind: piece}))
    return [*found, Delta(finish_reason="stop", usage=Usage(completion_tokens=9)), Delta(is_last=True)]


def contents(deltas: Sequence[Delta], partial: PartialAnswer | None = None) -> tuple[str, str, list[tuple[str, str]]]:
    """What a client has after these chunks, which follow `partial`."""
    whole = PartialAnswer()
    if partial is not None:
        whole.add(partial.text, partial.thinking)
        whole.add_calls([ToolCall(call.index, "", call.name, call.arguments) for call in partial.calls.values()])
    for delta in deltas:
        whole.add_delta(delta)
    return whole.thinking, whole.text, [(call.name, call.arguments) for call in whole.calls.values()]


def partial_of(deltas: Sequence[Delta]) -> PartialAnswer:
    partial = PartialAnswer()
    for delta in deltas:
        partial.add_delta(delta)
    return partial


@pytest.mark.parametrize("seed", range(200))
def test_second_answer_completes_the_first_whatever_the_chunks_are(seed: int) -> None:
    rng = random.Random(seed)
    first, second = pieces(WHOLE, rng), pieces(WHOLE, rng)
    partial = partial_of(first[: rng.randrange(1, len(first) - 1)])
    rest = RepeatedAnswer(partial).new(second)
    assert contents(rest, partial) == contents(second)
    assert [delta.usage.completion_tokens for delta in rest if delta.usage] == [9] and rest[-1].is_last


@pytest.mark.parametrize("seed", range(200))
def test_second_answer_that_differs_anywhere_in_what_was_sent_gives_nothing(seed: int) -> None:
    rng = random.Random(seed)
    first = pieces(WHOLE, rng)[:-2]
    cut = rng.randrange(1, len(first) + 1)
    changed = rng.randrange(cut)
    second = [*first[:changed], Delta(text="~"), *first[changed:]]
    if first[changed].tool_calls:
        second = [*first[:changed], Delta(tool_calls=[ToolCall(99, "", "third", "{}")]), *first[changed:]]
    repeated, sent = RepeatedAnswer(partial_of(first[:cut])), []
    with pytest.raises(Diverged):
        for delta in second:
            sent += repeated.new([delta])
    assert contents(sent) == ("", "", []) and repeated.has_diverged


def a_call(arguments: str, is_closed: bool = False) -> PartialAnswer:
    partial = PartialAnswer(has_calls=True)
    partial.calls[4] = SentCall(4, "note", arguments, is_closed)
    return partial


def rest_of_call(partial: PartialAnswer, *fragments: str) -> list[tuple[int, str, str]]:
    deltas = [Delta(tool_calls=[ToolCall(0, "new", "note", one)]) for one in fragments]
    rest = RepeatedAnswer(partial).new([*deltas, Delta(is_last=True)])
    return [(call.index, call.id, call.arguments) for delta in rest for call in delta.tool_calls]


def test_rest_of_a_call_has_the_index_that_the_client_knows_and_no_other_id() -> None:
    assert rest_of_call(a_call('{"a": 1'), '{"a"', ": 12}") == [(4, "", "2}")]


def test_spaces_between_the_values_of_arguments_do_not_count_but_those_in_strings_do() -> None:
    assert rest_of_call(a_call('{ "a b" :\n1'), '{"a b":1, "c": 2}') == [(4, "", ', "c": 2}')]
    assert rest_of_call(a_call('{"a b":1'), '{ "a b" : 1 }') == [(4, "", " }")]
    with pytest.raises(Diverged):
        rest_of_call(a_call('{"a b":1'), '{"ab":1}')


def test_nothing_may_follow_arguments_that_are_complete() -> None:
    assert rest_of_call(a_call('{"a":1}'), '{"a":1}', "\n") == []
    assert rest_of_call(a_call("", is_closed=True), "{}") == []
    assert rest_of_call(a_call("", is_closed=True), "") == []
    for partial in (a_call('{"a":1}'), a_call("", is_closed=True)):
        with pytest.raises(Diverged):
            rest_of_call(partial, '{"a":1}', ', "b": 2}')


def test_call_of_which_only_the_name_was_sent_must_come_again() -> None:
    assert rest_of_call(a_call(""), '{"a":1}') == [(4, "", '{"a":1}')]
    for other in (Delta(text="No call."), Delta(tool_calls=[ToolCall(0, "", "other", "{}")]), Delta(is_last=True)):
        with pytest.raises(Diverged):
            RepeatedAnswer(a_call("")).new([other])


def test_further_call_follows_those_that_the_client_has() -> None:
    again, further = ToolCall(0, "x", "note", "{}"), ToolCall(1, "y", "other", "{}")
    rest = RepeatedAnswer(a_call("{}")).new([Delta(tool_calls=[again, further])])
    assert rest[0].tool_calls == [ToolCall(5, "y", "other", "{}")]


def test_error_of_the_engine_is_not_a_different_answer() -> None:
    error = Delta(error="out of memory")
    assert RepeatedAnswer(PartialAnswer("Hello")).new([error]) == [error]


def test_probabilities_of_a_token_that_was_sent_are_not_sent_again() -> None:
    chunks = [Delta(text="Hel", logprobs=[1]), Delta(text="lo", logprobs=[2])]
    assert [delta.logprobs for delta in RepeatedAnswer(PartialAnswer("Hel")).new(chunks)] == [None, [2]]


class Chunks:
    """A reader for which a chunk is a text in JSON."""

    is_finished = True

    def feed(self, chunk: bytes) -> list[Delta]:
        return [Delta(text=json.loads(chunk))]

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return [chunk[1:-1]]

    def end(self) -> list[Delta]:
        return []


def test_chunks_are_read_fast_once_everything_was_repeated() -> None:
    reader = RepeatedReader(Chunks(), RepeatedAnswer(PartialAnswer("Hello")))
    assert reader.plain_texts(b'"Hello"') == [] and not reader.is_finished
    assert [delta.text for delta in reader.feed(b'"Hello wor"')] == [" wor"]
    assert reader.plain_texts(b'"ld"') == [b"ld"] and reader.is_finished


@pytest.mark.parametrize(
    ("sampling", "is_worth"),
    [
        (Sampling(temperature=0), True),
        (Sampling(temperature=1, seed=0), True),
        (Sampling(top_k=1), True),
        (Sampling(), False),
        (Sampling(temperature=0.1, top_k=2), False),
    ],
)
def test_long_answer_is_repeated_only_if_its_tokens_are_not_random(sampling: Sampling, is_worth: bool) -> None:
    assert is_worth_repeating(PartialAnswer("x" * (RANDOM_MAX_BYTES + 1)), sampling) is is_worth
    assert is_worth_repeating(PartialAnswer("x" * RANDOM_MAX_BYTES), sampling)
