"""Reads the prompt text that an engine's chat template produces for a conversation from the engine's response."""

from __future__ import annotations

from collections.abc import Callable

from herd.core.state.request import FailureKind
from herd.engines import Engine, EngineResponse
from herd.http1.contract import Header

RENDERED_MAX_BYTES = 8 << 20
"""A longer text is a failure: no context window is that large."""


class TemplateRendering:
    """Receives the response to `Engine.render_request`. Calls `on_text` or `on_failure` once, unless cancelled."""

    __slots__ = ("_body", "_engine", "_on_failure", "_on_text", "_status")

    def __init__(
        self, engine: Engine, on_text: Callable[[str], None], on_failure: Callable[[FailureKind, str], None]
    ) -> None:
        self._engine = engine
        self._on_text = on_text
        self._on_failure = on_failure
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, _headers: list[Header]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) <= RENDERED_MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        response = EngineResponse(self._status, bytes(self._body))
        text = self._engine.read_rendered(response) if len(self._body) <= RENDERED_MAX_BYTES else None
        if text is not None:
            self._on_text(text)
        elif self._status >= 400 and self._engine.is_busy(self._status, response.body):
            self._on_failure(FailureKind.BUSY, f"the node answered {self._status}")
        else:
            self._on_failure(FailureKind.CANNOT_CONTINUE, "the engine did not return its rendered template")

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._on_failure(kind, detail)
