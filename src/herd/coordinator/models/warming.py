"""Has an engine load a model that nobody was sent to yet: one empty request, whose answer nobody reads. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from herd.coordinator.http.contract import Header
from herd.coordinator.upstream.forwarded_headers import OWN_LINES
from herd.coordinator.upstream.pool import Pool
from herd.core.state.commands import LoadModel
from herd.core.state.request import FailureKind
from herd.engines import Engine

log = logging.getLogger("herd.warming")


class ModelWarmer:
    def __init__(self, pool: Pool, engines: Mapping[str, Engine]) -> None:
        self._pool = pool
        self._engines = engines

    def __call__(self, command: LoadModel) -> None:
        """Returns at once. An engine that loads nothing on its own account is left alone."""
        engine = self._engines.get(command.card.engine.kind)
        call = engine.load(command.card.name) if engine is not None else None
        if call is None:
            return
        log.info("a model is loaded ahead", extra={"node_id": command.node_id, "model": command.model})
        self._pool.send(
            command.card.engine.url, call.method.encode(), call.path.encode(), OWN_LINES, call.body, _Ignored(command)
        )


class _Ignored:
    """Whatever is answered, requests go on as if nothing had been asked; a trouble is worth a line."""

    def __init__(self, command: LoadModel) -> None:
        self._command = command

    def on_head(self, status: int, _headers: list[Header]) -> None:
        if status >= 400:
            self._tell(f"it answered {status}")

    def on_body(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        pass

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._tell(detail or kind.value)

    def _tell(self, problem: str) -> None:
        log.warning(
            "a model could not be loaded ahead: %s",
            problem,
            extra={"node_id": self._command.node_id, "model": self._command.model},
        )
