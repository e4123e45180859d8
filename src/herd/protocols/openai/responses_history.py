"""Reads what a Responses request says about earlier answers, and inserts their items into its input.

Items remain the bytes that client and engine sent, so the beginning of a conversation stays the same at each turn
and engines find it in their prompt caches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from herd.protocols.answer_ends import decode
from herd.protocols.request_fields import is_given, wrong_type

RESPONSES: Final = "/v1/responses"

_ABSENT = msgspec.Raw()
_REFERENCE: Final = b'"item_reference"'
_TYPED: Final = re.compile(rb'"(?:type|role)"\s*:\s*"')
"""Almost every item: then only its bytes are searched, and it is not decoded."""


_ITEM_PLACE: Final = re.compile(rb"\binput(\[|\.|', (?:'[^']*', )*)(\d{1,6})\b")
"""Ollama: `input[2]: content`; OpenAI: `input[2].content`; vLLM: `('body', 'input', 'list[...]', 2, 'content')`."""


class History(msgspec.Struct, kw_only=True):
    """The fields of a request that concern its history."""

    input: msgspec.Raw = _ABSENT
    previous_response_id: Any = None
    conversation: Any = None
    store: Any = None
    stream: Any = None


class StoredBody(msgspec.Struct):
    """What the store needs of a response object."""

    id: str = ""
    output: list[msgspec.Raw] = []


class _Event(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = _ABSENT


class _Reference(msgspec.Struct):
    type: str | None = None
    id: str | None = None


class _ReferencingItem(msgspec.Struct):
    """Any item. One that has neither a type nor a role is a reference too, as the type of references is optional."""

    type: Any = None
    role: Any = None
    id: Any = None

    @property
    def is_one(self) -> bool:
        return self.type == "item_reference" or (self.type is None and self.role is None and self.id is not None)


_HISTORY = msgspec.json.Decoder(History)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_STORED = msgspec.json.Decoder(StoredBody)
_EVENT = msgspec.json.Decoder(_Event)
_ITEM_ID = msgspec.json.Decoder(_Reference)
_REFERENCED = msgspec.json.Decoder(_ReferencingItem)


def read_history(body: bytes) -> History | None:
    """None for a body that is not a JSON object, which the dialect refuses. Raises BadRequest for a malformed id."""
    history = decode(body, _HISTORY)
    if history is not None and not isinstance(history.previous_response_id, str | None):
        raise wrong_type("previous_response_id", "a string", history.previous_response_id)
    return history


def input_items(given: msgspec.Raw) -> list[bytes] | None:
    """The items of an `input` field; a text is a message of the user. None if the field has another type."""
    if not is_given(given):
        return []
    raw = bytes(given)
    if raw[:1] == b'"':
        return [b'{"type":"message","role":"user","content":' + raw + b"}"]
    items = decode(raw, _ITEMS)
    return None if items is None else [bytes(item) for item in items]


def with_items(body: bytes, items: Sequence[bytes]) -> bytes:
    """The request with these items as its input, and without `previous_response_id`."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields.pop("previous_response_id", None)
    fields["input"] = msgspec.Raw(b"[" + b",".join(items) + b"]")
    return msgspec.json.encode(fields)


def with_own_places(error: bytes, earlier_items: int) -> bytes:
    """An engine's error in which the places of input items are those in the client's own list.

    The first `earlier_items` were inserted: their places are named after the field that stands for them.
    """

    def own(found: re.Match[bytes]) -> bytes:
        place = int(found[2]) - earlier_items
        return b"input%b%d" % (found[1], place) if place >= 0 else b"previous_response_id" + found[1] + found[2]

    return _ITEM_PLACE.sub(own, error) if earlier_items else error


def resolve_references(items: Sequence[bytes], find: Callable[[str], bytes | None]) -> tuple[list[bytes], str]:
    """The items with each reference replaced by what it refers to; and the first id that was not found, or ""."""
    resolved = []
    for position, item in enumerate(items):
        if _REFERENCE in item or not _TYPED.search(item):
            reference = decode(item, _REFERENCED)
            if reference is not None and reference.is_one:
                if not isinstance(reference.id, str):
                    raise wrong_type(f"input[{position}].id", "a string", reference.id)
                found = find(reference.id)
                if found is None:
                    return [], reference.id or "an empty id"
                item = found
        resolved.append(item)
    return resolved, ""


def read_stored(body: bytes) -> StoredBody | None:
    """The id and the output of a response object; None if the body is something else."""
    stored = decode(body, _STORED)
    return stored if stored is not None and stored.id else None


def item_id(item: bytes) -> str:
    found = decode(item, _ITEM_ID)
    return (found.id or "") if found is not None else ""


def with_fields(body: bytes, **values: Any) -> bytes:  # noqa: ANN401 - JSON
    """The object with these members; the others are unchanged."""
    fields = decode(body, _FIELDS)
    assert fields is not None, "the body was read before"
    return msgspec.json.encode(fields | {name: msgspec.Raw(msgspec.json.encode(v)) for name, v in values.items()})


def event_response(event: bytes) -> tuple[str, bytes]:
    """The type of a lifecycle event in a part of a stream, and its response object; two empty values if there is none.

    Of several events, the last complete one counts.
    """
    for line in reversed(event.split(b"\n")):
        if line.startswith(b"data:"):
            found = decode(line[len(b"data:") :].strip(), _EVENT)
            if found is not None and found.response is not _ABSENT:
                return found.type, bytes(found.response)
    return "", b""


def listed_item(item: bytes, response_id: str, position: int) -> dict[str, object]:
    """An input item as the list of input items shows it: with an id, and with content that is a list of parts."""
    fields: dict[str, Any] = msgspec.json.decode(item, type=dict[str, Any])
    fields.setdefault("type", "message")
    if not fields.get("id"):
        fields["id"] = f"item_{response_id.removeprefix('resp_')}_{position}"
    if fields["type"] == "message":
        fields.setdefault("status", "completed")
        if isinstance(fields.get("content"), str):
            kind = "output_text" if fields.get("role") == "assistant" else "input_text"
            extra: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
            fields["content"] = [{"type": kind, "text": fields["content"], **extra}]
    return fields
