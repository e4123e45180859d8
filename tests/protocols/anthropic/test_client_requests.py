"""Fields of Anthropic's requests beside messages and tools; the line that is taken out of every prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.coordinator.proxy.prefix_hashes import prefix_hashes
from herd.dialects.anthropic import DIALECT
from herd.protocols.conversation import ParsedRequest

ROUTE = DIALECT.routes[0]
HI = [{"role": "user", "content": "hi"}]
LINE = "x-anthropic-billing-header: cc_version=2.1.332.0b8; cc_entrypoint=cli; cch=74943;"


def parse(**more: Any) -> ParsedRequest:
    return DIALECT.parse(ROUTE, json.dumps({"model": "m", "max_tokens": 5, "messages": HI, **more}).encode())


def block(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


# --- the billing line ---


@pytest.mark.parametrize(
    ("system", "rest"),
    [
        ([block(LINE), block("You are a coder.")], [block("You are a coder.")]),
        ([{"cache_control": {"type": "ephemeral"}, **block(LINE)}, block("x")], [block("x")]),
        ([block(f"{LINE}\nYou are a coder.")], [block("You are a coder.")]),
        (f"{LINE}\nYou are a coder.", "You are a coder."),
        ([block(LINE)], None),
        (LINE, None),
    ],
)
def test_billing_line_is_taken_out_for_every_node(system: Any, rest: Any) -> None:
    request = parse(system=system)
    assert json.loads(DIALECT.rewrite(request, "m")).get("system") == rest
    assert "billing" not in str(DIALECT.read_conversation(request))


def test_requests_that_differ_in_the_billing_line_are_equal() -> None:
    def hashes(number: int) -> tuple[int, ...]:
        system = [block(LINE.replace("74943", str(number))), block("x" * 8000)]
        return prefix_hashes(parse(messages=[{"role": "user", "content": "y" * 8000}], system=system).body)

    assert hashes(11111) == hashes(22222) != ()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "You are a coder."},
        {"system": [block("You are a coder."), block(LINE)]},
        {"system": f"About {LINE}"},
        {"messages": [{"role": "user", "content": LINE}]},
    ],
)
def test_other_bodies_stay_as_they_are(more: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": HI, **more}).encode()
    request = DIALECT.parse(ROUTE, body)
    assert request.body is body
    assert DIALECT.rewrite(request, "m") is body


# --- system messages of passed-through requests ---


def test_system_message_after_a_user_message_becomes_its_marked_text() -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7"}]}
    request = parse(
        system="s",
        messages=[
            *HI,
            {"role": "system", "content": "one"},
            call,
            result,
            {"role": "system", "content": [block("two")]},
        ],
    )
    body = json.loads(DIALECT.rewrite(request, "other"))
    assert (body["model"], body["system"]) == ("other", "s")
    assert body["messages"] == [
        {"role": "user", "content": [block("hi"), block("<system-message>\none\n</system-message>")]},
        call,
        {"role": "user", "content": [*result["content"], block("<system-message>\ntwo\n</system-message>")]},
    ]


def test_system_message_elsewhere_becomes_a_user_message() -> None:
    messages = [{"role": "system", "content": "one"}, {"role": "system", "content": "two"}, *HI]
    body = json.loads(DIALECT.rewrite(parse(messages=messages), "m"))
    assert [message["role"] for message in body["messages"]] == ["user", "user"]
    assert [part["text"].split("\n")[1] for part in body["messages"][0]["content"]] == ["one", "two"]


def test_cleared_system_message_reaches_no_engine() -> None:
    cleared = {"role": "system", "content": "old", "clear_at": "next_user_message"}
    body = json.loads(DIALECT.rewrite(parse(messages=[*HI, cleared, *HI]), "m"))
    assert body["messages"] == [*HI, *HI]


def test_message_without_content_stays_valid_beside_system_messages() -> None:
    settings_only = {"role": "system", "output_config": {"effort": "low"}}
    body = json.loads(DIALECT.rewrite(parse(messages=[{"role": "user"}, settings_only, *HI]), "m"))
    assert body["messages"] == [{"role": "user", "content": ""}, *HI]


# --- fields ---


def test_unknown_fields_are_named_and_fields_without_effect_are_not() -> None:
    talk = DIALECT.read_conversation(
        parse(
            metadata={"user_id": "u"},
            service_tier="auto",
            context_management={"edits": []},
            mcp_servers=[{"type": "url", "name": "x", "url": "http://x"}],
            hologram=True,
        )
    )
    assert talk.ignored == ["context_management", "mcp_servers", "hologram"]


@pytest.mark.parametrize(
    ("thinking", "think", "limit"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True, 2048),
        ({"type": "adaptive", "display": "omitted"}, None, None),
        ({"type": "between_tools"}, None, None),
        ({"type": "some_day"}, None, None),
        ({"type": "disabled"}, False, None),
        (None, None, None),
    ],
)
def test_thinking_and_its_budget_are_carried(thinking: Any, think: Any, limit: int | None) -> None:
    talk = DIALECT.read_conversation(parse(thinking=thinking))
    assert (talk.think, talk.thinking_tokens_max) == (think, limit)


def test_format_is_read_from_both_of_its_fields() -> None:
    schema = {"type": "object"}
    for more in (
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"output_format": {"type": "json_schema", "schema": schema}},
    ):
        assert DIALECT.read_conversation(parse(**more)).format == schema
    future = DIALECT.read_conversation(parse(output_config={"format": {"type": "grammar", "rules": ""}}))
    assert (future.format, future.unsupported) == (None, ["output_config.format"])


def test_system_message_that_was_cleared_is_not_shown() -> None:
    note = {"role": "system", "content": "note", "clear_at": "next_user_message"}
    assert [m.text for m in DIALECT.read_conversation(parse(messages=[*HI, note])).messages] == ["hi", "note"]
    assert [m.text for m in DIALECT.read_conversation(parse(messages=[*HI, note, *HI])).messages] == ["hi", "hi"]


def test_summary_replaces_the_turns_before_it() -> None:
    answer = [{"type": "compaction", "content": "so far"}, block("and now")]
    talk = DIALECT.read_conversation(
        parse(system="s", messages=[*HI, {"role": "assistant", "content": answer}, {"role": "user", "content": "go"}])
    )
    assert [(m.role, m.text) for m in talk.messages] == [
        ("system", "s"),
        ("user", "so far"),
        ("assistant", "and now"),
        ("user", "go"),
    ]
