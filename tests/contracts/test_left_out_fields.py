"""What an engine, its chat template or a translation leaves out of a request is named in X-Fleet-Ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders import a_model_info, an_engine_of
from herd.coordinator.proxy.missing_paths import MissingPaths
from herd.coordinator.proxy.request_forms import Outgoing, RequestForms
from herd.core.state.capabilities import TOOL_CALLS
from herd.core.state.commands import Dispatch
from herd.core.state.fleet import NodeId, canonical
from herd.core.state.request import Failure, RequestId
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA_API
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines import Engine
from herd.engines.llamacpp import ENGINE as LLAMACPP
from herd.engines.lmstudio import ENGINE as LMSTUDIO
from herd.engines.ollama import ENGINE as OLLAMA
from herd.engines.openai import ENGINE as SERVER
from herd.engines.vllm import ENGINE as VLLM

Json = dict[str, Any]
ENGINES: dict[str, Engine] = {engine.kind: engine for engine in (OLLAMA, LLAMACPP, LMSTUDIO, VLLM, SERVER)}
HI = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "x"}]
BLOCKS = [
    HI,
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]},
]
ITEMS = [
    HI,
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "x"},
]
OLLAMA_CALL = {"function": {"name": "f", "arguments": {}}}
OLD_CALL = [HI, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]
QUOTED = [{"role": "user", "content": '{"tool_calls": [{"type": "tool_use"}]}'}]


def built(dialect: Dialect, engine: Engine, path: str, body: Json, lacks: frozenset[str]) -> Outgoing | Failure:
    route = next(route for route in dialect.routes if route.path == path)
    parsed = dialect.parse(route, json.dumps({"model": "m", "stream": False, **body}).encode())
    command = Dispatch(
        request_id=RequestId("r1"),
        attempt=1,
        node_id=NodeId("one"),
        model=canonical("m"),
        model_info=a_model_info(engine=an_engine_of("", engine.kind), lacks=lacks),
        score=0.0,
        retries=0,
        fallback=None,
        options=None,
    )
    return RequestForms(dialect, parsed, ENGINES, MissingPaths()).build(command, engine, now=10.0)


def names(
    dialect: Dialect, engine: Engine, path: str, body: Json, lacks: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    outgoing = built(dialect, engine, path, body, lacks)
    assert isinstance(outgoing, Outgoing)
    return outgoing.ignored


CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"


@pytest.mark.parametrize(
    ("dialect", "path", "body", "named"),
    [
        (OPENAI, CHAT, {"messages": CALLED}, ("messages.tool_calls",)),
        (OPENAI, CHAT, {"messages": OLD_CALL}, ("function_call",)),
        (OPENAI, CHAT, {"messages": [HI]}, ()),
        (OPENAI, CHAT, {"messages": [HI, {"role": "assistant", "content": "x", "tool_calls": []}]}, ()),
        (OPENAI, CHAT, {"messages": QUOTED}, ()),
        (OPENAI, "/v1/responses", {"input": ITEMS}, ("input (function_call)",)),
        (ANTHROPIC, MESSAGES, {"messages": BLOCKS, "max_tokens": 9}, ("messages.content.tool_use",)),
        (
            OLLAMA_API,
            "/api/chat",
            {"messages": [HI, {"role": "assistant", "tool_calls": [OLLAMA_CALL]}]},
            ("messages.tool_calls",),
        ),
    ],
)
def test_earlier_calls_are_named_where_the_template_leaves_them_out(
    dialect: Dialect, path: str, body: Json, named: tuple[str, ...]
) -> None:
    assert names(dialect, LLAMACPP, path, body, frozenset((TOOL_CALLS, "tools"))) == named
    assert names(dialect, LLAMACPP, path, body) == ()


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        (CHAT, {"messages": [HI], "functions": [FUNCTION]}, ("functions",)),
        (CHAT, {"messages": [HI], "functions": []}, ()),
        (CHAT, {"messages": [HI], "audio": {"voice": "alloy", "format": "mp3"}}, ("audio",)),
        (CHAT, {"messages": [HI], "logit_bias": {"5": 1}}, ()),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}, ("suffix",)),
        (COMPLETIONS, {"prompt": "a", "echo": True, "best_of": 2}, ("best_of", "echo")),
        (COMPLETIONS, {"prompt": "a", "suffix": "", "echo": False, "best_of": 1}, ()),
    ],
)
def test_fields_that_llamacpp_ignores_although_they_change_the_meaning_are_named(
    path: str, fields: Json, named: tuple[str, ...]
) -> None:
    assert names(OPENAI, LLAMACPP, path, fields) == named
    assert names(OPENAI, SERVER, path, fields) == (), "an unknown server may honor them"


OPTIONS = {"num_gpu": 1, "num_thread": 2, "use_mmap": True, "num_ctx": 512, "top_k": 3, "mirostat": 2, "x": 1}


@pytest.mark.parametrize(
    ("engine", "fields", "named"),
    [
        (LLAMACPP, {"options": OPTIONS}, ("options.x",)),
        (VLLM, {"options": OPTIONS}, ("options.mirostat", "options.x")),
        (SERVER, {"options": {"stop": ["a"], "seed": 1, "penalize_newline": False}}, ("options.penalize_newline",)),
        (SERVER, {"unknown_field": 7, "shift": False, "empty": []}, ("unknown_field",)),
        (SERVER, {"truncate": True, "keep_alive": "5m"}, ("truncate",)),
        (LMSTUDIO, {"think": True}, ("think",)),
        (LMSTUDIO, {"think": False}, ("think",)),
        (LMSTUDIO, {"think": "low"}, ()),
        (VLLM, {"think": False}, ()),
    ],
)
def test_what_another_engine_lacks_of_ollamas_api_is_named(
    engine: Engine, fields: Json, named: tuple[str, ...]
) -> None:
    assert names(OLLAMA_API, engine, "/api/chat", {"messages": [HI], **fields}) == named


@pytest.mark.parametrize("fields", [{"context": [1, 2]}, {"template": "{{ .Prompt }}"}])
def test_what_only_an_ollama_understands_is_refused_and_names_it(fields: Json) -> None:
    failure = built(OLLAMA_API, VLLM, "/api/generate", {"prompt": "Hi", **fields}, frozenset())
    assert isinstance(failure, Failure)
    assert failure.detail == f"{next(iter(fields))}: not supported by vLLM; a node with Ollama could serve it"
    assert names(OLLAMA_API, OLLAMA, "/api/generate", {"prompt": "Hi", **fields}) == ()


def test_fields_that_the_responses_api_does_not_have_are_named() -> None:
    fields = {"input": "Hi", "unknown_field": 7, "seed": 3, "stop": ["x"], "user": "u", "service_tier": "auto"}
    assert names(OPENAI, OLLAMA, "/v1/responses", fields) == ("unknown_field", "seed", "stop")


RESPONSES = "/v1/responses"
NO_PARALLEL: dict[str, tuple[Dialect, Json]] = {
    MESSAGES: (
        ANTHROPIC,
        {
            "max_tokens": 9,
            "messages": [HI],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
    ),
    RESPONSES: (OPENAI, {"input": "x", "tools": [{"type": "function", **FUNCTION}], "parallel_tool_calls": False}),
    CHAT: (
        OPENAI,
        {"messages": [HI], "tools": [{"type": "function", "function": FUNCTION}], "parallel_tool_calls": False},
    ),
}


@pytest.mark.parametrize("path", NO_PARALLEL)
@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.kind)
def test_a_request_without_parallel_calls_is_carried_or_named(engine: Engine, path: str) -> None:
    dialect, body = NO_PARALLEL[path]
    outgoing = built(dialect, engine, path, body, frozenset())
    assert isinstance(outgoing, Outgoing)
    sent = json.loads(outgoing.request.body)
    choice = sent.get("tool_choice")
    is_carried = sent.get("parallel_tool_calls") is False or (
        isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
    )
    assert is_carried != ("parallel_tool_calls" in outgoing.ignored)
