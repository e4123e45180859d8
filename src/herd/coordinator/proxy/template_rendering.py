"""Asks a node what its engine makes of a conversation, before the answer is asked for. Decides nothing with what it learns."""

from __future__ import annotations

from collections.abc import Callable

from herd.coordinator.http.contract import Header
from herd.core.state.request import FailureKind
from herd.engines import Engine, Reply

RENDERED_MAX_BYTES = 8 << 20
"""A longer text is given up: no window is that large."""


class TemplateRendering:
    """Hears the reply to `Engine.render_call`; `on_text` or `failed` is called once and last, unless the call is cancelled."""

    __slots__ = ("_body", "_engine", "_failed", "_on_text", "_status")

    def __init__(
        self, engine: Engine, on_text: Callable[[str], None], failed: Callable[[FailureKind, str], None]
    ) -> None:
        self._engine = engine
        self._on_text = on_text
        self._failed = failed
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, _headers: list[Header]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) <= RENDERED_MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        reply = Reply(self._status, bytes(self._body))
        text = self._engine.read_rendered(reply) if len(self._body) <= RENDERED_MAX_BYTES else None
        if text is not None:
            self._on_text(text)
        elif self._status >= 400 and self._engine.is_busy(self._status, reply.body):
            self._failed(FailureKind.BUSY, f"it answered {self._status}")
        else:
            self._failed(FailureKind.UNFIT, "it does not tell what its template makes of a conversation")

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._failed(kind, detail)
