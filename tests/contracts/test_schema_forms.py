"""A schema binds the answer in every form in which clients send it, also where an engine's own endpoint ignores it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines.llamacpp import ENGINE as LLAMACPP
from herd.engines.ollama import ENGINE as OLLAMA

SCHEMA = {"type": "object", "properties": {"schema": {"type": "string"}}}
HI = [{"role": "user", "content": "hi"}]
FORMAT = {"type": "json_schema", "schema": SCHEMA}
MESSAGES: tuple[Dialect, str, dict[str, Any]] = (ANTHROPIC, "/v1/messages", {"messages": HI, "max_tokens": 9})
CHAT: tuple[Dialect, str, dict[str, Any]] = (OPENAI, "/v1/chat/completions", {"messages": HI})


@pytest.mark.parametrize(
    ("client", "fields", "is_lost_by"),
    [
        (MESSAGES, {"output_config": {"format": FORMAT}}, (OLLAMA, LLAMACPP)),
        (MESSAGES, {"output_format": FORMAT}, (OLLAMA, LLAMACPP)),
        (CHAT, {"response_format": FORMAT}, (OLLAMA,)),
        (CHAT, {"response_format": {"type": "json_object", "schema": SCHEMA}}, (OLLAMA,)),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, ()),
    ],
)
def test_every_form_is_read_and_translated_for_engines_that_ignore_it(
    client: tuple[Dialect, str, dict[str, Any]], fields: dict[str, Any], is_lost_by: tuple[Any, ...]
) -> None:
    dialect, path, base = client
    route = next(route for route in dialect.routes if route.path == path)
    request = dialect.parse(route, json.dumps({"model": "m", **base, **fields}).encode())
    assert request.has_format or path != "/v1/messages"
    assert dialect.read_conversation(request).format == SCHEMA
    for engine in (OLLAMA, LLAMACPP):
        served = engine.served_path(path)
        assert served is not None
        is_lost = any(name in served.loses for name in request.translatable_fields)
        assert is_lost is (engine in is_lost_by), engine.title
