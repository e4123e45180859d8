"""Downloads models onto nodes: the node's engine pulls from another node that has the model, or from the internet.

`core/planning/transfer_queue.py` decides the order. An engine resumes an interrupted pull, also from another source.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import INTERNET, PullOptions, Transfer, TransferQueue, TransferState
from herd.core.state.fleet import EngineEndpoint, Fleet, ModelInfo, ModelName, Node, NodeId, canonical
from herd.engines import Engine, EngineRequest
from herd.errors import HerdError, Refusal
from herd.protocols.ollama.model_names import ollama_name
from herd.protocols.pull_progress import SUCCESS, PullProgress, pulled_name, read_progress, registry_pull_name
from herd.protocols.request_fields import new_model_name

log = logging.getLogger("herd.fetching")

PROGRESS_EVERY_S = 0.2
"""Shortest time between two progress reports of a transfer."""
REPEAT_PROGRESS_S = 15.0
"""Without a change the last progress report is repeated after this time, so that the client does not time out."""
REPORTED_WITHIN_S = 30.0
"""Time after a transfer in which a heartbeat of the node must report the model."""

DEFAULT_OPTIONS = PullOptions()

ModelReader: TypeAlias = "Callable[[NodeId, EngineEndpoint, str], Awaitable[ModelInfo | None]]"


@dataclass(frozen=True, slots=True)
class TransferSettings:
    registries: str = field(
        default="registry.ollama.ai,hf.co,huggingface.co",
        metadata={
            "env": "FLEET_PULL_REGISTRIES",
            "help": "Registry hosts from which models may be downloaded, separated by commas.",
        },
    )
    lan_first: bool = field(
        default=True,
        metadata={
            "env": "FLEET_LAN_COPY",
            "help": "Copy a model from another node, if one has it, before downloading it from the internet.",
        },
    )

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(name.strip().lower() for name in self.registries.split(",") if name.strip())


class CannotTransfer(HerdError):
    """A transfer was refused; the refusal has the status and the code."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Transfers:
    """All transfers of this coordinator, by id in `table`."""

    def __init__(
        self,
        settings: TransferSettings,
        fleet: Fleet,
        engine_client: EngineClient,
        engines: Mapping[str, Engine],
        now: Callable[[], float],
        read_model: ModelReader,
    ) -> None:
        """`read_model` reads a downloaded model from its engine into the state of the fleet."""
        self._settings = settings
        self._fleet = fleet
        self._engine_client = engine_client
        self._engines = engines
        self._now = now
        self._read_model = read_model
        self.table = TransferQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def add(
        self,
        name: str,
        requester: str,
        node_id: NodeId | None = None,
        options: PullOptions = DEFAULT_OPTIONS,
        size_bytes: int = 0,
    ) -> Transfer:
        """Starts or queues a transfer, or joins the one that exists. Raises `CannotTransfer`, and `BadRequest` for a
        name that no registry can have."""
        name = ollama_name(new_model_name(name))
        model = canonical(name)
        running_on = self._running_on(model) if node_id is None else node_id
        running = self.table.unfinished(running_on, model) if running_on is not None else None
        if running is not None:
            running.wanted_by.add(requester)
            return running
        have = transfer_queue.holders(self._fleet, model) if node_id is None and not options.lan_only else []
        if have:
            # As on one Ollama: a newer version in the registry is downloaded; the same version is a success at once.
            node_id, options = have[0], replace(options, is_refresh=True)
        node = self._target(model, node_id, size_bytes)
        self._check_source(name, node, options)
        transfer = self.table.add(node, name, requester, self._now(), options)
        if isinstance(transfer, Refusal):
            raise CannotTransfer(transfer)
        transfer.copy_to_nodes = tuple(have[1:])
        self._start_next(node.id)
        return transfer

    def _check_source(self, name: str, node: Node, options: PullOptions) -> None:
        """Raises `CannotTransfer` if no node may provide the model and no registry either."""
        has_source = not options.is_refresh and bool(self._sources(node.id, canonical(name), options))
        refusal = None if has_source else transfer_queue.registry_refusal(name, self._settings.allowed)
        if options.lan_only and not has_source:
            refusal = Refusal(
                404, "no_source", f"no other online node shares {name}; list the models with: herd models"
            )
        if refusal is not None:
            raise CannotTransfer(refusal)

    def _sources(
        self, target: NodeId, model: ModelName, options: PullOptions | Transfer
    ) -> list[tuple[Node, ModelInfo]]:
        if options.is_refresh or not (self._settings.lan_first or options.lan_only):
            return []
        return transfer_queue.sources(self._fleet, target, model, options.digest)

    def release(self, transfer: Transfer, requester: str) -> None:
        """Removes one requester, and stops the transfer if no other is left."""
        if self.table.release(transfer, requester, self._now()):
            self._stop(transfer)

    def cancel(self, transfer: Transfer) -> None:
        """Stops the transfer for all requesters. Downloaded bytes stay on the node, so that a later pull resumes."""
        self.table.end(transfer, TransferState.CANCELLED, self._now(), "cancelled")
        self._stop(transfer)

    async def follow(self, transfer: Transfer, every_s: float = REPEAT_PROGRESS_S) -> AsyncIterator[Transfer]:
        """Yields the transfer whenever it changes and every `every_s`, and once more when it has ended."""
        while not transfer.state.is_over:
            yield transfer
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await changed.wait()
                    await asyncio.sleep(PROGRESS_EVERY_S)
        yield transfer

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- the queue of each node ---

    def _target(self, model: ModelName, node_id: NodeId | None, size_bytes: int) -> Node:
        if node_id is None:
            best = transfer_queue.best_target(self._fleet, model, size_bytes)
            if isinstance(best, Refusal):
                raise CannotTransfer(best)
            return best
        node = self._fleet.node(node_id)
        if node is None or not transfer_queue.can_download(node):
            raise CannotTransfer(
                Refusal(
                    404, "no_such_node", f"{node_id} is offline, or its engine cannot download models; see: herd status"
                )
            )
        return node

    def _running_on(self, model: ModelName) -> NodeId | None:
        """The node of an unfinished download of this model, which others join."""
        return next((one.node_id for one in self.table if one.model == model and not one.state.is_over), None)

    def _start_next(self, node_id: NodeId) -> None:
        transfer = self.table.next(node_id)
        if transfer is not None:
            task = asyncio.get_running_loop().create_task(self._run(transfer))
            self._tasks[transfer.id] = task
            task.add_done_callback(lambda _: self._ended(transfer))
        self._notify()

    def _stop(self, transfer: Transfer) -> None:
        task = self._tasks.get(transfer.id)
        if task is not None:
            task.cancel()
        self._notify()

    async def _copy_to_other_nodes(self, transfer: Transfer) -> None:
        """Brings the nodes in `copy_to_nodes` to the downloaded version, as soon as its digest is known."""
        model_info = await self.wait_until_reported(transfer)
        if model_info is None:
            return
        for node_id in transfer.copy_to_nodes:
            node = self._fleet.node(node_id)
            other = node.model_info(transfer.model) if node is not None else None
            if other is not None and other.digest == model_info.digest:
                continue
            is_shared = bool(model_info.engine.library_url)
            options = PullOptions(model_info.digest, lan_only=True) if is_shared else PullOptions(is_refresh=True)
            try:
                self.add(transfer.name, f"pull {transfer.id}", node_id, options)
            except HerdError as error:
                log.warning(
                    "cannot copy a model to another node: %s",
                    error,
                    extra={"node_id": node_id, "model": transfer.model},
                )

    async def wait_until_reported(self, transfer: Transfer) -> ModelInfo | None:
        """The downloaded model, as read from the node or as a later heartbeat reports it; None if neither comes in
        time."""
        deadline = self._now() + REPORTED_WITHIN_S
        node = self._fleet.node(transfer.node_id)
        last_heartbeat_at = node.last_heartbeat_at if node is not None else 0.0
        while self._now() < deadline and node is not None:
            model_info = node.model_info(transfer.model)
            if model_info is not None and (transfer.is_known or node.last_heartbeat_at > last_heartbeat_at):
                return model_info
            await asyncio.sleep(PROGRESS_EVERY_S)
            node = self._fleet.node(transfer.node_id)
        return None

    def _ended(self, transfer: Transfer) -> None:
        self._tasks.pop(transfer.id, None)
        self.table.end(transfer, TransferState.CANCELLED, self._now(), "stopped")
        self._start_next(transfer.node_id)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # --- one transfer ---

    async def _run(self, transfer: Transfer) -> None:
        fields = {"node_id": transfer.node_id, "model": transfer.model}
        try:
            await self._download(transfer)
            _, endpoint = self._engine(transfer)
        except EngineRequestFailed as error:
            self.table.end(transfer, TransferState.FAILED, self._now(), str(error))
            log.warning("model download failed: %s", error, extra=fields)
            return
        transfer.is_known = await self._read_model(transfer.node_id, endpoint, transfer.name) is not None
        self.table.end(transfer, TransferState.DONE, self._now())
        log.info("model downloaded", extra={**fields, "source": transfer.source, "bytes": transfer.total_bytes})
        self._notify()
        if transfer.copy_to_nodes:
            await self._copy_to_other_nodes(transfer)

    async def _download(self, transfer: Transfer) -> None:
        """Tries one source after the other. Raises `EngineRequestFailed` with the problem of the last one."""
        problem = ""
        for node, model_info in self._sources(transfer.node_id, transfer.model, transfer):
            try:
                await self._copy_from(transfer, node, model_info)
            except EngineRequestFailed as error:
                problem = f"{node.id}: {error}"
                log.warning(
                    "model copy failed, trying the next source: %s",
                    error,
                    extra={"node_id": transfer.node_id, "source": node.id},
                )
            else:
                return
        if transfer.lan_only:
            raise EngineRequestFailed(problem or "no other node shares the model now")
        refusal = transfer_queue.registry_refusal(transfer.name, self._settings.allowed)
        if refusal is not None:
            raise EngineRequestFailed(problem or refusal.message)
        transfer.source = INTERNET
        engine, endpoint = self._engine(transfer)
        await self._pull(transfer, endpoint, engine.pull(transfer.name))

    async def _copy_from(self, transfer: Transfer, node: Node, model_info: ModelInfo) -> None:
        """Pulls under a name that contains the source's address, then renames the model."""
        url = model_info.engine.library_url
        transfer.source, transfer.layers = node.id, {}
        disk_error = transfer_queue.disk_problem(self._node(transfer), model_info.size_bytes, transfer.model)
        if disk_error is not None:
            raise EngineRequestFailed(disk_error)
        engine, endpoint = self._engine(transfer)
        pulled = pulled_name(url, model_info.digest)
        await self._pull(
            transfer, endpoint, engine.pull(registry_pull_name(url, model_info.digest), is_insecure_http=True)
        )
        await self._call(endpoint, engine.copy(pulled, transfer.name))
        await self._call(endpoint, engine.remove(pulled))

    async def _pull(self, transfer: Transfer, endpoint: EngineEndpoint, call: EngineRequest | None) -> None:
        if call is None:
            raise EngineRequestFailed(f"the engine {endpoint.kind} cannot download models")
        is_complete = False
        async with aclosing(self._engine_client.lines(endpoint.url, call)) as lines:
            async for line in lines:
                progress = read_progress(line)
                if progress is not None:
                    self._update(transfer, progress)
                    is_complete = progress.status == SUCCESS
        if not is_complete:
            raise EngineRequestFailed("the download ended early; pull again to resume it")

    def _update(self, transfer: Transfer, progress: PullProgress) -> None:
        """Raises `EngineRequestFailed` for an error in the stream, and if the disk is too small for a new layer."""
        if progress.error:
            raise EngineRequestFailed(progress.error)
        if progress.status != SUCCESS:
            transfer.note(progress.status, progress.digest)
        if progress.digest:
            is_new = progress.digest not in transfer.layers
            transfer.layers[progress.digest] = (progress.completed, progress.total)
            if (
                is_new
                and transfer.source == INTERNET
                and (
                    disk_error := transfer_queue.disk_problem(
                        self._node(transfer), transfer.total_bytes - transfer.completed_bytes, transfer.model
                    )
                )
            ):
                raise EngineRequestFailed(disk_error)
        self._notify()

    async def _call(self, endpoint: EngineEndpoint, call: EngineRequest | None) -> None:
        if call is None:
            raise EngineRequestFailed(f"the engine {endpoint.kind} cannot copy or remove models")
        reply = await self._engine_client.send(endpoint.url, call)
        if reply.status >= 400:
            raise EngineRequestFailed(
                f"the engine answered {reply.status}: {reply.body[:500].decode('utf-8', 'replace')}"
            )

    def _node(self, transfer: Transfer) -> Node:
        node = self._fleet.node(transfer.node_id)
        if node is None:
            raise EngineRequestFailed(
                "the node is no longer in the fleet; when it is online again, pull again to resume"
            )
        return node

    def _engine(self, transfer: Transfer) -> tuple[Engine, EngineEndpoint]:
        for endpoint in self._node(transfer).report.engines:
            engine = self._engines.get(endpoint.kind)
            if engine is not None and endpoint.abilities.can_pull:
                return engine, endpoint
        raise EngineRequestFailed("the node has no engine that downloads models")
