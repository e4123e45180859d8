"""Records the answer to one Responses request while it is sent, and ends an interrupted one with `response.failed`.

It is between the relay and the client's exchange, so it works for passed-through and for translated answers. A
chunk of a stream costs one search: only the first event and the last one, which repeats the answer, remain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from herd.coordinator.proxy.response_store import ResponseStore, StoredResponse
from herd.errors import BadRequest, NotFound
from herd.http1.contract import ClientTransport, Exchange, Header, UpgradedProtocol
from herd.protocols.answer_ends import decode
from herd.protocols.conversation import ParsedRequest
from herd.protocols.openai import responses_history
from herd.protocols.streams import event

FIRST_EVENT_MAX_BYTES: Final = 1 << 20
"""A longer first event is not read: then an interrupted stream ends with a plain error event."""

_LAST_EVENT: Final = re.compile(rb"response\.(?:completed|incomplete|failed)")
_SEQUENCE: Final = re.compile(rb'"sequence_number":\s*(\d+)')
_FIRST_EVENTS: Final = ("response.created", "response.in_progress")
_STORED_EVENTS: Final = ("response.completed", "response.incomplete")


class _ErrorFrame(msgspec.Struct):
    message: str = ""


_ERROR_FRAME = msgspec.json.Decoder(_ErrorFrame)


class ResponseRecorder:
    """Prepares Responses requests: inserts earlier answers, and records the new one."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def attend(self, exchange: Exchange, owner: str) -> Exchange:
        """The exchange to use instead; its body contains the earlier items. Raises BadRequest or NotFound."""
        history = responses_history.read_history(exchange.body)
        if history is None:
            return exchange
        if history.conversation:
            raise BadRequest(
                "conversation: conversations are not kept here; use previous_response_id, or send the items in input"
            )
        previous = self._previous(owner, history.previous_response_id)
        sent = responses_history.input_items(history.input)
        if sent is None and previous is None:
            return exchange  # the engine, or a translation, refuses the input
        if sent is None:
            raise BadRequest("input must be a string or a list of items")
        items = self._resolved(owner, sent)
        recorded = RecordedExchange(exchange, self._store, owner, history.stream is True)
        if previous is not None:
            earlier = previous.history()
            recorded.body = responses_history.with_items(exchange.body, [*earlier, *items])
            recorded.earlier_items = len(earlier)
        elif items != sent:
            recorded.body = responses_history.with_items(exchange.body, items)
        recorded.previous = previous
        if self._store.settings.is_on and history.store is not False:
            recorded.items = tuple(items)
        return recorded

    def _previous(self, owner: str, wanted: str | None) -> StoredResponse | None:
        if not wanted:
            return None
        found = self._store.find(owner, wanted)
        if found is None:
            reason = self._store.why_missing(owner, wanted)
            raise NotFound(f"previous_response_id {wanted[:80]!r}: {reason}", code="previous_response_not_found")
        return found

    def _resolved(self, owner: str, items: Sequence[bytes]) -> list[bytes]:
        resolved, missing = responses_history.resolve_references(
            items, lambda wanted: self._store.find_item(owner, wanted)
        )
        if missing:
            raise NotFound(
                f"item_reference {missing[:80]!r}: no kept answer of this API key has this item", code="item_not_found"
            )
        return resolved


class RecordedExchange:
    """An `Exchange` (http1/contract.py) that records its answer."""

    def __init__(self, exchange: Exchange, store: ResponseStore, owner: str, streams: bool) -> None:
        self.body = exchange.body
        self.upload = exchange.upload
        self.method = exchange.method
        self.path = exchange.path
        self.query = exchange.query
        self.headers = exchange.headers
        self.client_ip = exchange.client_ip
        self.received_at = exchange.received_at
        self.admission = exchange.admission
        self.facts = exchange.facts
        self.previous: StoredResponse | None = None
        self.earlier_items = 0
        self.items: tuple[bytes, ...] | None = None
        """The input items to keep with the answer; None if it is not kept."""
        self._exchange = exchange
        self._store = store
        self._owner = owner
        self._streams = streams
        self._status = 0
        self._first = b""
        self._has_first = not streams
        self._last: list[bytes] = []
        self._last_bytes = 0
        self._recent = b""

    def describe(self, parsed: ParsedRequest) -> None:
        """Tells the writer of the answer what its object says about the store."""
        parsed.previous_response_id = self.previous.id if self.previous is not None else ""
        parsed.earlier_items = self.earlier_items
        parsed.is_stored = self.items is not None

    # --- the exchange ---

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        return self._exchange.on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_disconnect = callback

    @property
    def on_writable(self) -> Callable[[bool], None] | None:
        return self._exchange.on_writable

    @on_writable.setter
    def on_writable(self, callback: Callable[[bool], None] | None) -> None:
        self._exchange.on_writable = callback

    @property
    def is_encrypted(self) -> bool:
        return self._exchange.is_encrypted

    def header(self, name: bytes) -> bytes | None:
        return self._exchange.header(name)

    def add_headers(self, headers: Sequence[Header]) -> None:
        self._exchange.add_headers(headers)

    def correct_path(self, path: str) -> None:
        self._exchange.correct_path(path)

    def switch(self, headers: Sequence[Header], protocol: bytes, upgraded: UpgradedProtocol) -> ClientTransport:
        return self._exchange.switch(headers, protocol, upgraded)

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> None:
        self._status = status
        self._exchange.begin(status, headers, length)

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        self._status = status
        self._record(body)
        self._keep()
        self._exchange.respond(status, headers, body)

    def write(self, data: bytes) -> None:
        self._record(data)
        self._exchange.write(data)

    def end(self) -> None:
        """Keeps the answer before its end is sent: the client's next request may refer to it at once."""
        self._keep()
        self._exchange.end()

    def cut(self, last: bytes = b"") -> None:
        """A stream ends in order after `response.failed`, its last event, so that client libraries return it."""
        failed = self._failed(last) if self._streams and last else None
        if failed is None:
            self._exchange.cut(last)
            return
        self._exchange.write(failed)
        self._exchange.end()

    # --- recording ---

    def _record(self, data: bytes) -> None:
        if not self._has_first:
            self._first += data
            self._has_first = b"\n\n" in self._first or len(self._first) > FIRST_EVENT_MAX_BYTES
        self._recent = data
        if self.items is None and self._streams:
            return
        if self._streams and not self._last and _LAST_EVENT.search(data) is None:
            return
        self._last_bytes += len(data)
        if self._last_bytes <= self._store.settings.max_bytes:
            self._last.append(data)

    def _keep(self) -> None:
        if self.items is None or self._status not in (0, 200):
            return
        body = b"".join(self._last)
        if self._streams:
            kind, body = responses_history.event_response(body)
            if kind not in _STORED_EVENTS:
                return
        if responses_history.read_stored(body) is None:
            return
        previous_id = self.previous.id if self.previous is not None else None
        body = responses_history.with_fields(body, previous_response_id=previous_id, store=True)
        self._store.add(self._owner, body, self.items, self.previous)

    # --- an interrupted stream ---

    def _failed(self, last: bytes) -> bytes | None:
        """`response.failed` in place of the error event; None before the first event of the stream.

        The blank lines that end the interrupted event stay. An engine's own `response.failed` is not repeated.
        """
        frame = last.lstrip(b"\r\n")
        lead = last[: len(last) - len(frame)]
        kind, response = responses_history.event_response(self._first)
        if kind not in _FIRST_EVENTS:
            return None
        if responses_history.event_response(self._recent)[0] == "response.failed":
            return b""
        data = next((line[len(b"data:") :] for line in frame.split(b"\n") if line.startswith(b"data:")), b"")
        message = (decode(data.strip(), _ERROR_FRAME) or _ErrorFrame()).message
        numbers = _SEQUENCE.findall(self._recent) or _SEQUENCE.findall(self._first)
        failed = responses_history.with_fields(
            response, status="failed", error={"code": "server_error", "message": message}
        )
        body = {"type": "response.failed", "sequence_number": int(numbers[-1]) + 1 if numbers else 0}
        return lead + event(msgspec.json.encode(body | {"response": msgspec.Raw(failed)}), b"response.failed")
