"""An answer that Ollama stops because it repeats itself differs from one that was interrupted."""

from __future__ import annotations

import pytest

from herd.protocols.ollama.repetition import REPEATED_MIN, REPETITION_MAX_BYTES, TOKEN_MAX_CHARS, is_repeated


@pytest.mark.parametrize(
    "token", [" word", "ha", ".", "\n- x", "東京", "0", "x" * TOKEN_MAX_CHARS, "\n", " ", "\t\n", "a\nb"]
)
def test_the_same_token_again_and_again_is_a_repetition(token: str) -> None:
    assert is_repeated("It begins well. " + token * REPEATED_MIN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "an answer",
        " word" * (REPEATED_MIN - 1),
        "".join(f" {number}" for number in range(100)),
        " word" * REPEATED_MIN + " end",
        ("x" * (TOKEN_MAX_CHARS + 1) + "y") * REPEATED_MIN,
    ],
)
def test_other_ends_are_no_repetition(text: str) -> None:
    assert not is_repeated(text)


def test_the_end_that_is_examined_is_long_enough_for_the_longest_token() -> None:
    assert is_repeated(("\U0001f642" * TOKEN_MAX_CHARS * REPEATED_MIN).encode()[-REPETITION_MAX_BYTES:].decode())
