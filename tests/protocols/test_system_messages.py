"""Conversations begin with their only system message, and later ones keep their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocols.conversation import Message
from herd.protocols.system_messages import with_one_system_message

ROLES = st.sampled_from(("system", "developer", "user", "assistant", "tool"))
LETTERS = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
NOTE = "<system-message>\n{}\n</system-message>"


def talk(letters: str) -> list[Message]:
    return [Message(LETTERS[letter], f"{letter}{at}") for at, letter in enumerate(letters)]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("u", [("user", "u0")]),
        ("sua", [("system", "s0"), ("user", "u1"), ("assistant", "a2")]),
        ("ssuu", [("system", "s0\n\ns1"), ("user", "u2"), ("user", "u3")]),
        ("du", [("developer", "d0"), ("user", "u1")]),
        ("sdu", [("system", "s0\n\nd1"), ("user", "u2")]),
        ("sus", [("system", "s0"), ("user", f"u1\n\n{NOTE.format('s2')}")]),
        ("us", [("user", f"u0\n\n{NOTE.format('s1')}")]),
        ("uasu", [("user", "u0"), ("assistant", "a1"), ("user", f"{NOTE.format('s2')}\n\nu3")]),
        (
            "uatsa",
            [("user", "u0"), ("assistant", "a1"), ("tool", "t2"), ("user", NOTE.format("s3")), ("assistant", "a4")],
        ),
        (
            "uasta",
            [("user", "u0"), ("assistant", "a1"), ("tool", "t3"), ("user", NOTE.format("s2")), ("assistant", "a4")],
        ),
        ("usda", [("user", f"u0\n\n{NOTE.format('s1')}\n\n{NOTE.format('d2')}"), ("assistant", "a3")]),
    ],
)
def test_system_messages_become_one(letters: str, expected: list[tuple[str, str]]) -> None:
    assert [(message.role, message.text) for message in with_one_system_message(talk(letters))] == expected


@given(st.lists(st.builds(Message, ROLES, st.text(min_size=1, max_size=3)), max_size=8))
def test_no_text_is_lost_and_only_the_first_message_is_of_the_system(messages: list[Message]) -> None:
    merged = with_one_system_message(messages)
    assert all(message.role in ("user", "assistant", "tool") for message in merged[1:])
    assert all(any(message.text in kept.text for kept in merged) for message in messages)
    others = [message.role for message in messages if message.role in ("assistant", "tool")]
    assert [message.role for message in merged if message.role in ("assistant", "tool")] == others
