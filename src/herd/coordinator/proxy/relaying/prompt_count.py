"""Asks an engine that was stopped at the client's limit how many tokens the prompt has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from herd.coordinator.proxy.relaying.asking import AskedResponse
from herd.coordinator.proxy.visible_limit import VisibleLimit
from herd.coordinator.request_guard import RequestGuard, guarded
from herd.coordinator.upstream import forwarded_headers
from herd.coordinator.upstream.connection import UpstreamRequest
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import RequestId
from herd.engines import Engine, EngineResponse

COUNT_MAX_S: Final = 5.0
"""After this time the prompt's estimate is used. The client has the text of a stream already, and waits for its end."""


class PromptCount:
    """Calls `on_end` once, when the limit has the number or the engine did not tell it in time, unless cancelled."""

    __slots__ = ("_contain", "_on_end", "_pool", "_request_id")

    def __init__(
        self, request_id: RequestId, pool: Pool, contain: Callable[[RequestId, str], None], on_end: Callable[[], None]
    ) -> None:
        self._request_id = request_id
        self._pool = pool
        self._contain = contain
        self._on_end = on_end

    def send(self, limit: VisibleLimit | None, engine: Engine, url: str) -> UpstreamRequest | None:
        """None if there is nothing to ask: then `on_end` is not called."""
        if limit is None or limit.request is None or limit.counted_tokens is not None:
            return None
        request = engine.prompt_count_request(limit.request)
        if request is None:
            return None

        def take(response: EngineResponse) -> None:
            limit.counted_tokens = engine.read_prompt_count(response)
            self._on_end()

        guard = RequestGuard(self._request_id, AskedResponse(take, lambda *_: self._on_end()), self._contain)
        method, path = request.method.encode("ascii"), request.path.encode("ascii")
        sent = self._pool.send(url, method, path, forwarded_headers.OWN_LINES, request.body, guard)
        self._pool.call_later(COUNT_MAX_S, lambda: self._give_up(sent))
        return sent

    def _give_up(self, sent: UpstreamRequest) -> None:
        if sent.is_open:
            sent.cancel()
            guarded(self._request_id, "on_end", self._on_end, self._contain)
