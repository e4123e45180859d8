"""Serves the routes that download, copy, delete, load, unload and pin models, via the Ollama API and for the dashboard.

Every change needs the right MODELS, which access control checks, and is written to the audit.
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
from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import PullOptions, Transfer, TransferState
from herd.core.state.fleet import Fleet, ModelInfo, ModelName, Node, NodeId, canonical
from herd.dashboard.live import Job
from herd.dashboard.pages.models import ModelManagement, ModelOnDisk, NodeModels, PullStarted
from herd.engines import Engine, EngineRequest
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols import request_fields
from herd.trust.rights import Right

BACKGROUND = "people"
"""The requester of a transfer whose client does not wait: it runs until it ends or is cancelled."""


class WantedPull(msgspec.Struct):
    """A model to download: `model` (older clients: `name`), onto `node_id` or the best node. `lan_only`: never from the
    internet."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False
    node_id: str = ""
    lan_only: bool = False


class WantedDelete(msgspec.Struct):
    """A model to delete from a node's disk. `confirm` repeats the model's name; `node_id` may be `*` for every node."""

    model: str = ""
    name: str = ""
    node_id: str = ""
    confirm: str = ""


class WantedCopy(msgspec.Struct):
    """A second name for a model, on one node or on every node that has it."""

    source: str = ""
    destination: str = ""
    node_id: str = ""


class ModelPlaceRequest(msgspec.Struct):
    """A model and the nodes to act on; without nodes, the route chooses them."""

    model: str = ""
    node_id: str = ""
    node_ids: list[str] = msgspec.field(default_factory=list)


class ModelsApi:
    def __init__(
        self,
        fleet: Fleet,
        transfers: Transfers,
        pins: PinnedModels,
        engine_client: EngineClient,
        engines: Mapping[str, Engine],
        store: TraceStore,
    ) -> None:
        self._fleet = fleet
        self._transfers = transfers
        self._pins = pins
        self._engine_client = engine_client
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

    # --- downloading ---

    async def pull(self, request: Request) -> Response:
        """Downloads a model, like Ollama's /api/pull.

        When the client disconnects, the download stops, unless another client waits for it.
        """
        wanted = await read_body(request, WantedPull)
        transfer = self._start(request, wanted)
        requester = f"client {id(request)}"
        transfer.wanted_by.add(requester)
        transfer.wanted_by.discard(BACKGROUND)
        if wanted.stream:
            return StreamingResponse(self._lines(transfer, requester), media_type="application/x-ndjson")
        async with aclosing(self._lines(transfer, requester)) as lines:
            last = [line async for line in lines][-1]
        return Response(last, 200 if transfer.state is TransferState.DONE else 500, media_type="application/json")

    async def start_pull(self, request: Request) -> Response:
        """Starts a download in the background: 202 with the job."""
        transfer = self._start(request, await read_body(request, WantedPull))
        return json_response(PullStarted(job_id(transfer), transfer.node_id, transfer.model), 202)

    def _start(self, request: Request, wanted: WantedPull) -> Transfer:
        name = request_fields.model_name(wanted.model or wanted.name)
        transfer = self._transfers.add(
            name, BACKGROUND, NodeId(wanted.node_id) if wanted.node_id else None, PullOptions(lan_only=wanted.lan_only)
        )
        self._audit(request, "pull", f"{name} onto {transfer.node_id}")
        return transfer

    async def _lines(self, transfer: Transfer, requester: str) -> AsyncGenerator[bytes, None]:
        """Progress lines as Ollama sends them, with node and source; then `success` or the error."""
        try:
            async for state in self._transfers.follow(transfer):
                yield progress_line(state)
        finally:
            self._transfers.release(transfer, requester)

    async def pulls(self, _: Request) -> Response:
        """Lists running, queued and recent downloads, newest first."""
        return json_response({"jobs": [job_of(transfer) for transfer in reversed(list(self._transfers.table))]})

    async def cancel(self, request: Request) -> Response:
        """Cancels a download for all clients; a later pull resumes it.

        Downloaded bytes stay on the node's disk.
        """
        text = request.path_params["pull_id"].removeprefix("pull-")
        transfer = (
            self._transfers.table.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None
        )
        if transfer is None or transfer.state.is_over:
            raise UnknownModel(
                "no download with this ID is running; list the downloads with: herd pulls", code="not_found"
            )
        self._transfers.cancel(transfer)
        self._audit(request, "cancel pull", f"{transfer.name} onto {transfer.node_id}")
        return json_response({"status": "cancelled", "job_id": job_id(transfer)})

    async def sync(self, request: Request) -> Response:
        """Copies a model over the local network to the named nodes, or to all nodes with enough disk space."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        names = [*wanted.node_ids, *([wanted.node_id] if wanted.node_id else [])]
        targets = [NodeId(name) for name in names] or [
            node.id
            for node in self._fleet
            if node.id not in have
            and transfer_queue.can_download(node)
            and transfer_queue.disk_problem(node, max(model_info.size_bytes for model_info in have.values())) is None
        ]
        started = [
            self._transfers.add(wanted.model, BACKGROUND, node_id, PullOptions(lan_only=True)) for node_id in targets
        ]
        self._audit(request, "sync", f"{model} to {', '.join(targets) or 'no node'}")
        return json_response({"jobs": [job_of(transfer) for transfer in started]}, 202)

    async def update(self, request: Request) -> Response:
        """Updates a model on one node from the registry, and copies the changes to the other nodes that have it."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        first = NodeId(wanted.node_id) if wanted.node_id else next(iter(sorted(have)))
        transfer = self._transfers.add(wanted.model, BACKGROUND, first, PullOptions(is_refresh=True))
        transfer.copy_to_nodes = tuple(node_id for node_id in have if node_id != first)
        self._audit(request, "update", f"{model} on {first}, then on {len(have) - 1} more")
        return json_response({"jobs": [job_of(transfer)]}, 202)

    # --- deleting, copying ---

    async def delete(self, request: Request) -> Response:
        """Deletes a model from a node's disk. The body must repeat the name; a 400 says what is missing."""
        wanted = await read_body(request, WantedDelete)
        name = request_fields.model_name(wanted.model or wanted.name)
        model = canonical(name)
        have = self._holders(model)
        targets = sorted(have) if wanted.node_id == "*" or (not wanted.node_id and len(have) == 1) else [wanted.node_id]
        if not wanted.node_id and len(have) > 1:
            raise BadRequest(
                f"{name} is on {', '.join(sorted(have))}; choose a node with node_id, or use * for all: "
                f"herd rm {name} --node NODE",
                code="node_required",
            )
        if not set(targets) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {name}; it is on {', '.join(sorted(have))}")
        if canonical(wanted.confirm) != model:
            raise BadRequest(
                f'to confirm the deletion, add "confirm": "{name}" to the request, or run: herd rm {name}',
                code="confirmation_required",
            )
        for node_id in targets:
            await self._call(have[NodeId(node_id)], lambda engine, model_info: engine.remove(model_info.name))
            self._audit(request, "delete", f"{name} on {node_id}")
        return json_response({"status": "deleted", "model": model, "nodes": targets})

    async def copy(self, request: Request) -> Response:
        """Gives a model a second name, on one node or on every node that has it."""
        wanted = await read_body(request, WantedCopy)
        source, to = (
            canonical(request_fields.model_name(wanted.source)),
            request_fields.new_model_name(wanted.destination),
        )
        have = self._holders(source)
        nodes = [NodeId(wanted.node_id)] if wanted.node_id else sorted(have)
        if not set(nodes) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {wanted.source}")
        for node_id in nodes:
            await self._call(have[node_id], lambda engine, model_info: engine.copy(model_info.name, to))
        self._audit(request, "copy", f"{source} as {to} on {', '.join(nodes)}")
        return Response(status_code=200)

    # --- memory ---

    async def load(self, request: Request) -> Response:
        """Loads a model on the named node, or on the node with the most free memory that has it."""
        return await self._load_or_unload(request, "load", lambda engine, model_info: engine.load(model_info.name))

    async def unload(self, request: Request) -> Response:
        """Unloads a model on the named node, or on all nodes."""
        return await self._load_or_unload(request, "unload", lambda engine, model_info: engine.unload(model_info.name))

    async def _load_or_unload(
        self, request: Request, action: str, call: Callable[[Engine, ModelInfo], EngineRequest | None]
    ) -> Response:
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        # A model that is being loaded is in no heartbeat yet: unload it on every node that has it on disk.
        nodes = (
            [NodeId(wanted.node_id)] if wanted.node_id else sorted(have) if action == "unload" else [self._freest(have)]
        )
        if not set(nodes) <= set(have):
            raise UnknownModel(f"{wanted.node_id} does not have {wanted.model}")
        await asyncio.gather(*(self._call(have[node_id], call) for node_id in nodes))
        self._audit(request, action, f"{model} on {', '.join(nodes) or 'no node'}")
        return json_response({"status": f"{action}ed", "model": model, "nodes": nodes})

    async def pin(self, request: Request) -> Response:
        """Pins a model: it stays in memory on the named node, or on a node that herd chooses."""
        wanted = await read_body(request, ModelPlaceRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._holders(model)
        if wanted.node_id and wanted.node_id not in have:
            raise UnknownModel(
                f"{wanted.node_id} does not have {wanted.model}; download it with: "
                f"herd pull {wanted.model} --node {wanted.node_id}"
            )
        try:
            self._pins.add(PinnedModel(model, wanted.node_id))
        except OverflowError as error:
            raise BadRequest(str(error), code="too_many_pins") from error
        self._audit(request, "pin", f"{model} {wanted.node_id}".strip())
        return json_response({"status": "pinned", "model": model, "node_id": wanted.node_id})

    async def unpin(self, request: Request) -> Response:
        """Unpins a model."""
        model = canonical(request_fields.model_name(request.path_params["model"]))
        if not self._pins.remove(model):
            raise UnknownModel(
                f"{model} is not pinned, or it is pinned by FLEET_PINNED_MODELS; list the pins with: herd pin",
                code="not_found",
            )
        self._audit(request, "unpin", model)
        return json_response({"status": "unpinned", "model": model})

    async def pinned(self, _: Request) -> Response:
        """Lists pinned models, and whether each is in memory."""
        missing = self._pins.missing()
        return json_response(
            {
                "pins": [
                    {"model": pin.model, "node_id": pin.node_id, "is_loaded": pin not in missing}
                    for pin in self._pins.pins
                ]
            }
        )

    # --- overview ---

    async def management(self, _: Request) -> Response:
        """Returns disk and models of each node, downloads, pinned models, and tags that differ between nodes."""
        used = await self._store.ask(queries.last_used)
        drift: dict[str, dict[str, list[NodeId]]] = {
            model: found
            for model in self._fleet.model_names
            if len(found := transfer_queue.versions(self._fleet, model)) > 1
        }
        management = ModelManagement(
            nodes=tuple(self._node_models(node, used) for node in self._fleet),
            jobs=tuple(job_of(transfer) for transfer in self._transfers.table),
            pinned=tuple(pin.model for pin in self._pins.pins),
            drift=drift,
        )
        return json_response(management)

    def _node_models(self, node: Node, used: Mapping[tuple[str, str], float]) -> NodeModels:
        disk = node.report.disk
        models = (
            ModelOnDisk(
                name=model_info.name,
                size_bytes=model_info.size_bytes,
                digest=model_info.digest,
                loaded=node.is_loaded(model),
                pinned=self._pins.is_pinned(node.id, model),
                last_used_at=used.get((node.id, model)),
            )
            for model, model_info in sorted(node.report.models.items())
        )
        return NodeModels(
            node_id=node.id,
            disk_total_bytes=disk.total_bytes if disk else None,
            disk_free_bytes=disk.available_bytes if disk else None,
            can_fetch=transfer_queue.can_download(node),
            shares=any(endpoint.library_url for endpoint in node.report.engines),
            models=tuple(models),
        )

    # --- one engine call ---

    def _holders(self, model: ModelName) -> dict[NodeId, ModelInfo]:
        """The nodes that have the model. Raises `UnknownModel` if no node has it."""
        have = {node.id: node.report.models[model] for node in self._fleet.with_model(model)}
        if not have:
            raise UnknownModel(f"model '{model}' is not on any node; the models of each node: herd models")
        return have

    def _freest(self, have: Mapping[NodeId, ModelInfo]) -> NodeId:
        return max(
            have,
            key=lambda one: (node.free_model_memory_bytes if (node := self._fleet.node(one)) is not None else 0, one),
        )

    async def _call(self, model_info: ModelInfo, make: Callable[[Engine, ModelInfo], EngineRequest | None]) -> None:
        """Raises `CannotTransfer` with the engine's answer."""
        engine = self._engines.get(model_info.engine.kind)
        call = make(engine, model_info) if engine is not None else None
        if call is None:
            raise CannotTransfer(
                Refusal(501, "not_supported", f"the engine {model_info.engine.kind} does not support this operation")
            )
        try:
            reply = await self._engine_client.send(model_info.engine.url, call)
        except EngineRequestFailed as error:
            raise CannotTransfer(Refusal(502, "node_failed", f"the node cannot be reached: {error}")) from error
        if reply.status >= 400:
            text = reply.body[:300].decode("utf-8", "replace")
            raise CannotTransfer(Refusal(502, "node_refused", f"the node answered {reply.status}: {text}"))

    def _audit(self, request: Request, action: str, target: str) -> None:
        self._store.audit(audit_entry(request, action, target))


def job_id(transfer: Transfer) -> str:
    return f"pull-{transfer.id}"


def job_of(transfer: Transfer) -> Job:
    """The transfer as a job of the dashboard."""
    source = f" from {transfer.source}" if transfer.source else ""
    return Job(
        job_id=job_id(transfer),
        kind="pull",
        title=f"{transfer.name} to {transfer.node_id}{source}",
        node_id=transfer.node_id,
        state=transfer.state.value,
        done=transfer.completed_bytes,
        total=transfer.total_bytes,
        unit="bytes",
        started_at=transfer.requested_at,
        ended_at=transfer.ended_at,
        message=transfer.error or transfer.status,
        may_cancel=not transfer.state.is_over,
    )


def progress_line(transfer: Transfer) -> bytes:
    """One progress line in the format of Ollama's /api/pull."""
    line: dict[str, object] = {"node": transfer.node_id, "source": transfer.source}
    if transfer.state is TransferState.DONE:
        line["status"] = "success"
    elif transfer.state.is_over:
        line["error"] = transfer.error
    else:
        line["status"] = transfer.status or transfer.state.value
        if transfer.total_bytes:
            line |= {
                "digest": next(reversed(transfer.layers)),
                "total": transfer.total_bytes,
                "completed": transfer.completed_bytes,
            }
    return msgspec.json.encode(line) + b"\n"
