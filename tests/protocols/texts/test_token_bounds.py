"""Tests the lower bound on a text's tokens: single tokens count as one, several as at least their words."""

from __future__ import annotations

import pytest

from herd.protocols.texts.token_bounds import beginning, least_tokens

SINGLE_TOKENS = (
    *(
        " word",
        "word",
        "word ",
        "\n\n",
        "        ",
        "());\n",
        "don't",
        ".com",
        " «",
        "Übung",
        "🙂",
        "東京",
        "123",
        "'s",
    ),
    *(" internationalization", "_id", "\u3000", "}\n\n", "=====", " 有限责任公司", "\ufffd"),
)
"""Real vocabularies have each of them as one token."""


@pytest.mark.parametrize("text", SINGLE_TOKENS)
def test_a_single_token_is_one(text: str) -> None:
    assert least_tokens(text) == 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" one two three", 3),
        ("one, two.", 4),
        ("e.g. foo.bar()", 6),
        ("東京は日本の首都です。", 3),
        ("if x == 1:\n    return", 6),
        ("x" * 100, 4),
    ],
)
def test_several_tokens_are_at_least_their_words(text: str, tokens: int) -> None:
    assert least_tokens(text) == tokens


@pytest.mark.parametrize("text", [" one two three", "one, two.", "東京は日本の首都です。", "a\n\nb\n", "  "])
def test_a_beginning_has_the_wanted_pieces_and_is_never_longer(text: str) -> None:
    whole = least_tokens(text)
    for tokens in range(1, whole + 2):
        cut = beginning(text, tokens)
        assert text.startswith(cut)
        assert least_tokens(cut) == min(tokens, whole)
    assert beginning(text, whole) == text.rstrip() or beginning(text, whole) == text
