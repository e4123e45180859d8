"""Anthropic's model list in pages."""

from __future__ import annotations

from typing import Any

import pytest

from herd.errors import BadRequest
from herd.protocols.anthropic.model_page import LIMIT_DEFAULT, LIMIT_MAX, model_page

ENTRIES: list[dict[str, Any]] = [{"id": f"m{at}"} for at in range(45)]


@pytest.mark.parametrize(
    ("query", "first", "last", "has_more"),
    [
        (b"", "m0", f"m{LIMIT_DEFAULT - 1}", True),
        (b"limit=1000", "m0", "m44", False),
        (b"limit=2&after_id=m3", "m4", "m5", True),
        (b"limit=2&after_id=m42", "m43", "m44", False),
        (b"limit=2&before_id=m3", "m1", "m2", True),
        (b"limit=5&before_id=m3", "m0", "m2", False),
        (b"beta=true&limit=1", "m0", "m0", True),
    ],
)
def test_page_is_cut_by_the_query(query: bytes, first: str, last: str, has_more: bool) -> None:
    page = model_page(ENTRIES, query)
    assert (page["first_id"], page["last_id"], page["has_more"]) == (first, last, has_more)
    assert [page["data"][0]["id"], page["data"][-1]["id"]] == [first, last]


def test_empty_page_has_no_ids() -> None:
    empty = {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert model_page([], b"") == model_page(ENTRIES, b"after_id=m44") == empty


@pytest.mark.parametrize(
    "query", [b"limit=0", b"limit=x", b"limit=-1", b"limit=%d" % (LIMIT_MAX + 1), b"after_id=z", b"before_id=z"]
)
def test_invalid_query_is_refused(query: bytes) -> None:
    with pytest.raises(BadRequest):
        model_page(ENTRIES, query)
