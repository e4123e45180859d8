"""Repairs the tool calls in answers that are passed on in the engine's own format, in every API.

A chunk without a tool call costs a byte search. A call's fragments are held, in their own bytes, until the call is
complete, and text is passed on at once. If the call is right, its bytes follow unchanged; else the first fragment gets
the repaired arguments, and the others become empty. So the number and the order of a call's events never change.

Parallel calls of a chat with the same index, or none, get indices of their own, because clients join fragments by it;
so do calls that are not repaired, because they are too long or repair is off. Arguments that are an object where the
API has a text become one.

    API          a call begins with            is complete with
    OpenAI chat  delta.tool_calls              another call after valid JSON, finish_reason, [DONE]
    Anthropic    content_block_start tool_use  the event after content_block_stop
    Responses    function_call_arguments       output_item.done
    Ollama       message.tool_calls            the same line
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from herd.protocols.collector import is_complete
from herd.protocols.openai.call_fragments import ChatNumbers
from herd.protocols.tool_repair import repaired_arguments, repaired_object

_MARKERS: Final = (b'"tool_calls"', b'"tool_use"', b"function_call")
_CHAT_MARKER: Final = _MARKERS[0]
_CUT: Final = frozenset({"length", "max_tokens", "incomplete"})
HELD_MAX_BYTES: Final = 1 << 20
"""The arguments of a call with more bytes are passed on as they are."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOOLS: Final = msgspec.json.Decoder(list[Any])
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(slots=True)
class _Call:
    """A call that is not complete. `key` tells which fragments belong to it."""

    key: object
    name: str = ""
    arguments: str = ""
    repaired: str | None = None
    is_written: bool = False


@dataclass(slots=True)
class _Place:
    """Where an event has arguments, or a fragment of them."""

    holder: dict[str, Any]
    name: str
    call: _Call
    is_fragment: bool = True


@dataclass(slots=True)
class _Part:
    """A held event: its bytes, its JSON value, and the places of arguments in it."""

    block: bytes
    value: dict[str, Any]
    places: list[_Place]


class PassedToolCalls:
    """Repairs the calls of one answer. `request` is the body of the request, with the schemas of the tools.

    Without `is_repairing` only their indices are corrected.
    """

    __slots__ = (
        "_body",
        "_calls",
        "_held_bytes",
        "_is_closed",
        "_is_mixed",
        "_is_repairing",
        "_numbers",
        "_parts",
        "_rest",
        "_schemas",
        "count",
    )

    def __init__(self, request: bytes, is_repairing: bool = True) -> None:
        self._body = request
        self._schemas: dict[str, Any] | None = None
        self._parts: list[_Part] = []
        self._calls: list[_Call] = []
        self._held_bytes = 0
        self._is_closed = False
        self._is_mixed = False
        self._is_repairing = is_repairing
        self._numbers = ChatNumbers()
        self._rest = b""
        self.count = 0

    def document(self, body: bytes) -> bytes:
        """A complete answer that is not a stream; the same bytes if nothing has to be repaired."""
        is_repairable = self._is_repairing and any(marker in body for marker in _MARKERS)
        value = _object(body) if is_repairable else None
        before = self.count
        if value is not None:
            self._repair_whole(value)
        return msgspec.json.encode(value) if self.count > before else body

    def stream(self, lines: bytes) -> bytes:
        """Takes complete lines and returns what may be forwarded."""
        if not self._is_repairing:
            return self._renumbered(lines)
        is_busy = self._parts or self._rest or any(marker in lines for marker in _MARKERS)
        # The name of an event is on a line before its data, and must not go ahead of data that is held.
        if not is_busy and (b"event:" not in lines or lines.endswith((b"\n\n", b"\r\n\r\n"))):
            return lines
        return b"".join([self._event(block) for block in self._blocks(lines)])

    def end(self) -> bytes:
        """What was held when the stream ended."""
        rest, self._rest = self._rest, b""
        return self._release(is_cut=True) + rest

    def _renumbered(self, lines: bytes) -> bytes:
        """The lines with corrected indices. Nothing waits for the rest of an event: each chunk is on one line."""
        rest, self._rest = self._rest, b""
        lines = rest + lines
        if _CHAT_MARKER not in lines:
            return lines
        return b"".join([self._renumbered_line(line) for line in lines.splitlines(keepends=True)])

    def _renumbered_line(self, line: bytes) -> bytes:
        value = _object(_data(line)) if _CHAT_MARKER in line else None
        choices = _objects(value.get("choices")) if value is not None else []
        is_changed = [self._numbers.number(choice.get("index"), _fragments(choice)) for choice in choices]
        return _written(line, value) if value is not None and any(is_changed) else line

    # --- streams ---

    def _blocks(self, lines: bytes) -> Iterator[bytes]:
        """Events with the empty line at their end, and the lines of Ollama's format."""
        block = self._rest
        for line in lines.splitlines(keepends=True):
            block += line
            if not line.strip() or block.startswith(b"{"):
                yield block
                block = b""
        self._rest = block

    def _event(self, block: bytes) -> bytes:
        value = _object(_data(block))
        if value is None:
            return self._release() + block if b"[DONE]" in block else block
        if isinstance(value.get("choices"), list):
            return self._chat_chunk(block, value)
        kind = value.get("type")
        if isinstance(kind, str) and kind.startswith("response."):
            return self._response_event(block, value, kind)
        if isinstance(kind, str):
            return self._anthropic_event(block, value, kind)
        before = self.count
        self._repair_whole(value)
        return _written(block, value) if self.count > before else block

    def _chat_chunk(self, block: bytes, value: dict[str, Any]) -> bytes:
        out = b""
        places: list[_Place] = []
        reasons = []
        is_changed = False
        for choice in _objects(value.get("choices")):
            reasons.append(choice.get("finish_reason"))
            fragments = _fragments(choice)
            for sent in fragments:
                is_changed |= _as_text(sent.get("function"))
            is_changed |= bool(fragments) and self._numbers.number(choice.get("index"), fragments)
            for sent in fragments:
                function = sent.get("function")
                if not isinstance(function, dict):
                    continue
                key = (choice.get("index"), sent.get("index"))
                call = self._call_of(key)
                if call is None:
                    # Some engines mix the fragments of parallel calls, so an incomplete call may get the rest of it.
                    if not places and all(is_complete([held.arguments]) for held in self._calls):
                        out += self._release()
                    call = _Call(key)
                    self._calls.append(call)
                self._is_mixed = self._is_mixed or call is not self._calls[-1]
                call.name = call.name or _text(function.get("name"))
                call.arguments += _text(function.get("arguments"))
                places.append(_Place(function, "arguments", call))
        if is_changed:
            block = _written(block, value)
        is_end = any(reason is not None for reason in reasons)
        if places:
            out += self._hold(_Part(block, value, places))
            return out + self._release(any(reason in _CUT for reason in reasons)) if is_end else out
        if is_end and self._parts:
            out += self._release(any(reason in _CUT for reason in reasons))
        return out + block

    def _anthropic_event(self, block: bytes, value: dict[str, Any], kind: str) -> bytes:
        out = b""
        index, delta, started = value.get("index"), value.get("delta"), value.get("content_block")
        if self._is_closed and kind != "ping":
            out = self._release(isinstance(delta, dict) and delta.get("stop_reason") in _CUT)
        if kind == "content_block_start" and isinstance(started, dict) and started.get("type") == "tool_use":
            self._calls.append(_Call(index, name=_text(started.get("name"))))
            return out + self._hold(_Part(block, value, []))
        call = self._call_of(index)
        if call is None or kind not in ("content_block_delta", "content_block_stop"):
            return out + block
        if kind == "content_block_stop":
            self._is_closed = True
            return out + self._hold(_Part(block, value, []))
        if not isinstance(delta, dict) or not isinstance(delta.get("partial_json"), str):
            return out + block
        call.arguments += delta["partial_json"]
        return out + self._hold(_Part(block, value, [_Place(delta, "partial_json", call)]))

    def _response_event(self, block: bytes, value: dict[str, Any], kind: str) -> bytes:
        if kind.startswith("response.function_call_arguments."):
            key = value.get("item_id") or value.get("output_index")
            call = self._call_of(key)
            if call is None:
                call = _Call(key)
                self._calls.append(call)
            is_fragment = kind.endswith(".delta")
            if is_fragment:
                call.arguments += _text(value.get("delta"))
            name = "delta" if is_fragment else "arguments"
            return self._hold(_Part(block, value, [_Place(value, name, call, is_fragment)]))
        item = value.get("item")
        if kind == "response.output_item.done" and isinstance(item, dict) and self._parts:
            key = item.get("id") or value.get("output_index")
            call = self._call_of(key) or self._call_of(value.get("output_index"))
            if call is not None:
                call.name = _text(item.get("name"))
                held = self._hold(_Part(block, value, [_Place(item, "arguments", call, False)]))
                return held + self._release(item.get("status") in _CUT)
        response = value.get("response")
        if isinstance(response, dict) and self.count:
            before = self.count
            self._repair_whole(response)
            is_changed, self.count = self.count > before, before
            return _written(block, value) if is_changed else block
        return block

    def _call_of(self, key: object) -> _Call | None:
        """The open call with this key."""
        return next((call for call in reversed(self._calls) if call.key == key), None)

    def _hold(self, part: _Part) -> bytes:
        self._parts.append(part)
        self._held_bytes += len(part.block)
        if self._held_bytes <= HELD_MAX_BYTES:
            return b""
        self._is_repairing = False
        held = b"".join([part.block for part in self._parts])
        self._parts, self._calls = [], []
        return held

    def _release(self, is_cut: bool = False) -> bytes:
        """The held events: in their own bytes if no call has to be repaired, and a cut one never has."""
        parts, self._parts = self._parts, []
        calls, self._calls = self._calls, []
        self._held_bytes, self._is_closed = 0, False
        for number, call in enumerate(calls):
            if not is_cut or (number < len(calls) - 1 and not self._is_mixed):
                call.repaired = repaired_arguments(call.arguments, self._schema(call.name))
                self.count += call.repaired is not None
        self._is_mixed = False
        if all(call.repaired is None for call in calls):
            return b"".join([part.block for part in parts])
        return b"".join([_rewritten(part) for part in parts])

    # --- whole values ---

    def _repair_whole(self, value: dict[str, Any]) -> None:
        """Repairs the calls of a complete answer in any API, in place."""
        for choice in _objects(value.get("choices")):
            self._as_texts(choice.get("message"))
            if choice.get("finish_reason") not in _CUT:
                self._repair_calls(choice.get("message"))
        if value.get("done_reason") not in _CUT:
            self._repair_calls(value.get("message"))
        if value.get("stop_reason") not in _CUT:
            for block in _objects(value.get("content")):
                if block.get("type") == "tool_use":
                    self._repair_place(block, "input", block.get("name"))
        for item in _objects(value.get("output")):
            if item.get("type") != "function_call":
                continue
            self.count += _as_text(item)
            if item.get("status") not in _CUT:
                self._repair_place(item, "arguments", item.get("name"))

    def _as_texts(self, message: object) -> None:
        for call in _objects(message.get("tool_calls") if isinstance(message, dict) else None):
            self.count += _as_text(call.get("function"))

    def _repair_calls(self, message: object) -> None:
        for call in _objects(message.get("tool_calls") if isinstance(message, dict) else None):
            function = call.get("function")
            if isinstance(function, dict):
                self._repair_place(function, "arguments", function.get("name"))

    def _repair_place(self, holder: dict[str, Any], name: str, tool: object) -> None:
        sent, schema = holder.get(name), self._schema(_text(tool))
        new: object = sent
        if isinstance(sent, str):
            new = repaired_arguments(sent, schema) or sent
        elif isinstance(sent, dict):
            new = repaired_object(sent, schema)
        if new is not sent:
            holder[name] = new
            self.count += 1

    def _schema(self, tool: str) -> object:
        if self._schemas is None:
            self._schemas = schemas_of(self._body)
        return self._schemas.get(tool)


def _fragments(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The fragments of calls in one choice of a chunk."""
    delta = choice.get("delta")
    return _objects(delta.get("tool_calls") if isinstance(delta, dict) else None)


def schemas_of(request: bytes) -> dict[str, Any]:
    """The schema of each tool's parameters by its name, from a request of any API."""
    try:
        tools = _TOOLS.decode(_FIELDS.decode(request)["tools"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return {}
    found = {}
    for tool in _objects(tools):
        described = tool["function"] if isinstance(tool.get("function"), dict) else tool
        found[_text(described.get("name"))] = described.get("parameters") or described.get("input_schema")
    return found


def _rewritten(part: _Part) -> bytes:
    """The event with repaired arguments: the whole in the first fragment and in summaries, nothing in the others."""
    is_changed = False
    for place in part.places:
        repaired = place.call.repaired
        if repaired is None:
            continue
        is_changed = True
        place.holder[place.name] = "" if place.is_fragment and place.call.is_written else repaired
        place.call.is_written = place.call.is_written or place.is_fragment
    return _written(part.block, part.value) if is_changed else part.block


def _as_text(function: object) -> bool:
    """Makes arguments that are an object a JSON text, in place. Returns whether they were one."""
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return False
    function["arguments"] = msgspec.json.encode(function["arguments"]).decode()
    return True


def _written(block: bytes, value: dict[str, Any]) -> bytes:
    """The event with another value of its data."""
    data = _data(block)
    return block.replace(data, msgspec.json.encode(value), 1)


def _data(block: bytes) -> bytes:
    """The JSON text of an event or of a line; empty if it has none, or more than one line of data."""
    if block.startswith(b"{"):
        return block.strip()
    found = [line[5:].strip() for line in block.splitlines() if line.startswith(b"data:")]
    return found[0] if len(found) == 1 else b""


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        return _OBJECT.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
