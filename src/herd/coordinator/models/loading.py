"""Loads, pins and unloads models on engines, in tasks whose results are only logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.state.fleet import ModelInfo, ModelName, Node
from herd.engines import Engine, EngineRequest

log = logging.getLogger("herd.keeping")


class ModelLoader:
    """Its methods return at once. They do nothing if the node lacks the model, or its engine cannot load models on
    request."""

    def __init__(
        self, engine_client: EngineClient, engines: Mapping[str, Engine], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._engine_client = engine_client
        self._engines = engines
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def pin(self, node: Node, model: ModelName) -> None:
        """Loads a model that stays in memory."""
        engine, model_info = self._engine_of(node, model)
        if engine is not None and model_info is not None:
            self._start(node, model_info, engine.pin(model_info.name), "loading a pinned model")

    def load(self, node: Node, model: ModelName) -> None:
        """Loads a model that the engine may unload later."""
        engine, model_info = self._engine_of(node, model)
        if engine is not None and model_info is not None:
            self._start(node, model_info, engine.load(model_info.name), "loading a frequently used model")

    def unload(self, node: Node, model: ModelName) -> None:
        engine, model_info = self._engine_of(node, model)
        if engine is not None and model_info is not None:
            self._start(node, model_info, engine.unload(model_info.name), "unloading a model that is no longer pinned")

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _engine_of(self, node: Node, model: ModelName) -> tuple[Engine | None, ModelInfo | None]:
        model_info = node.model_info(model)
        return (self._engines.get(model_info.engine.kind) if model_info is not None else None), model_info

    def _start(self, node: Node, model_info: ModelInfo, call: EngineRequest | None, action: str) -> None:
        if call is not None:
            task = self._loop.create_task(self._send(node, model_info, call, action))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, node: Node, model_info: ModelInfo, call: EngineRequest, action: str) -> None:
        fields = {"node_id": node.id, "model": model_info.name}
        try:
            reply = await self._engine_client.send(model_info.engine.url, call)
        except EngineRequestFailed as error:
            log.warning("%s failed: %s", action, error, extra=fields)
            return
        if reply.status >= 400:
            log.warning("%s failed: the engine answered %d", action, reply.status, extra=fields)
        else:
            log.info("%s: done", action, extra=fields)
