"""Tests prefix hashes: equal beginnings have equal hashes, and different ones do not."""

from __future__ import annotations

import json

import msgspec

from herd.coordinator.proxy.prefix_hashes import BLOCK_BYTES, prefix_hashes, responses_prefix_hashes
from herd.protocols.openai.responses_history import input_items, with_items


def a_body(*turns: str) -> bytes:
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n, text in enumerate(turns)]
    return json.dumps({"model": "m", "messages": messages, "stream": True}).encode()


LONG = "It was a long beginning. " * 200


def test_a_later_turn_has_the_hashes_of_the_earlier_one() -> None:
    first, second = prefix_hashes(a_body(LONG)), prefix_hashes(a_body(LONG, "An answer.", "And now?" * 300))
    assert len(first) == len(a_body(LONG)[a_body(LONG).find(b'"messages"') :]) // BLOCK_BYTES
    assert second[: len(first) - 1] == first[:-1]
    assert len(second) > len(first)


def test_different_beginnings_share_no_hash() -> None:
    assert not set(prefix_hashes(a_body(LONG))) & set(prefix_hashes(a_body("X" + LONG)))


def test_hashes_are_equal_up_to_the_first_difference() -> None:
    first, second = prefix_hashes(a_body(LONG + "a" + LONG)), prefix_hashes(a_body(LONG + "b" + LONG))
    shared = len([1 for a, b in zip(first, second, strict=True) if a == b])
    assert 0 < shared < len(first)
    assert first[:shared] == second[:shared]


def test_other_fields_before_the_messages_do_not_matter() -> None:
    plain = a_body(LONG)
    assert prefix_hashes(plain.replace(b'{"model": "m"', b'{"model": "m", "user": "ann"')) == prefix_hashes(plain)


def test_two_owners_share_no_hash() -> None:
    assert not set(prefix_hashes(a_body(LONG), "ann")) & set(prefix_hashes(a_body(LONG), "bob"))


def test_a_short_prompt_has_no_hashes() -> None:
    assert prefix_hashes(a_body("Hi")) == ()
    assert prefix_hashes(b"{}") == ()


# --- the Responses API ---


def responses_body(given: object, **fields: object) -> bytes:
    return json.dumps({"model": "m", "input": given, **fields}, separators=(",", ":")).encode()


def test_later_responses_request_has_the_hashes_of_the_earlier_one() -> None:
    turns = [{"role": "user", "content": LONG}]
    first = responses_prefix_hashes(responses_body(turns))
    later = responses_prefix_hashes(responses_body([*turns, {"role": "assistant", "content": "a" * 900}]))
    assert first and later[: len(first)] == first and len(later) > len(first)


def test_text_has_the_hashes_of_the_conversation_that_continues_it() -> None:
    body = responses_body(LONG)
    (item,) = input_items(msgspec.Raw(json.dumps(LONG).encode()))
    continued = with_items(responses_body("x", previous_response_id="resp_1"), [item, b'{"role":"user","content":"y"}'])
    first, later = responses_prefix_hashes(body), responses_prefix_hashes(continued)
    assert first and later[: len(first)] == first


def test_instructions_and_owner_are_part_of_the_beginning_of_responses() -> None:
    plain = responses_prefix_hashes(responses_body(LONG))
    assert not set(plain) & set(responses_prefix_hashes(responses_body(LONG, instructions="be brief")))
    assert not set(plain) & set(responses_prefix_hashes(responses_body(LONG), "key"))


def test_tools_of_responses_do_not_hide_the_input() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"properties": {"messages": {"type": "string"}}}}]
    assert responses_prefix_hashes(responses_body(LONG, tools=tools)) == responses_prefix_hashes(responses_body(LONG))
    assert responses_prefix_hashes(b"[]") == responses_prefix_hashes(b'{"model":"m"}') == ()
