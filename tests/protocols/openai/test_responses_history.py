"""Places of input items in errors are those in the client's own list, in texts of herd and of engines."""

from __future__ import annotations

import pytest

from herd.protocols.openai.responses_history import with_own_places
from herd.protocols.openai.responses_items import read_items
from herd.protocols.openai.responses_tools import read_tools


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (b"input[3]: content[0]: unknown", b"input[1]: content[0]: unknown"),
        (b'{"param":"input[12].content"}', b'{"param":"input[10].content"}'),
        (b"input.2.role", b"input.0.role"),
        (
            b"('body', 'input', 'list[union[A,B]]', 4, 'A', 'id')",
            b"('body', 'input', 'list[union[A,B]]', 2, 'A', 'id')",
        ),
        (b"input[1].id", b"previous_response_id[1].id"),
        (b"output[3], myinput[3], input [3], input[x]", b"output[3], myinput[3], input [3], input[x]"),
    ],
)
def test_an_engines_words_for_a_place_are_corrected(error: bytes, expected: bytes) -> None:
    assert with_own_places(error, 2) == expected
    assert with_own_places(error, 0) == error


def test_an_item_that_was_inserted_is_named_after_the_field_that_names_its_response() -> None:
    items = [{"type": "novel"}, {"role": "user", "content": "a"}, {"type": "novel"}]
    assert read_items(items, read_tools([]), earlier_items=1).ignored == [
        "previous_response_id[0] (novel)",
        "input[1] (novel)",
    ]
