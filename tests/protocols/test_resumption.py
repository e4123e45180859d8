"""When an answer that broke off can be gone on with elsewhere, and what is asked then."""

from __future__ import annotations

from typing import Any

import pytest

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Message, Sampling, Tool
from herd.protocols.resumption import PartialAnswer, continuation_request, raw_continuation_request


def a_chat(**more: Any) -> Conversation:
    return Conversation(kind=RequestKind.CHAT, model="m", stream=True, messages=[Message("user", "Tell me.")], **more)


def test_what_was_said_begins_the_assistants_turn() -> None:
    resumed = continuation_request(a_chat(), PartialAnswer("Once upon", chunks=2))
    assert resumed is not None
    assert [(m.role, m.text) for m in resumed.messages] == [("user", "Tell me."), ("assistant", "Once upon")]


def test_a_beginning_that_the_client_had_given_stays_in_front() -> None:
    given = a_chat()
    given.messages.append(Message("assistant", "Well: "))
    resumed = continuation_request(given, PartialAnswer("once", chunks=1))
    assert resumed is not None
    assert [m.text for m in resumed.messages] == ["Tell me.", "Well: once"]
    assert given.messages[-1].text == "Well: ", "the client's own conversation is not changed"


def test_the_answer_may_be_no_longer_than_it_was_allowed_in_all() -> None:
    resumed = continuation_request(a_chat(sampling=Sampling(output_tokens_max=10)), PartialAnswer("a b c", chunks=3))
    assert resumed is not None and resumed.sampling.output_tokens_max == 7


def test_a_raw_prompt_goes_on_as_a_prompt_and_a_templated_one_as_a_chat() -> None:
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


def test_where_nothing_was_said_the_question_is_asked_again_as_it_was() -> None:
    bound = a_chat(format="json")
    assert continuation_request(bound, PartialAnswer()) is bound


@pytest.mark.parametrize(
    ("conversation", "partial_answer"),
    [
        (a_chat(), PartialAnswer("Let me see", has_calls=True)),
        (a_chat(), PartialAnswer(thinking="Hmm")),
        (a_chat(), PartialAnswer("text", thinking="Hmm")),
        (a_chat(), PartialAnswer("all of it", is_finished=True)),
        (a_chat(format="json"), PartialAnswer('{"a":')),
        (a_chat(logprobs=True), PartialAnswer("text")),
        (
            Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="def f(", suffix="return"),
            PartialAnswer("x"),
        ),
        (Conversation(kind=RequestKind.EMBED, model="m", stream=False, inputs=["x"]), PartialAnswer("x")),
    ],
    ids=["tool call begun", "still thinking", "has thought", "finished", "json", "logprobs", "fill in", "embeddings"],
)
def test_where_the_join_would_be_a_guess_there_is_none(
    conversation: Conversation, partial_answer: PartialAnswer
) -> None:
    assert continuation_request(conversation, partial_answer) is None


def test_what_was_said_stands_behind_the_rendered_prompt() -> None:
    resumed = raw_continuation_request(
        a_chat(sampling=Sampling(output_tokens_max=10)), PartialAnswer("So be", chunks=3), "<user>Hi<assistant>", ()
    )
    assert resumed is not None and (resumed.kind, resumed.raw, resumed.messages) == (RequestKind.GENERATE, True, [])
    assert resumed.prompt == "<user>Hi<assistant>So be" and resumed.sampling.output_tokens_max == 7


def test_a_prompt_that_was_raw_already_needs_no_rendering() -> None:
    resumed = raw_continuation_request(
        Conversation(kind=RequestKind.GENERATE, model="m", stream=True, prompt="Once", raw=True),
        PartialAnswer(" upon", chunks=1),
        "ignored",
        (),
    )
    assert resumed is not None and resumed.prompt == "Once upon"


def test_a_raw_answer_that_may_hold_a_thought_or_a_call_is_not_gone_on_with() -> None:
    partial_answer = PartialAnswer("So", chunks=1)
    assert raw_continuation_request(a_chat(), partial_answer, "x", {"thinking"}) is None
    assert raw_continuation_request(a_chat(think=False), partial_answer, "x", {"thinking"}) is not None
    assert raw_continuation_request(a_chat(tools=[Tool("weather", "", {})]), partial_answer, "x", ()) is None
    assert raw_continuation_request(a_chat(format="json"), partial_answer, "x", ()) is None
