"""Builds the output items of OpenAI's Responses API and the events that announce them while they grow.

An item is a reasoning text, a message or a call of a tool. It is added, gets deltas, and is done. Calls of several
tools may be open at once, because engines may send their fragments in any order.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from herd.protocols.conversation import ToolCall
from herd.protocols.openai.responses_tools import Tools, call_item, custom_input

Event = dict[str, Any]

ENCRYPTED_PREFIX: Final = "herd."
"""Marks reasoning of our own in `encrypted_content`. It is only encoded: the client has the text anyway."""

_PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {"custom": "ctc", "local_shell": "lsh", "shell": "sh", "apply_patch": "apc", "tool_search": "tsc"}
)
"""The beginning of an item's id, by the type of the called tool."""

_DONE_STATUSES: Final[Mapping[str, str]] = MappingProxyType({"apply_patch": "in_progress"})
"""The status of an incomplete call where the API has no such status."""


_TEXT: Final = "the text"
"""Marks the place of the text in a prepared event."""
_STRING: Final = msgspec.json.Decoder(str)
_ENDING: Final = b"%d}\n\n"
"""The end of an event that adds a text, with its number."""
_BLOCK: Final = 256
"""How many ends are prepared at once. 16 blocks are cached (200 KB), because most streams have no more events."""


@lru_cache(maxsize=16)
def _block_of_ends(block: int) -> tuple[bytes, ...]:
    return tuple([_ENDING % number for number in range(block * _BLOCK, (block + 1) * _BLOCK)])


def _numbered_ends(first: int, count: int) -> Sequence[bytes]:
    """The ends of the events with these numbers."""
    start = first % _BLOCK
    if start + count <= _BLOCK:
        return _block_of_ends(first // _BLOCK)[start : start + count]
    return [_ENDING % number for number in range(first, first + count)]


class OutputItem(Protocol):
    """One item of an answer's output, at a fixed position."""

    def close(self, status: str) -> list[Event]:
        """The events that end the item."""

    def to_json(self) -> Event:
        """The item as it is in the final output."""


class FixedItem:
    """An item that the client already has."""

    def __init__(self, body: Event) -> None:
        self._body = body

    def close(self, status: str) -> list[Event]:  # noqa: ARG002 - it is closed
        return []

    def to_json(self) -> Event:
        return self._body


class TextItem:
    """A reasoning text or a message."""

    def __init__(self, kind: str, index: int, request_id: str, is_encrypted: bool = False, item_id: str = "") -> None:
        """`item_id` is that of an item that another node has begun."""
        self.kind = kind
        self.logprobs: list[Any] = []
        prefix = "rs" if kind == "reasoning" else "msg"
        self._id = item_id or f"{prefix}_{request_id}_{index}"
        self._index = index
        self._is_encrypted = is_encrypted
        self._status = "in_progress"
        self._chunks: list[str] = []
        self._around: tuple[bytes, bytes] | None = None
        """What is around the text in a spliced event, once there was one."""
        self._spliced: list[bytes] = []
        """Texts after `_chunks`, as JSON."""
        self.spliced_chars = 0
        """The length of the spliced texts that were decoded."""
        member = "summary_index" if kind == "reasoning" else "content_index"
        self._position: Event = {"item_id": self._id, "output_index": index, member: 0}
        self._text_event = "response.reasoning_summary_text" if kind == "reasoning" else "response.output_text"
        self._part_event = "response.reasoning_summary_part" if kind == "reasoning" else "response.content_part"

    def open(self) -> list[Event]:
        added = {"type": "response.output_item.added", "output_index": self._index, "item": self._item([])}
        return [added, {"type": f"{self._part_event}.added", **self._position, "part": self._part("")}]

    def _around_text(self) -> tuple[bytes, bytes]:
        """What is before the text's JSON, and between it and the event's number, in an event that adds to a message."""
        kind = f"{self._text_event}.delta"
        body = {"type": kind, **self._position, "delta": _TEXT, "logprobs": [], "sequence_number": 0}
        before, _, after = msgspec.json.encode(body).rpartition(_TEXT.encode())
        return f"event: {kind}\ndata: ".encode() + before, after.removesuffix(b"0}")

    def splice(self, texts: Sequence[bytes], joined: bytes, first_number: int) -> bytes:
        """Adds texts, given as JSON without quotes, and returns their numbered events; `joined` is all of them."""
        self._spliced.append(joined)
        if self._around is None:
            self._around = self._around_text()
        before, after = self._around
        if len(texts) == 1:
            return b"%b%b%b%d}\n\n" % (before, joined, after, first_number)
        # The parts of the events are put into their places in one step each: that costs a third of a format per event.
        parts = [before, b"", after, b""] * len(texts)
        parts[1::4] = texts
        parts[3::4] = _numbered_ends(first_number, len(texts))
        return b"".join(parts)

    @property
    def _whole_text(self) -> str:
        self._decode_spliced()
        return "".join(self._chunks)

    def _decode_spliced(self) -> None:
        if self._spliced:
            text = _STRING.decode(b'"%b"' % b"".join(self._spliced))
            self._spliced.clear()
            self._chunks.append(text)
            self.spliced_chars += len(text)

    def add(self, text: str, logprobs: list[Any]) -> Event:
        self._decode_spliced()
        self._chunks.append(text)
        body = {"type": f"{self._text_event}.delta", **self._position, "delta": text}
        if self.kind != "message":
            return body
        self.logprobs += logprobs
        return body | {"logprobs": logprobs}

    def close(self, status: str) -> list[Event]:
        self._status = status
        text = self._whole_text
        done = {"type": f"{self._text_event}.done", **self._position, "text": text}
        if self.kind == "message":
            done["logprobs"] = self.logprobs
        return [
            done,
            {"type": f"{self._part_event}.done", **self._position, "part": self._part(text)},
            {"type": "response.output_item.done", "output_index": self._index, "item": self.to_json()},
        ]

    def to_json(self) -> Event:
        return self._item([self._part(self._whole_text)])

    def _item(self, parts: list[Event]) -> Event:
        body: Event = {"id": self._id, "type": self.kind}
        if self.kind == "message":
            return body | {"status": self._status, "role": "assistant", "content": parts}
        body["summary"] = parts
        if self._is_encrypted:
            body["encrypted_content"] = encrypted_reasoning(self._whole_text)
        return body

    def _part(self, text: str) -> Event:
        if self.kind == "reasoning":
            return {"type": "summary_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs if text else []}


class CallItem:
    """A call of a tool, which is announced once its name is known."""

    def __init__(self, call: ToolCall, request_id: str, tools: Tools) -> None:
        self.call = ToolCall(call.index)
        self.has_id = False
        self.is_open = False
        self._request_id = request_id
        self._tools = tools
        self._chunks: list[str] = []
        self._unsent: list[str] = []
        self._index = -1
        self._own_id = ""
        self._status = "in_progress"

    def resume(self, index: int, item: Event, arguments: str) -> None:
        """Continues a call that another node has begun: the item as it was added, and the arguments that were sent."""
        self._own_id, self.call.id, self.has_id = str(item.get("id", "")), str(item.get("call_id", "")), True
        self.call.name = str(item.get("name", ""))
        self._chunks = [arguments] if arguments else []
        self.open(index)

    def take(self, fragment: ToolCall) -> None:
        self.has_id = self.has_id or bool(fragment.id)
        self.call.id = self.call.id or fragment.id
        self.call.name = self.call.name or fragment.name
        if fragment.arguments:
            self._chunks.append(fragment.arguments)
            self._unsent.append(fragment.arguments)

    def belongs(self, fragment: ToolCall) -> bool:
        """Whether the fragment continues this call: another id begins another call."""
        return not (fragment.id and self.has_id and fragment.id != self.call.id)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are complete JSON, so that another call can only be a new item."""
        try:
            msgspec.json.decode("".join(self._chunks))
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return False
        return True

    def open(self, index: int) -> list[Event]:
        """The event that adds the item. Kinds without deltas are added when they are complete."""
        self.is_open = True
        self._index = index
        self._origin = self._tools.origin(self.call.name)
        self._prefix = _PREFIXES.get(self._origin.type, "fc")
        self.call.id = self.call.id or f"call_{self._request_id}_{self.call.index}"
        return [self._added()] if self._has_deltas else []

    def deltas(self) -> list[Event]:
        """The arguments that were not sent yet. Those of a custom tool are sent at the end: they are inside JSON."""
        if not self.is_open or self._origin.type != "function" or not self._unsent:
            return []
        text = "".join(self._unsent)
        self._unsent.clear()
        return [{"type": "response.function_call_arguments.delta", **self._position, "delta": text}]

    def close(self, status: str) -> list[Event]:
        if not self._chunks and status == "completed":
            self.take(ToolCall(self.call.index, arguments="{}"))
        events = self.deltas()
        self.call.arguments = "".join(self._chunks)
        if self._origin.type == "function":
            done = {"type": "response.function_call_arguments.done", **self._position, "name": self._origin.name}
            events.append(done | {"arguments": self.call.arguments})
        elif self._origin.type == "custom":
            text = custom_input(self.call)
            events.append({"type": "response.custom_tool_call_input.delta", **self._position, "delta": text})
            events.append({"type": "response.custom_tool_call_input.done", **self._position, "input": text})
        else:
            events.append(self._added())
        self._status = _DONE_STATUSES.get(self._origin.type, status) if status == "incomplete" else status
        events.append({"type": "response.output_item.done", "output_index": self._index, "item": self.to_json()})
        return events

    def to_json(self) -> Event:
        body = {"id": self._id} | call_item(self._origin, self.call)
        return body if self._origin.type == "custom" else body | {"status": self._status}

    @property
    def _has_deltas(self) -> bool:
        return self._origin.type in ("function", "custom")

    @property
    def _id(self) -> str:
        return self._own_id or f"{self._prefix}_{self._request_id}_{self._index}"

    @property
    def _position(self) -> Event:
        return {"item_id": self._id, "output_index": self._index}

    def _added(self) -> Event:
        return {"type": "response.output_item.added", "output_index": self._index, "item": self.to_json()}


def encrypted_reasoning(text: str) -> str:
    return ENCRYPTED_PREFIX + base64.b64encode(text.encode()).decode()


def decrypted_reasoning(encrypted: str) -> str:
    """The text, if the reasoning is our own; else empty."""
    if not encrypted.startswith(ENCRYPTED_PREFIX):
        return ""
    try:
        return base64.b64decode(encrypted.removeprefix(ENCRYPTED_PREFIX), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
