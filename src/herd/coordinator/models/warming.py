"""Loads a model on a node before requests are sent there, with one empty request whose answer is ignored."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from herd.coordinator.upstream.forwarded_headers import OWN_LINES
from herd.coordinator.upstream.pool import Pool
from herd.core.state.commands import LoadModel
from herd.core.state.request import FailureKind
from herd.engines import Engine
from herd.http1.contract import Header

log = logging.getLogger("herd.warming")


class ModelWarmer:
    def __init__(self, pool: Pool, engines: Mapping[str, Engine]) -> None:
        self._pool = pool
        self._engines = engines

    def __call__(self, command: LoadModel) -> None:
        """Returns at once. Does nothing for an engine that cannot load models on request."""
        engine = self._engines.get(command.model_info.engine.kind)
        call = engine.load(command.model_info.name) if engine is not None else None
        if call is None:
            return
        log.info("pre-warming a model", extra={"node_id": command.node_id, "model": command.model})
        self._pool.send(
            command.model_info.engine.url,
            call.method.encode(),
            call.path.encode(),
            OWN_LINES,
            call.body,
            _IgnoredAnswer(command),
        )


class _IgnoredAnswer:
    """Ignores the answer; a failure is logged and changes nothing else."""

    def __init__(self, command: LoadModel) -> None:
        self._command = command

    def on_head(self, status: int, _headers: list[Header]) -> None:
        if status >= 400:
            self._log_failure(f"the engine answered {status}")

    def on_body(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        pass

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._log_failure(detail or kind.value)

    def _log_failure(self, problem: str) -> None:
        log.warning(
            "pre-warming a model failed: %s",
            problem,
            extra={"node_id": self._command.node_id, "model": self._command.model},
        )
