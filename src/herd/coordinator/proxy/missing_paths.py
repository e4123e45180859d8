"""Remembers paths that an engine turned out not to have, so that its requests are translated from then on."""

from __future__ import annotations

from herd.core.state.fleet import EngineEndpoint

RETRY_AFTER_S = 3600.0
"""After this time the path is tried again: an engine that reports no version may have been updated."""
PATHS_MAX = 256
"""Most paths that are remembered; the oldest is forgotten."""

STATUSES = (404, 405, 501)
"""How servers answer to a path that they do not have."""


class MissingPaths:
    """Keyed by the engine's address and version: an updated engine is asked again."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, str], float] = {}

    def add(self, engine: EngineEndpoint, path: str, now: float) -> None:
        if len(self._until) >= PATHS_MAX:
            del self._until[next(iter(self._until))]
        self._until[engine.url, engine.version, path] = now + RETRY_AFTER_S

    def has(self, engine: EngineEndpoint, path: str, now: float) -> bool:
        if not self._until:
            return False
        return self._until.get((engine.url, engine.version, path), 0.0) > now
