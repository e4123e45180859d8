"""The routes by which models are brought, copied, removed, held in memory: in Ollama's words, and in the dashboard's. Decides nothing.

Everything that changes something needs the right MODELS (the gate sees to it) and leaves a line in the audit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from herd.coordinator.api.audit import audit_entry
from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.models.pinned_models import PinnedModel, PinnedModels
from herd.coordinator.models.transfers import CannotTransfer, Transfers
from herd.coordinator.storage import queries
from herd.coordinator.storage.writer import TraceStore
from herd.coordinator.upstream.engine_client import EngineCallFailed, EngineClient
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import PullOptions, Transfer, TransferState
from herd.core.state.fleet import Fleet, ModelInfo, ModelName, Node, NodeId, canonical
from herd.dashboard.live import Job
from herd.engines import Call, Engine
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols import request_fields
from herd.trust.rights import Right

PEOPLE = "people"
"""Who asked for a model and does not wait: it is fetched until it is there or cancelled."""


class WantedPull(msgspec.Struct):
    """What to bring: `model` (or `name`, the older word), onto `node_id` or the best node; `lan_only` never asks the internet."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False
    node_id: str = ""
    lan_only: bool = False


class WantedDelete(msgspec.Struct):
    """What to remove from a node's disk. `confirm` repeats the model's name; `node_id` may be `*` for every node."""

    model: str = ""
    name: str = ""
    node_id: str = ""
    confirm: str = ""


class WantedCopy(msgspec.Struct):
    """A second name for a model, on every node that has it or on one."""

    source: str = ""
    destination: str = ""
    node_id: str = ""


class ModelPlaceRequest(msgspec.Struct):
    """A model, and the nodes it is meant for; empty: where it makes sense."""

    model: str = ""
    node_id: str = ""
    node_ids: list[str] = msgspec.field(default_factory=list)


class ModelsApi:
    def __init__(
        self,
        fleet: Fleet,
        fetching: Transfers,
        pins: PinnedModels,
        orders: EngineClient,
        engines: Mapping[str, Engine],
        store: TraceStore,
    ) -> None:
        self._fleet = fleet
        self._fetching = fetching
        self._pins = pins
        self._orders = orders
        self._engines = engines
        self._store = store

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/api/pull", json_errors(self.pull), "POST", Right.MODELS, WantedPull),
            ApiRoute("/api/delete", json_errors(self.delete), "DELETE", Right.MODELS, WantedDelete),
            ApiRoute("/api/copy", json_errors(self.copy), "POST", Right.MODELS, WantedCopy),
            ApiRoute("/fleet/pulls", json_errors(self.pulls), "GET", Right.READ),
            ApiRoute("/fleet/pulls/{pull_id}", json_errors(self.cancel), "DELETE", Right.MODELS),
            ApiRoute("/fleet/sync", json_errors(self.sync), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/fleet/update", json_errors(self.update), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/fleet/load", json_errors(self.load), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/fleet/unload", json_errors(self.unload), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/fleet/pin", json_errors(self.pinned), "GET", Right.READ),
            ApiRoute("/fleet/pin", json_errors(self.pin), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/fleet/pin/{model:path}", json_errors(self.unpin), "DELETE", Right.MODELS),
            ApiRoute("/dashboard/api/model-management", json_errors(self.management), "GET", Right.READ),
            ApiRoute("/dashboard/api/pull", json_errors(self.start_pull), "POST", Right.MODELS, WantedPull),
            ApiRoute("/dashboard/api/delete", json_errors(self.delete), "POST", Right.MODELS, WantedDelete),
            ApiRoute("/dashboard/api/pinned-models", json_errors(self.pinned), "GET", Right.READ),
            ApiRoute("/dashboard/api/pinned-models", json_errors(self.pin), "POST", Right.MODELS, ModelPlaceRequest),
            ApiRoute("/dashboard/api/pinned-models/{model:path}", json_errors(self.unpin), "DELETE", Right.MODELS),
        ]

    # --- bringing ---

    async def pull(self, request: Request) -> Response:
        """As Ollama's: NDJSON until `success`, or one answer. A client that leaves stops it, unless others want it too."""
        wanted = await read_body(request, WantedPull)
        fetch = self._wanted(request, wanted)
        by = f"client {id(request)}"
        fetch.wanted_by.add(by)
        fetch.wanted_by.discard(PEOPLE)
        if wanted.stream:
            return StreamingResponse(self._lines(fetch, by), media_type="application/x-ndjson")
        async with aclosing(self._lines(fetch, by)) as lines:
            last = [line async for line in lines][-1]
        return Response(last, 200 if fetch.state is TransferState.DONE else 500, media_type="application/json")

    async def start_pull(self, request: Request) -> Response:
        """The same without waiting for it: 202 with the job."""
        fetch = self._wanted(request, await read_body(request, WantedPull))
        return json_response({"job_id": job_id(fetch), "node_id": fetch.node_id, "model": fetch.model}, 202)

    def _wanted(self, request: Request, wanted: WantedPull) -> Transfer:
        name = request_fields.model_name(wanted.model or wanted.name)
        fetch = self._fetching.want(
            name, PEOPLE, NodeId(wanted.node_id) if wanted.node_id else None, PullOptions(lan_only=wanted.lan_only)
        )
        self._noted(request, "pull", f"{name} onto {fetch.node_id}")
        return fetch

    async def _lines(self, fetch: Transfer, by: str) -> AsyncGenerator[bytes, None]:
        """What Ollama would say, and from where to where; then `success` or the error, once."""
        try:
            async for told_of in self._fetching.follow(fetch):
                yield line_of(told_of)
        finally:
            self._fetching.release(fetch, by)

    async def pulls(self, _: Request) -> Response:
        """Everything that is being fetched, waits for it, or was of late; newest first."""
        return json_response({"jobs": [job_of(fetch) for fetch in reversed(list(self._fetching.book))]})

    async def cancel(self, request: Request) -> Response:
        """Stops it for everybody. What was read stays on the node's disk, so that it can be gone on with."""
        text = request.path_params["pull_id"].removeprefix("pull-")
        fetch = self._fetching.book.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None
        if fetch is None or fetch.state.is_over:
            raise UnknownModel("no such pull is under way; see: herd pulls", code="not_found")
        self._fetching.cancel(fetch)
        self._noted(request, "cancel pull", f"{fetch.name} onto {fetch.node_id}")
        return json_response({"status": "cancelled", "job_id": job_id(fetch)})

    async def sync(self, request: Request) -> Response:
        """Copies a model over the local network to the nodes named, or to all that can fetch and have room; never from the internet."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        names = [*wanted.node_ids, *([wanted.node_id] if wanted.node_id else [])]
        targets = [NodeId(name) for name in names] or [
            node.id
            for node in self._fleet
            if node.id not in have
            and transfer_queue.can_fetch(node)
            and transfer_queue.no_room(node, max(card.size_bytes for card in have.values())) is None
        ]
        started = [
            self._fetching.want(wanted.model, PEOPLE, node_id, PullOptions(lan_only=True)) for node_id in targets
        ]
        self._noted(request, "sync", f"{model} to {', '.join(targets) or 'nobody'}")
        return json_response({"jobs": [job_of(fetch) for fetch in started]}, 202)

    async def update(self, request: Request) -> Response:
        """Asks the registry for the tag once, on one node, and copies what is new to the others that have it."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        first = NodeId(wanted.node_id) if wanted.node_id else next(iter(sorted(have)))
        fetch = self._fetching.want(wanted.model, PEOPLE, first, PullOptions(is_refresh=True))
        fetch.then = tuple(node_id for node_id in have if node_id != first)
        self._noted(request, "update", f"{model} on {first}, then on {len(have) - 1} more")
        return json_response({"jobs": [job_of(fetch)]}, 202)

    # --- removing, copying ---

    async def delete(self, request: Request) -> Response:
        """Removes a model from a node's disk, after its name was said twice. 400 with the exact words where something is missing."""
        wanted = await read_body(request, WantedDelete)
        name = request_fields.model_name(wanted.model or wanted.name)
        model = canonical(name)
        have = self._holders(model)
        targets = sorted(have) if wanted.node_id == "*" or (not wanted.node_id and len(have) == 1) else [wanted.node_id]
        if not wanted.node_id and len(have) > 1:
            told = f"{name} is on {', '.join(sorted(have))}; say which with node_id, or * for all of them: herd rm {name} --node NODE"
            raise BadRequest(told, code="node_required")
        if not set(targets) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {name}; it is on {', '.join(sorted(have))}")
        if canonical(wanted.confirm) != model:
            raise BadRequest(
                f'deleting needs "confirm": "{name}" too, or: herd rm {name}', code="confirmation_required"
            )
        for node_id in targets:
            await self._order(have[NodeId(node_id)], lambda engine, card: engine.remove(card.name))
            self._noted(request, "delete", f"{name} on {node_id}")
        return json_response({"status": "deleted", "model": model, "nodes": targets})

    async def copy(self, request: Request) -> Response:
        """A second name on every node that has the model, or on one."""
        wanted = await read_body(request, WantedCopy)
        source, to = canonical(request_fields.model_name(wanted.source)), request_fields.model_name(wanted.destination)
        have = self._holders(source)
        nodes = [NodeId(wanted.node_id)] if wanted.node_id else sorted(have)
        if not set(nodes) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {wanted.source}")
        for node_id in nodes:
            await self._order(have[node_id], lambda engine, card: engine.copy(card.name, to))
        self._noted(request, "copy", f"{source} as {to} on {', '.join(nodes)}")
        return Response(status_code=200)

    # --- memory ---

    async def load(self, request: Request) -> Response:
        """Has a model loaded on a node, or on the one that has it and the most room."""
        return await self._keep(request, "load", lambda engine, card: engine.load(card.name))

    async def unload(self, request: Request) -> Response:
        """Has it leave memory: on a node, or everywhere."""
        return await self._keep(request, "unload", lambda engine, card: engine.unload(card.name))

    async def _keep(self, request: Request, what: str, call: Callable[[Engine, ModelInfo], Call | None]) -> Response:
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        # What is being loaded this moment is in no heartbeat yet: everywhere means everywhere.
        nodes = (
            [NodeId(wanted.node_id)] if wanted.node_id else sorted(have) if what == "unload" else [self._roomiest(have)]
        )
        if not set(nodes) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {wanted.model}")
        await asyncio.gather(*(self._order(have[node_id], call) for node_id in nodes))
        self._noted(request, what, f"{model} on {', '.join(nodes) or 'no node'}")
        return json_response({"status": f"{what}ed", "model": model, "nodes": nodes})

    async def pin(self, request: Request) -> Response:
        """From now on the model stays in memory, on this node or on the best."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        if wanted.node_id and wanted.node_id not in have:
            raise UnknownModel(
                f"{wanted.node_id} does not have {wanted.model}; bring it with: herd pull {wanted.model} --node {wanted.node_id}"
            )
        try:
            self._pins.add(PinnedModel(model, wanted.node_id))
        except OverflowError as error:
            raise BadRequest(str(error), code="too_many_pins") from error
        self._noted(request, "pin", f"{model} {wanted.node_id}".strip())
        return json_response({"status": "pinned", "model": model, "node_id": wanted.node_id})

    async def unpin(self, request: Request) -> Response:
        """Lets it go again."""
        model = canonical(request_fields.model_name(request.path_params["model"]))
        if not self._pins.remove(model):
            raise UnknownModel(f"{model} is not pinned, or by FLEET_PINNED_MODELS; see: herd pin", code="not_found")
        self._noted(request, "unpin", model)
        return json_response({"status": "unpinned", "model": model})

    async def pinned(self, _: Request) -> Response:
        """What is pinned, and whether it is in memory."""
        missing = self._pins.missing()
        return json_response(
            {
                "pins": [
                    {"model": pin.model, "node_id": pin.node_id, "is_loaded": pin not in missing}
                    for pin in self._pins.pins
                ]
            }
        )

    # --- everything at a glance ---

    async def management(self, _: Request) -> Response:
        """Every node's disk and models, what is being fetched, what is pinned, and tags that have drifted apart."""
        used = await self._store.ask(queries.last_used)
        drift = {
            model: found
            for model in self._fleet.model_names
            if len(found := transfer_queue.drifted(self._fleet, model)) > 1
        }
        return json_response(
            {
                "nodes": [self._on_disk(node, used) for node in self._fleet],
                "jobs": [job_of(fetch) for fetch in self._fetching.book],
                "pinned": [pin.model for pin in self._pins.pins],
                "drift": drift,
            }
        )

    def _on_disk(self, node: Node, used: Mapping[tuple[str, str], float]) -> dict[str, object]:
        disk = node.report.disk
        return {
            "node_id": node.id,
            "disk_total_bytes": disk.total_bytes if disk else None,
            "disk_free_bytes": disk.available_bytes if disk else None,
            "can_fetch": transfer_queue.can_fetch(node),
            "shares": any(endpoint.library_url for endpoint in node.report.engines),
            "models": [
                {
                    "name": card.name,
                    "size_bytes": card.size_bytes,
                    "digest": card.digest,
                    "loaded": node.is_loaded(model),
                    "pinned": self._pins.is_pinned(node.id, model),
                    "last_used_at": used.get((node.id, model)),
                }
                for model, card in sorted(node.report.models.items())
            ],
        }

    # --- one order ---

    def _holders(self, model: ModelName) -> dict[NodeId, ModelInfo]:
        """Raises `UnknownModel` where nobody has it."""
        have = {node.id: node.report.models[model] for node in self._fleet.with_model(model)}
        if not have:
            raise UnknownModel(f"model '{model}' is on no node; bring it with: herd pull {model}")
        return have

    def _roomiest(self, have: Mapping[NodeId, ModelInfo]) -> NodeId:
        return max(have, key=lambda one: (node.room_bytes if (node := self._fleet.node(one)) is not None else 0, one))

    async def _order(self, card: ModelInfo, make: Callable[[Engine, ModelInfo], Call | None]) -> None:
        """Raises `CannotTransfer` with what the node said."""
        engine = self._engines.get(card.engine.kind)
        call = make(engine, card) if engine is not None else None
        if call is None:
            raise CannotTransfer(
                Refusal(501, "not_supported", f"an engine of kind {card.engine.kind} takes no such order")
            )
        try:
            reply = await self._orders.send(card.engine.url, call)
        except EngineCallFailed as error:
            raise CannotTransfer(Refusal(502, "node_failed", f"the node could not be asked: {error}")) from error
        if reply.status >= 400:
            said = reply.body[:300].decode("utf-8", "replace")
            raise CannotTransfer(Refusal(502, "node_refused", f"the node answered {reply.status}: {said}"))

    def _noted(self, request: Request, what: str, about: str) -> None:
        self._store.audit(audit_entry(request, what, about))


def job_id(fetch: Transfer) -> str:
    return f"pull-{fetch.id}"


def job_of(fetch: Transfer) -> Job:
    """A fetch as a job of the dashboard."""
    source = f" from {fetch.source}" if fetch.source else ""
    return Job(
        job_id=job_id(fetch),
        kind="pull",
        title=f"{fetch.name} to {fetch.node_id}{source}",
        node_id=fetch.node_id,
        state=fetch.state.value,
        done=fetch.completed_bytes,
        total=fetch.total_bytes,
        unit="bytes",
        started_at=fetch.asked_at,
        ended_at=fetch.ended_at,
        message=fetch.error or fetch.status,
        may_cancel=not fetch.state.is_over,
    )


def line_of(fetch: Transfer) -> bytes:
    """One line in Ollama's words."""
    line: dict[str, object] = {"node": fetch.node_id, "source": fetch.source}
    if fetch.state is TransferState.DONE:
        line["status"] = "success"
    elif fetch.state.is_over:
        line["error"] = fetch.error
    else:
        line["status"] = fetch.status or fetch.state.value
        if fetch.total_bytes:
            line |= {
                "digest": next(reversed(fetch.layers)),
                "total": fetch.total_bytes,
                "completed": fetch.completed_bytes,
            }
    return msgspec.json.encode(line) + b"\n"
