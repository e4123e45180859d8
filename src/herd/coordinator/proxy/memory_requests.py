"""Answers requests of Ollama's API that contain no prompt and only load a model or unload it.

For a client the fleet is one server: a model that is unloaded leaves the memory of every node. Loading places one copy;
on Ollama nodes it is an ordinary request, which the scheduler places.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from herd.coordinator.models.operations import ModelOperations, OperationFailed
from herd.core.state.fleet import Fleet, ModelInfo, ModelName, Node, NodeId
from herd.core.state.model_names import without_local
from herd.core.state.nodes.labels import lacking, listed
from herd.dialects import Dialect, HttpResponse, Timestamp
from herd.errors import HerdError, Refusal
from herd.http1.contract import Exchange
from herd.protocols.conversation import MemoryAction, ParsedRequest
from herd.protocols.ollama.model_names import ollama_name

log = logging.getLogger("herd.models")


@dataclass(frozen=True, slots=True)
class WantedNodes:
    """The node or machine that the client requires, or empty; and the labels that each node must have."""

    only_node: str
    labels: frozenset[str]

    def includes(self, node: Node | None) -> bool:
        if node is None:
            return False
        return node.answers_to(self.only_node) and not (self.labels and lacking(self.labels, node.report.all_labels))

    def __str__(self) -> str:
        return f"node {self.only_node}" if self.only_node else f"a node with {listed(self.labels)}"


class MemoryRequests:
    def __init__(
        self,
        operations: ModelOperations,
        fleet: Fleet,
        loop: asyncio.AbstractEventLoop,
        timestamp: Callable[[], Timestamp],
    ) -> None:
        self._operations = operations
        self._fleet = fleet
        self._loop = loop
        self._timestamp = timestamp
        self._tasks: set[asyncio.Task[None]] = set()

    def takes(self, parsed: ParsedRequest, model: ModelName) -> bool:
        """Whether this request is answered here. An unknown model is not loaded here: it may be downloaded first."""
        if parsed.memory_action is not MemoryAction.LOAD:
            return parsed.memory_action is not None
        return self._fleet.knows(model) and not any(
            node.report.models[model].engine.abilities.serves_ollama_api for node in self._fleet.with_model(model)
        )

    def serve(
        self, exchange: Exchange, dialect: Dialect, parsed: ParsedRequest, model: ModelName, wanted: WantedNodes
    ) -> None:
        """Starts a task that answers. It continues if the client disconnects, so that all nodes do the same."""
        task = self._loop.create_task(self._answer(exchange, dialect, parsed, model, wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _answer(
        self, exchange: Exchange, dialect: Dialect, parsed: ParsedRequest, model: ModelName, wanted: WantedNodes
    ) -> None:
        try:
            name = model if parsed.is_alias else parsed.model
            if not self._fleet.knows(model):
                ollama_name(without_local(name))
            have = self._operations.holders(name)
            if wanted.only_node or wanted.labels:
                have = {one: model_info for one, model_info in have.items() if wanted.includes(self._fleet.node(one))}
                if not have:
                    raise OperationFailed(Refusal(404, "model_not_found", f"model '{name}' not found on {wanted}"))
            await self._perform(parsed, name, have)
        except HerdError as error:
            response = dialect.error(error.refusal)
        else:
            response = dialect.memory_answer(parsed, self._timestamp())
        _send(exchange, response)

    async def _perform(self, parsed: ParsedRequest, name: str, have: dict[NodeId, ModelInfo]) -> None:
        if parsed.memory_action is MemoryAction.UNLOAD:
            nodes = await self._operations.unload_everywhere(name, have)
            log.info("a client has unloaded a model", extra={"model": name, "nodes": ", ".join(nodes)})
            return
        # The other engines load a model with its first request.
        node_id = self._operations.freest(have)
        if self._operations.can_load(have[node_id]):
            await self._operations.load(have[node_id])


def _send(exchange: Exchange, response: HttpResponse) -> None:
    exchange.respond(response.status, ((b"content-type", response.content_type.encode()),), response.body)
