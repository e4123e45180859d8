"""Decides whether JSON that came with status 200 is an answer, by the protocol in which the engine answers.

Servers, and proxies in front of them, report failures with status 200 in ever more spellings, but an answer has few
forms: it has a content, or it says why it ended without one. An empty answer that says so is an answer.

Only requests for text or vectors have answers of a known form. What an engine says about a model, or counts, may be
anything (`ANYTHING`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from herd.protocols.answer_ends import decode
from herd.protocols.failed_ends import is_failed
from herd.protocols.request_fields import ABSENT, has_content, is_given

HELD_MAX_BYTES: Final = 64 << 10
"""A stream that has not begun to answer after this many bytes is passed on as it is."""


class _Members(msgspec.Struct, kw_only=True, rename={"debug_info": "_debug_info"}):
    """The members in which answers of all protocols have their content or their end."""

    type: msgspec.Raw = ABSENT
    choices: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    output: msgspec.Raw = ABSENT
    content: msgspec.Raw = ABSENT
    stop_reason: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    thinking: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    done: msgspec.Raw = ABSENT
    done_reason: msgspec.Raw = ABSENT
    embedding: msgspec.Raw = ABSENT
    embeddings: msgspec.Raw = ABSENT
    debug_info: msgspec.Raw = ABSENT
    """What Ollama answers to a request that only renders its template."""


_Object = dict[str, msgspec.Raw]
_MEMBERS = msgspec.json.Decoder(_Members)
_OBJECT = msgspec.json.Decoder(_Object)
_OBJECTS = msgspec.json.Decoder(list[_Object | None])
_EMPTY = frozenset((b"null", b"false", b'""', b"[]", b"{}"))
_UNFINISHED = frozenset((b'"in_progress"', b'"queued"'))


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How one protocol answers one kind of request."""

    _is_whole: Callable[[_Members], bool]
    _begins: Callable[[_Members], bool]
    _beginnings: tuple[bytes, ...] = ()
    """Bytes with which streams usually begin, so that most are found without decoding them."""
    _places: tuple[bytes, ...] = ()
    """Bytes before the content of a usual document."""

    def is_answer(self, document: bytes, says_end: bool = False) -> bool:
        """Whether this complete JSON document is an answer. `says_end`: it says that and why it ended."""
        if says_end and any(place in document for place in self._places):
            return True
        members = decode(document, _MEMBERS)
        return members is not None and self._is_whole(members)

    def has_begun(self, lines: bytes) -> bool:
        """Whether one of these complete lines of a stream is a part of an answer."""
        if any(beginning in lines for beginning in self._beginnings) or len(lines) > HELD_MAX_BYTES:
            return True
        events = (decode(data, _MEMBERS) for data in _data_of(lines))
        return any(event is not None and self._begins(event) for event in events)


def _data_of(lines: bytes) -> list[bytes]:
    """The data of each line, and of all of them together: an event may have several."""
    found = [line.removeprefix(b"data:").strip() for line in lines.splitlines() if line.startswith((b"data:", b"{"))]
    return found if len(found) < 2 else [*found, b"\n".join(found)]


# --- OpenAI: chats and text completions ---


def _has_choice(members: _Members) -> bool:
    return any(choice is not None and _is_choice(choice) for choice in _objects(members.choices))


def _is_choice(choice: _Object) -> bool:
    """Whether it has a content, or a place for one and the reason why the answer ended."""
    message, text = choice.get("message") or choice.get("delta") or ABSENT, choice.get("text", ABSENT)
    reason = choice.get("finish_reason", ABSENT)
    if not (_is_object(message) or _is_text(text)) or is_failed(bytes(reason).decode("utf-8", "replace")):
        return False
    return has_content(reason, _EMPTY) or _has_content(message, text)


def _has_content(message: msgspec.Raw, text: msgspec.Raw) -> bool:
    """Whether the text, or any member of the message other than its role, has a content."""
    if _is_text(text) and has_content(text, _EMPTY):
        return True
    members = (decode(bytes(message), _OBJECT) or {}) if _is_object(message) else {}
    return any(name != "role" and has_content(value, _EMPTY) for name, value in members.items())


def _has_choices(members: _Members) -> bool:
    return bool(_objects(members.choices))


# --- OpenAI: responses ---


def _is_response(members: _Members) -> bool:
    return _is_any_response(members) and bytes(members.status) not in _UNFINISHED


def _is_any_response(members: _Members) -> bool:
    return _is_list(members.output) and (has_content(members.output) or is_given(members.status))


def _is_response_event(members: _Members) -> bool:
    return bytes(members.type).startswith(b'"response.')


# --- Anthropic ---


def _is_message(members: _Members) -> bool:
    says_end = has_content(members.stop_reason, _EMPTY)
    if bytes(members.content) == b"null":
        # Ollama 0.32 writes an empty answer so. It counts at least one token, the end; without a count it is a failure.
        return says_end and _has_output(members.usage)
    return _is_list(members.content) and (says_end or has_content(members.content))


def _has_output(usage: msgspec.Raw) -> bool:
    counts = (decode(bytes(usage), _OBJECT) if _is_object(usage) else None) or {}
    return has_content(counts.get("output_tokens", ABSENT), _EMPTY | {b"0"})


def _is_message_event(members: _Members) -> bool:
    return bytes(members.type).startswith((b'"message_', b'"content_block_'))


# --- Ollama ---


def _is_line(members: _Members) -> bool:
    """Whether it has a content, or its end and a place for a content."""
    has_place = _is_object(members.message) or _is_text(members.response) or is_given(members.done_reason)
    if bytes(members.done) == b"true" and has_place:
        return True
    others = (members.thinking, members.tool_calls, members.debug_info)
    return _has_content(members.message, members.response) or any(has_content(other, _EMPTY) for other in others)


def _begins_lines(members: _Members) -> bool:
    return is_given(members.done) or _is_line(members)


# --- vectors ---


def _has_vectors(members: _Members) -> bool:
    entries = _objects(members.data)
    in_entries = any(entry is not None and has_content(entry.get("embedding", ABSENT), _EMPTY) for entry in entries)
    return in_entries or has_content(members.embeddings, _EMPTY) or has_content(members.embedding, _EMPTY)


def _may_have_vectors(members: _Members) -> bool:
    return any(map(_is_list, (members.data, members.embeddings, members.embedding)))


# --- all protocols ---


def _objects(value: msgspec.Raw) -> list[_Object | None]:
    """The objects of a list; empty if it is something else."""
    return (decode(bytes(value), _OBJECTS) or []) if _is_list(value) else []


def _is_list(value: msgspec.Raw) -> bool:
    return bytes(value).startswith(b"[")


def _is_object(value: msgspec.Raw) -> bool:
    return bytes(value).startswith(b"{")


def _is_text(value: msgspec.Raw) -> bool:
    return bytes(value).startswith(b'"')


def _is_anything(_members: _Members) -> bool:
    return True


CHOICES: Final = AnswerForm(_has_choice, _has_choices, (b'"choices":[{',), (b'"message":{', b'"text":"'))
RESPONSE: Final = AnswerForm(
    lambda members: _is_response(members) or _has_choice(members),
    lambda members: _is_response_event(members) or _has_choices(members),
    (b'"type":"response.',),
    (b'"output":[',),
)
BACKGROUND_RESPONSE: Final = AnswerForm(_is_any_response, _is_response_event)
"""The answer to a request that allows the engine to answer later."""
MESSAGE: Final = AnswerForm(
    lambda members: _is_message(members) or _has_choice(members),
    lambda members: _is_message_event(members) or _has_choices(members),
    (b'"type":"message_start"',),
    (b'"content":[',),
)
"""Some servers answer at these paths in the form of chats."""
LINES: Final = AnswerForm(_is_line, _begins_lines, (b'"done":false}\n',), (b'"message":{', b'"response":"'))
VECTORS: Final = AnswerForm(_has_vectors, _has_vectors)
VECTORS_IF_ANY: Final = AnswerForm(_may_have_vectors, _may_have_vectors)
"""The answer to a request without any text."""
ANYTHING: Final = AnswerForm(_is_anything, _is_anything)


def vectors(has_input: bool) -> AnswerForm:
    """The form of the answer to a request for vectors."""
    return VECTORS if has_input else VECTORS_IF_ANY
