"""Every engine in the folder follows the rules of the contract."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import herd.engines
from herd.core.state.request import RequestKind
from herd.discover import discover
from herd.engines import Engine, EngineResponse, Inventory
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation, Delta, Message, Tool

ENGINES = discover(herd.engines, Engine, "ENGINE")
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
ANSWERING = (RequestKind.CHAT, RequestKind.GENERATE, RequestKind.EMBED)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["models", "data", "id", "name", "size", "details", "version"]), inner)
    ),
    max_leaves=10,
)
bodies = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())
some_replies = st.lists(st.builds(EngineResponse, st.sampled_from([0, 200, 404, 500]), bodies), max_size=6)


def a_conversation(kind: RequestKind, stream: bool) -> Conversation:
    messages = [Message("user", "hi")] if kind is RequestKind.CHAT else []
    return Conversation(kind=kind, model="m", stream=stream, messages=messages, prompt="hi", inputs=["hi"])


@each_engine
def test_probe_and_inventory_requests_change_nothing(engine: Engine) -> None:
    assert engine.kind and engine.title and 0 < engine.default_port < 65536
    for call in (engine.probe(), *engine.inventory_requests()):
        assert (call.method, call.body) == ("GET", b"") and call.path.startswith("/")


@each_engine
@given(replies=some_replies)
@settings(max_examples=80, deadline=None)
def test_invalid_replies_give_less_information_and_no_exception(engine: Engine, replies: list[EngineResponse]) -> None:
    wanted = len(engine.inventory_requests())
    full = (*replies, *[EngineResponse(0, b"")] * wanted)[:wanted]
    assert isinstance(engine.inventory(full), Inventory)
    for reply in full:
        assert engine.recognizes(reply) in (True, False)
        assert engine.is_busy(reply.status, reply.body) in (True, False)
        assert engine.is_model_missing(reply.status, reply.body) in (True, False)


@each_engine
def test_missing_reply_is_not_recognized_and_gives_an_empty_inventory(engine: Engine) -> None:
    silence = EngineResponse(0, b"")
    assert not engine.recognizes(silence)
    assert engine.inventory(tuple(silence for _ in engine.inventory_requests())).models == ()
    assert engine.is_busy(503, b"")


@each_engine
@pytest.mark.parametrize("kind", ANSWERING)
@pytest.mark.parametrize("stream", [True, False])
def test_call_is_json_for_the_model_or_a_bad_request(engine: Engine, kind: RequestKind, stream: bool) -> None:
    try:
        call = engine.build_request(a_conversation(kind, stream))
    except BadRequest:
        return
    assert call.method == "POST" and call.path.startswith("/")
    assert json.loads(call.body)["model"] == "m"


@each_engine
@pytest.mark.parametrize("kind", ANSWERING)
@pytest.mark.parametrize("stream", [True, False])
@given(chunks=st.lists(bodies, max_size=5))
@settings(max_examples=30, deadline=None)
def test_arbitrary_bytes_raise_only_value_errors(
    engine: Engine, kind: RequestKind, stream: bool, chunks: list[bytes]
) -> None:
    reader = engine.reader(a_conversation(kind, stream))
    try:
        parts = [delta for chunk in chunks for delta in reader.feed(chunk)] + reader.end()
    except ValueError:
        return
    assert all(isinstance(part, Delta) for part in parts)


@each_engine
@pytest.mark.parametrize("kind", ANSWERING)
@pytest.mark.parametrize("stream", [True, False])
def test_empty_answer_has_no_last_delta(engine: Engine, kind: RequestKind, stream: bool) -> None:
    assert not any(delta.is_last for delta in engine.reader(a_conversation(kind, stream)).end())


@each_engine
def test_engine_gets_one_system_message_and_no_system_message_later(engine: Engine) -> None:
    roles = ("system", "developer", "user", "assistant", "system", "user")
    conversation = a_conversation(RequestKind.CHAT, True)
    conversation.messages = [Message(role, role) for role in roles]
    sent = json.loads(engine.build_request(conversation).body)["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]


@each_engine
def test_one_tool_call_at_a_time_is_requested_or_named(engine: Engine) -> None:
    conversation = a_conversation(RequestKind.CHAT, True)
    conversation.tools = [Tool("f", "", {})]
    conversation.parallel_tool_calls = False
    sent = json.loads(engine.build_request(conversation).body)
    assert (sent.get("parallel_tool_calls") is False) != ("parallel_tool_calls" in conversation.ignored)


@each_engine
def test_limit_of_thinking_is_carried_or_named(engine: Engine) -> None:
    conversation = a_conversation(RequestKind.CHAT, True)
    conversation.think, conversation.thinking_tokens_max = True, 1234
    sent = json.loads(engine.build_request(conversation).body)
    assert (1234 in sent.values()) != ("thinking.budget_tokens" in conversation.ignored)
