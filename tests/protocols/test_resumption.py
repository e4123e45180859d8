"""An interrupted answer is continued on another node where this is reliable."""

from __future__ import annotations

from typing import Any

import pytest

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Message, Sampling, Tool
from herd.protocols.resumption import PartialAnswer, continuation_request, raw_continuation_request


def a_chat(**more: Any) -> Conversation:
    return Conversation(kind=RequestKind.CHAT, model="m", stream=True, messages=[Message("user", "Tell me.")], **more)


def test_partial_answer_begins_the_assistant_turn() -> None:
    resumed = continuation_request(a_chat(), PartialAnswer("Once upon", chunks=2))
    assert resumed is not None
    assert [(m.role, m.text) for m in resumed.messages] == [("user", "Tell me."), ("assistant", "Once upon")]


def test_clients_own_assistant_text_stays_first() -> None:
    given = a_chat()
    given.messages.append(Message("assistant", "Well: "))
    resumed = continuation_request(given, PartialAnswer("once", chunks=1))
    assert resumed is not None
    assert [m.text for m in resumed.messages] == ["Tell me.", "Well: once"]
    assert given.messages[-1].text == "Well: ", "the client's own conversation is not changed"


def test_remaining_token_limit_excludes_the_partial_answer() -> None:
    resumed = continuation_request(a_chat(sampling=Sampling(output_tokens_max=10)), PartialAnswer("a b c", chunks=3))
    assert resumed is not None and resumed.sampling.output_tokens_max == 7


def test_raw_prompt_continues_as_a_prompt_and_a_templated_one_as_a_chat() -> None:
    raw = continuation_request(
        Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="2 + 2 =", raw=True),
        PartialAnswer(" 4", chunks=1),
    )
    assert raw is not None and raw.prompt == "2 + 2 = 4" and raw.kind is RequestKind.GENERATE
    asked = continuation_request(
        Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="Say hi.", system="Be kind."),
        PartialAnswer("Hi", chunks=1),
    )
    assert asked is not None and asked.kind is RequestKind.CHAT
    assert [(m.role, m.text) for m in asked.messages] == [
        ("system", "Be kind."),
        ("user", "Say hi."),
        ("assistant", "Hi"),
    ]


def test_empty_partial_answer_repeats_the_original_request() -> None:
    bound = a_chat(format="json")
    assert continuation_request(bound, PartialAnswer()) is bound


def test_an_answer_of_which_only_thinking_was_sent_begins_again_unless_its_form_cannot_be_written() -> None:
    bound = a_chat(format="json", tools=[Tool("f", "", {})])
    partial_answer = PartialAnswer(thinking="Hmm", chunks=1)
    assert continuation_request(bound, partial_answer) is bound
    partial_answer.can_repeat_thinking = False
    assert continuation_request(bound, partial_answer) is None


@pytest.mark.parametrize(
    ("conversation", "partial_answer"),
    [
        (a_chat(), PartialAnswer("Let me see", has_calls=True)),
        (a_chat(), PartialAnswer(thinking="Hmm", has_calls=True)),
        (a_chat(), PartialAnswer("text", thinking="Hmm")),
        (a_chat(), PartialAnswer("all of it", is_finished=True)),
        (a_chat(format="json"), PartialAnswer('{"a":')),
        (a_chat(tools=[Tool("f", "", {})], tool_choice="required"), PartialAnswer("text")),
        (a_chat(), PartialAnswer("half a character: \ufffd")),
        (
            Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="def f(", suffix="return"),
            PartialAnswer("x"),
        ),
        (Conversation(kind=RequestKind.EMBED, model="m", stream=False, inputs=["x"]), PartialAnswer("x")),
    ],
    ids=[
        "tool call begun",
        "tool call begun after thinking",
        "has thought",
        "finished",
        "json",
        "forced call",
        "half a character",
        "fill in",
        "embeddings",
    ],
)
def test_unreliable_continuation_is_none(conversation: Conversation, partial_answer: PartialAnswer) -> None:
    assert continuation_request(conversation, partial_answer) is None


def test_partial_answer_is_appended_to_the_rendered_prompt() -> None:
    resumed = raw_continuation_request(
        a_chat(sampling=Sampling(output_tokens_max=10)), PartialAnswer("So be", chunks=3), "<user>Hi<assistant>", ()
    )
    assert resumed is not None and (resumed.kind, resumed.raw, resumed.messages) == (RequestKind.GENERATE, True, [])
    assert resumed.prompt == "<user>Hi<assistant>So be" and resumed.sampling.output_tokens_max == 7


def test_raw_prompt_needs_no_rendering() -> None:
    resumed = raw_continuation_request(
        Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="Once", raw=True),
        PartialAnswer(" upon", chunks=1),
        "ignored",
        (),
    )
    assert resumed is not None and resumed.prompt == "Once upon"


def test_raw_continuation_is_none_if_thinking_or_tool_calls_are_possible() -> None:
    partial_answer = PartialAnswer("So", chunks=1)
    assert raw_continuation_request(a_chat(), partial_answer, "x", {"thinking"}) is None
    assert raw_continuation_request(a_chat(think=False), partial_answer, "x", {"thinking"}) is not None
    assert raw_continuation_request(a_chat(tools=[Tool("weather", "", {})]), partial_answer, "x", ()) is None
    assert raw_continuation_request(a_chat(format="json"), partial_answer, "x", ()) is None
