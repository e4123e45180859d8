"""Changes the models of single nodes: deletes, copies, loads and unloads them, and updates the fleet's state at once.

A change is applied to the state of the fleet as soon as the node's engine has confirmed it, so that lists and routing
follow before the next heartbeat (`core/lifecycle/fleet_updates.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from herd.coordinator.driver import Driver
from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.state import refusals
from herd.core.state.events import ModelsChanged
from herd.core.state.fleet import EngineEndpoint, Liveness, ModelInfo, ModelName, NodeId, canonical
from herd.core.state.model_names import without_local
from herd.engines import Engine, EngineRequest
from herd.errors import HerdError, Refusal, Unavailable, UnknownModel
from herd.protocols.engine_errors import error_text

log = logging.getLogger("herd.models")


class OperationFailed(HerdError):
    """An engine refused an operation or could not be reached; the refusal has the status and the code."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class ModelOperations:
    def __init__(
        self,
        driver: Driver,
        engine_client: EngineClient,
        engines: Mapping[str, Engine],
        rfc3339: Callable[[], str],
        is_pinned: Callable[[NodeId, ModelName], bool],
    ) -> None:
        """`rfc3339()` is the present time; a pinned model stays in memory."""
        self._driver = driver
        self._fleet = driver.fleet
        self._engine_client = engine_client
        self._engines = engines
        self._rfc3339 = rfc3339
        self._is_pinned = is_pinned

    def holders(self, name: str) -> dict[NodeId, ModelInfo]:
        """The nodes that can be reached and have the model. Raises `UnknownModel` with similar names, or
        `Unavailable`."""
        model = canonical(name)
        if not self._fleet.knows(model):
            model = canonical(without_local(name))
        nodes = self._fleet.with_model(model)
        if not nodes:
            raise UnknownModel(refusals.unknown_name(name, self._fleet.model_names).message)
        have = {node.id: node.report.models[model] for node in nodes if node.liveness is not Liveness.OFFLINE}
        if not have:
            listed = ", ".join(sorted(node.id for node in nodes))
            raise Unavailable(f"{name} is only on {listed}, which cannot be reached now", retry_after_s=30.0)
        return have

    # --- changes, each on one node. All raise `OperationFailed`. ---

    async def remove(self, node_id: NodeId, model_info: ModelInfo) -> None:
        """Deletes the model from the node's disk. A model that is gone already is not an error."""
        engine = self._engine(model_info)
        await self._send(model_info, engine.remove(model_info.name), is_missing_allowed=True)
        self._apply(node_id, {canonical(model_info.name): None})

    async def copy(self, node_id: NodeId, model_info: ModelInfo, to: str) -> None:
        """Gives the model a second name."""
        await self._send(model_info, self._engine(model_info).copy(model_info.name, to))
        copied = replace(model_info, name=_tagged(to), modified_at=self._rfc3339(), loaded=None)
        self._apply(node_id, {canonical(to): copied})

    async def load(self, model_info: ModelInfo) -> None:
        """Loads the model. The next heartbeat has its size in memory."""
        await self._send(model_info, self._engine(model_info).load(model_info.name))

    async def unload(self, node_id: NodeId, model_info: ModelInfo) -> None:
        """Unloads the model, under all its names: an engine has one runner for each file."""
        await self._send(model_info, self._engine(model_info).unload(model_info.name))
        node = self._fleet.node(node_id)
        models = node.report.models if node is not None else {}
        self._apply(
            node_id,
            {
                name: replace(other, loaded=None)
                for name, other in models.items()
                if name == canonical(model_info.name) or (other.digest and _file(other) == _file(model_info))
            },
        )

    def can_load(self, model_info: ModelInfo) -> bool:
        engine = self._engines.get(model_info.engine.kind)
        return engine is not None and engine.load(model_info.name) is not None

    async def read(self, node_id: NodeId, endpoint: EngineEndpoint, name: str) -> ModelInfo | None:
        """Reads a new model from its engine and applies it to the state of the fleet.

        Returns None if the engine does not answer or does not list it; then the next heartbeat has it.
        """
        engine = self._engines.get(endpoint.kind)
        if engine is None:
            return None
        try:
            calls = engine.inventory_requests()
            responses = await asyncio.gather(*(self._engine_client.send(endpoint.url, call) for call in calls))
            listed = {canonical(found.name): found for found in engine.inventory(tuple(responses)).models}
            found = listed.get(canonical(name))
            details = engine.details_request(found.name) if found is not None else None
            if found is not None and details is not None:
                found = engine.with_details(found, await self._engine_client.send(endpoint.url, details))
        except EngineRequestFailed as error:
            log.info("a changed model could not be read: %s", error, extra={"node_id": node_id, "model": name})
            return None
        if found is not None:
            found = replace(found, engine=endpoint)
            self._apply(node_id, {canonical(name): found})
        return found

    def freest(self, have: Mapping[NodeId, ModelInfo]) -> NodeId:
        """The node with the most free memory for models; a paused one only if there is no other."""

        def rank(node_id: NodeId) -> tuple[bool, int, NodeId]:
            node = self._fleet.node(node_id)
            return (
                node is not None and not node.report.is_paused,
                node.free_model_memory_bytes if node is not None else 0,
                node_id,
            )

        return max(have, key=rank)

    # --- changes on several nodes ---

    async def on_each(
        self, have: Mapping[NodeId, ModelInfo], change: Callable[[NodeId, ModelInfo], Awaitable[None]]
    ) -> dict[NodeId, Refusal]:
        """Makes one change on each of these nodes at the same time. Returns where it failed, and why."""

        async def result(node_id: NodeId) -> Refusal | None:
            try:
                await change(node_id, have[node_id])
            except OperationFailed as error:
                return error.refusal
            return None

        refused = await asyncio.gather(*(result(node_id) for node_id in have))
        return {node_id: refusal for node_id, refusal in zip(have, refused, strict=True) if refusal is not None}

    async def unload_everywhere(self, name: str, have: Mapping[NodeId, ModelInfo]) -> list[NodeId]:
        """Unloads the model on these nodes and returns those that did. A node without it in memory counts as one.

        Raises `OperationFailed` if it stays in memory somewhere: the message says where and why.
        """
        kept = {
            node_id: refusal
            for node_id, model_info in have.items()
            if (refusal := self._unload_refusal(node_id, model_info)) is not None
        }
        # A model that is being loaded is in no heartbeat yet: every node that has it on disk is asked.
        asked = {
            node_id: model_info
            for node_id, model_info in have.items()
            if node_id not in kept and self._can_unload(model_info)
        }
        kept |= await self.on_each(asked, self.unload)
        if kept:
            raise OperationFailed(partial_failure(f"{name} was unloaded", asked, kept))
        return sorted(have)

    def _unload_refusal(self, node_id: NodeId, model_info: ModelInfo) -> Refusal | None:
        """Why the model stays in the memory of this node, if that is known in advance."""
        model = canonical(model_info.name)
        node = self._fleet.node(node_id)
        if self._is_pinned(node_id, model):
            return Refusal(409, "pinned", f"it is pinned; unpin it with: herd unpin {model_info.name}")
        if node is not None and node.is_loaded(model) and not self._can_unload(model_info):
            kind = model_info.engine.kind
            return Refusal(501, "not_supported", f"the engine {kind} cannot unload a model on request")
        return None

    def _can_unload(self, model_info: ModelInfo) -> bool:
        engine = self._engines.get(model_info.engine.kind)
        return engine is not None and engine.unload(model_info.name) is not None

    # --- one engine call ---

    def _apply(self, node_id: NodeId, changes: Mapping[ModelName, ModelInfo | None]) -> None:
        self._driver.feed(ModelsChanged(self._driver.now(), node_id, changes))

    def _engine(self, model_info: ModelInfo) -> Engine:
        engine = self._engines.get(model_info.engine.kind)
        if engine is None:
            raise _not_supported(model_info)
        return engine

    async def _send(self, model_info: ModelInfo, call: EngineRequest | None, is_missing_allowed: bool = False) -> None:
        if call is None:
            raise _not_supported(model_info)
        try:
            reply = await self._engine_client.send(model_info.engine.url, call)
        except EngineRequestFailed as error:
            raise OperationFailed(Refusal(502, "node_failed", f"the node cannot be reached: {error}")) from error
        if reply.status >= 400 and not (is_missing_allowed and reply.status == 404):
            raise OperationFailed(
                Refusal(502, "node_refused", f"the node answered {reply.status}: {error_text(reply.body)}")
            )


def partial_failure(done: str, asked: Collection[NodeId], failed: Mapping[NodeId, Refusal]) -> Refusal:
    """One refusal for an operation that failed on some of its nodes; `done` says what the others did."""
    succeeded = sorted(set(asked) - set(failed))
    reasons = "; ".join(f"{node_id}: {refusal.message}" for node_id, refusal in sorted(failed.items()))
    first = next(iter(failed.values()))
    start = f"{done} on {', '.join(succeeded)}, but not on" if succeeded else f"{done} on no node;"
    return Refusal(first.status, first.code, f"{start} {reasons}")


def _not_supported(model_info: ModelInfo) -> OperationFailed:
    kind = model_info.engine.kind
    return OperationFailed(Refusal(501, "not_supported", f"the engine {kind} does not support this operation"))


def _file(model_info: ModelInfo) -> tuple[str, str]:
    return model_info.engine.url, model_info.digest


def _tagged(name: str) -> str:
    """The name as the engine lists it: with its tag, and without Ollama's own registry and namespace."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return tagged[-len(canonical(name)) :]
