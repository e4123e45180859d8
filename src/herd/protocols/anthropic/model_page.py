"""Cuts Anthropic's model list into pages, as the query of the request requires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from herd.errors import BadRequest

LIMIT_DEFAULT, LIMIT_MAX = 20, 1000
"""Models on a page, as in Anthropic's API."""


def model_page(entries: Sequence[dict[str, Any]], query: bytes) -> dict[str, Any]:
    """The page of `entries` after `after_id` or before `before_id`. Raises BadRequest."""
    given = {name: values[-1] for name, values in parse_qs(query.decode("ascii", "replace")).items()}
    limit, ids = _limit(given.get("limit")), [entry["id"] for entry in entries]
    if "before_id" in given:
        end = _position(given["before_id"], ids, "before_id")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        start = _position(given["after_id"], ids, "after_id") + 1 if "after_id" in given else 0
        end = min(len(ids), start + limit)
        has_more = end < len(ids)
    page = list(entries[start:end])
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"data": page, "has_more": has_more, "first_id": first, "last_id": last}


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise BadRequest(f"limit must be a whole number from 1 to {LIMIT_MAX}")


def _position(model_id: str, ids: Sequence[str], name: str) -> int:
    if model_id in ids:
        return ids.index(model_id)
    raise BadRequest(f"{name}: no model has this id; begin with the first page again")
