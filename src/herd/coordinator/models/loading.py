"""Has engines take models into memory, for good or for a while, and let them go: one order each, whose answer is only logged. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from herd.coordinator.upstream.engine_client import EngineCallFailed, EngineClient
from herd.core.state.fleet import ModelInfo, ModelName, Node
from herd.engines import Call, Engine

log = logging.getLogger("herd.keeping")


class ModelLoader:
    def __init__(self, orders: EngineClient, engines: Mapping[str, Engine], loop: asyncio.AbstractEventLoop) -> None:
        self._orders = orders
        self._engines = engines
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, node: Node, model: ModelName, is_kept: bool) -> None:
        """Returns at once. An engine that loads nothing on its own account is left alone."""
        engine, card = self._of(node, model)
        if engine is not None and card is not None:
            self._send(
                node,
                card,
                engine.pin(card.name) if is_kept else engine.unload(card.name),
                "a model is kept in memory" if is_kept else "a model is let go",
            )

    def load(self, node: Node, model: ModelName) -> None:
        """The same, to stay as long as the engine likes."""
        engine, card = self._of(node, model)
        if engine is not None and card is not None:
            self._send(node, card, engine.load(card.name), "a model is loaded since it is used much")

    def _of(self, node: Node, model: ModelName) -> tuple[Engine | None, ModelInfo | None]:
        card = node.card(model)
        return (self._engines.get(card.engine.kind) if card is not None else None), card

    def _send(self, node: Node, card: ModelInfo, call: Call | None, what: str) -> None:
        if call is not None:
            task = self._loop.create_task(self._order(node, card, call, what))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _order(self, node: Node, card: ModelInfo, call: Call, what: str) -> None:
        about = {"node_id": node.id, "model": card.name}
        try:
            reply = await self._orders.send(card.engine.url, call)
        except EngineCallFailed as error:
            log.warning("%s: it could not be asked: %s", what, error, extra=about)
            return
        if reply.status >= 400:
            log.warning("%s: it answered %d", what, reply.status, extra=about)
        else:
            log.info(what, extra=about)
