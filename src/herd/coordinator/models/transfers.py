"""Brings models onto nodes: has the node's own engine pull, from another node of the fleet where one has it, else from the internet.

The order, and who wants what, is `core/planning/transfer_queue.py`'s; here it is done. An engine resumes by itself what broke off, so another source, or
another attempt, goes on where the last one ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from herd.coordinator.upstream.engine_client import EngineCallFailed, EngineClient
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import INTERNET, PullOptions, Transfer, TransferQueue, TransferState
from herd.core.state.fleet import EngineEndpoint, Fleet, ModelInfo, ModelName, Node, NodeId, canonical
from herd.engines import Call, Engine
from herd.errors import HerdError, Refusal, Unavailable
from herd.protocols.pull_progress import SUCCESS, PullProgress, pulled_name, read_progress, registry_pull_name

log = logging.getLogger("herd.fetching")

TOLD_EVERY_S = 0.2
"""Whoever follows a fetch is told of its bytes no more often."""
STILL_THERE_S = 15.0
"""Where nothing changes, the last is told again after so long, so that nobody takes it for hung."""
SEEN_WITHIN_S = 30.0
"""So long after it is whole a model may take to be in its node's heartbeat."""

ANYHOW = PullOptions()


@dataclass(frozen=True, slots=True)
class FetchSettings:
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
    """A refusal of the core, on its way to the border."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Transfers:
    """All fetches of this coordinator."""

    def __init__(
        self,
        settings: FetchSettings,
        fleet: Fleet,
        orders: EngineClient,
        engines: Mapping[str, Engine],
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._orders = orders
        self._engines = engines
        self._now = now
        self.book = TransferQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def want(
        self, name: str, by: str, node_id: NodeId | None = None, wish: PullOptions = ANYHOW, size_bytes: int = 0
    ) -> Transfer:
        """Begins to bring it, or joins whoever began. Raises `CannotTransfer`."""
        model = canonical(name)
        node = self._target(model, node_id, size_bytes)
        has_source = not wish.is_refresh and bool(self._sources(node.id, model, wish))
        refusal = None if has_source else transfer_queue.may_come_from(name, self._settings.allowed)
        if wish.lan_only and not has_source:
            refusal = Refusal(404, "no_source", f"no other node that is here now shares {name}; see: herd models")
        if refusal is not None:
            raise CannotTransfer(refusal)
        wanted = self.book.want(node, name, by, self._now(), wish)
        if isinstance(wanted, Refusal):
            raise CannotTransfer(wanted)
        self._start_next(node.id)
        return wanted

    def _sources(self, target: NodeId, model: ModelName, wish: PullOptions | Transfer) -> list[tuple[Node, ModelInfo]]:
        if wish.is_refresh or not (self._settings.lan_first or wish.lan_only):
            return []
        return transfer_queue.sources(self._fleet, target, model, wish.digest)

    def release(self, fetch: Transfer, by: str) -> None:
        """Stops it if nobody else wants it."""
        if self.book.release(fetch, by, self._now()):
            self._stop(fetch)

    def cancel(self, fetch: Transfer) -> None:
        """Stops it whoever wants it; what was read stays, so that it can be gone on with."""
        self.book.end(fetch, TransferState.CANCELLED, self._now(), "it was cancelled")
        self._stop(fetch)

    async def follow(self, fetch: Transfer, every_s: float = STILL_THERE_S) -> AsyncIterator[Transfer]:
        """The fetch, each time that it has changed or so long has passed, and a last time when it is over."""
        while not fetch.state.is_over:
            yield fetch
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await changed.wait()
                    await asyncio.sleep(TOLD_EVERY_S)
        yield fetch

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- one after the other ---

    def _target(self, model: ModelName, node_id: NodeId | None, size_bytes: int) -> Node:
        if node_id is None:
            known = next((one for one in self.book if one.model == model and not one.state.is_over), None)
            best = (
                self._fleet.node(known.node_id)
                if known is not None
                else transfer_queue.best_target(self._fleet, model, size_bytes)
            )
            if best is None:
                raise Unavailable("the node it was being fetched onto has left; ask again")
            if isinstance(best, Refusal):
                raise CannotTransfer(best)
            return best
        node = self._fleet.node(node_id)
        if node is None or not transfer_queue.can_fetch(node):
            raise CannotTransfer(
                Refusal(404, "no_such_node", f"{node_id} is not here, or fetches no models; see: herd status")
            )
        return node

    def _start_next(self, node_id: NodeId) -> None:
        fetch = self.book.next(node_id)
        if fetch is not None:
            task = asyncio.get_running_loop().create_task(self._run(fetch))
            self._tasks[fetch.id] = task
            task.add_done_callback(lambda _: self._ended(fetch))
        self._tell()

    def _stop(self, fetch: Transfer) -> None:
        task = self._tasks.get(fetch.id)
        if task is not None:
            task.cancel()
        self._tell()

    async def _spread(self, fetch: Transfer) -> None:
        """To the nodes that wait for this one's copy, as soon as a heartbeat has told what it has now."""
        card = await self.seen(fetch)
        if card is None:
            return
        for node_id in fetch.then:
            try:
                self.want(fetch.name, f"pull {fetch.id}", node_id, PullOptions(card.digest, lan_only=True))
            except HerdError as error:
                log.warning("a model is not spread: %s", error, extra={"node_id": node_id, "model": fetch.model})

    async def seen(self, fetch: Transfer) -> ModelInfo | None:
        """The model on its node, by a heartbeat later than the fetch's end; None where none comes for too long."""
        give_up_at = self._now() + SEEN_WITHIN_S
        node = self._fleet.node(fetch.node_id)
        heard_at = node.last_heartbeat_at if node is not None else 0.0
        while self._now() < give_up_at and node is not None:
            if node.last_heartbeat_at > heard_at and (card := node.card(fetch.model)) is not None:
                return card
            await asyncio.sleep(TOLD_EVERY_S)
            node = self._fleet.node(fetch.node_id)
        return None

    def _ended(self, fetch: Transfer) -> None:
        self._tasks.pop(fetch.id, None)
        self.book.end(fetch, TransferState.CANCELLED, self._now(), "it was stopped")
        self._start_next(fetch.node_id)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # --- one fetch ---

    async def _run(self, fetch: Transfer) -> None:
        about = {"node_id": fetch.node_id, "model": fetch.model}
        try:
            await self._bring(fetch)
        except EngineCallFailed as error:
            self.book.end(fetch, TransferState.FAILED, self._now(), str(error))
            log.warning("a model could not be fetched: %s", error, extra=about)
            return
        self.book.end(fetch, TransferState.DONE, self._now())
        log.info("a model was fetched", extra={**about, "source": fetch.source, "bytes": fetch.total_bytes})
        self._tell()
        if fetch.then:
            await self._spread(fetch)

    async def _bring(self, fetch: Transfer) -> None:
        """From one source after the other. Raises `EngineCallFailed` with the last one's trouble."""
        trouble = ""
        for node, card in self._sources(fetch.node_id, fetch.model, fetch):
            try:
                await self._copy_from(fetch, node, card)
            except EngineCallFailed as error:
                trouble = f"{node.id}: {error}"
                log.warning(
                    "a model could not be copied: %s", error, extra={"node_id": fetch.node_id, "source": node.id}
                )
            else:
                return
        if fetch.lan_only:
            raise EngineCallFailed(trouble or "no other node shares it any more")
        refusal = transfer_queue.may_come_from(fetch.name, self._settings.allowed)
        if refusal is not None:
            raise EngineCallFailed(trouble or refusal.message)
        fetch.source = INTERNET
        engine, endpoint = self._engine(fetch)
        await self._pull(fetch, endpoint, engine.pull(fetch.name))

    async def _copy_from(self, fetch: Transfer, node: Node, card: ModelInfo) -> None:
        """Under a name that tells where it is from; then it gets its own, and the other goes."""
        url = card.engine.library_url
        fetch.source, fetch.layers = node.id, {}
        full = transfer_queue.no_room(self._node(fetch), card.size_bytes)
        if full is not None:
            raise EngineCallFailed(full)
        engine, endpoint = self._engine(fetch)
        kept = pulled_name(url, card.digest)
        await self._pull(fetch, endpoint, engine.pull(registry_pull_name(url, card.digest), is_plain=True))
        await self._order(endpoint, engine.copy(kept, fetch.name))
        await self._order(endpoint, engine.remove(kept))

    async def _pull(self, fetch: Transfer, endpoint: EngineEndpoint, call: Call | None) -> None:
        if call is None:
            raise EngineCallFailed(f"an engine of kind {endpoint.kind} fetches nothing")
        is_whole = False
        async with aclosing(self._orders.lines(endpoint.url, call)) as lines:
            async for line in lines:
                told = read_progress(line)
                if told is not None:
                    self._note(fetch, told)
                    is_whole = told.status == SUCCESS
        if not is_whole:
            raise EngineCallFailed("it ended before the model was whole; ask again, and it goes on from there")

    def _note(self, fetch: Transfer, told: PullProgress) -> None:
        """Raises `EngineCallFailed` for an error in the stream, and where it turns out that the disk has no room."""
        if told.error:
            raise EngineCallFailed(told.error)
        fetch.status = told.status
        if told.digest:
            is_new = told.digest not in fetch.layers
            fetch.layers[told.digest] = (told.completed, told.total)
            if (
                is_new
                and fetch.source == INTERNET
                and (full := transfer_queue.no_room(self._node(fetch), fetch.total_bytes - fetch.completed_bytes))
            ):
                raise EngineCallFailed(full)
        self._tell()

    async def _order(self, endpoint: EngineEndpoint, call: Call | None) -> None:
        if call is None:
            raise EngineCallFailed(f"an engine of kind {endpoint.kind} cannot do that")
        reply = await self._orders.send(endpoint.url, call)
        if reply.status >= 400:
            raise EngineCallFailed(f"it answered {reply.status}: {reply.body[:500].decode('utf-8', 'replace')}")

    def _node(self, fetch: Transfer) -> Node:
        node = self._fleet.node(fetch.node_id)
        if node is None:
            raise EngineCallFailed("its node has left; ask again when it is back, and it goes on from there")
        return node

    def _engine(self, fetch: Transfer) -> tuple[Engine, EngineEndpoint]:
        for endpoint in self._node(fetch).report.engines:
            engine = self._engines.get(endpoint.kind)
            if engine is not None and endpoint.abilities.can_pull:
                return engine, endpoint
        raise EngineCallFailed("its node has no engine that fetches models")
