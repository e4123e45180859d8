"""Tests which fields of OpenAI's API and of its servers say that an engine may be silent while it works."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.dialects.openai import DIALECT
from herd.protocols.conversation import ParsedRequest

ROUTES = {route.path: route for route in DIALECT.routes}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def parsed(path: str, fields: dict[str, Any]) -> ParsedRequest:
    needed = {"input": "hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "hi"}]}
    return DIALECT.parse(ROUTES[path], json.dumps({"model": "m", **needed, **fields}).encode())


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        ("/v1/chat/completions", {"response_format": {"type": "grammar", "grammar": "x"}}),
        ("/v1/chat/completions", {"response_format": {"type": "structural_tag", "structures": []}}),
        ("/v1/chat/completions", {"guided_json": SCHEMA}),
        ("/v1/chat/completions", {"guided_regex": "a+"}),
        ("/v1/chat/completions", {"guided_choice": ["a", "b"]}),
        ("/v1/chat/completions", {"guided_grammar": "root ::= x"}),
        ("/v1/chat/completions", {"structured_outputs": {"json": SCHEMA}}),
        ("/v1/chat/completions", {"json_schema": SCHEMA}),
        ("/v1/chat/completions", {"grammar": "root ::= x"}),
        ("/v1/responses", {"text": {"format": {"type": "grammar", "grammar": "x"}}}),
    ],
)
def test_every_field_that_binds_the_answer_is_a_format(path: str, fields: dict[str, Any]) -> None:
    assert parsed(path, fields).has_format


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"response_format": {"type": "text"}, "grammar": "", "guided_json": None}),
        ("/v1/chat/completions", {"chat_template_kwargs": {"enable_thinking": False}, "include_reasoning": True}),
        ("/v1/chat/completions", {"thinking": {"type": "disabled"}, "enable_thinking": False}),
        ("/v1/responses", {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
    ],
)
def test_values_without_effect_say_nothing(path: str, fields: dict[str, Any]) -> None:
    request = parsed(path, fields)
    assert not request.has_format and not request.may_think_unseen


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"thinking": True}},
        {"enable_thinking": True},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"thinking": {"type": "adaptive"}},
        {"include_reasoning": False},
    ],
)
def test_fields_of_servers_that_switch_thinking_on_or_hide_it(fields: dict[str, Any]) -> None:
    assert parsed("/v1/chat/completions", fields).may_think_unseen
