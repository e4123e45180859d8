"""Serves the routes that download, copy, delete, load, unload and pin models, via the Ollama API and for the dashboard.

Every change needs the right MODELS, which access control checks, and is written to the audit. For a client of Ollama's
API the fleet is one server: without a node, a deletion and a copy are for every node that has the model. There is no
question in that API, so the right and the audit protect a model; the CLI and the dashboard ask.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.audit import audit_entry
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.models.operations import ModelOperations, OperationFailed, partial_failure
from herd.coordinator.models.pinned_models import PinnedModel, PinnedModels
from herd.coordinator.models.pull_lines import PullLines
from herd.coordinator.models.transfers import Transfers
from herd.coordinator.storage import queries
from herd.coordinator.storage.writer import TraceStore
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import PullOptions, Transfer, TransferState
from herd.core.state.fleet import Fleet, ModelInfo, Node, NodeId, canonical
from herd.core.state.model_names import INVALID_MODEL_NAME, is_ollama_name, without_local
from herd.dashboard.live import Job
from herd.dashboard.pages.models import ModelManagement, ModelOnDisk, NodeModels, PullStarted
from herd.errors import BadRequest, HerdError, UnknownModel
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
    """A model to delete from disk. `confirm` repeats its name; `node_id` names one node, `*` every node that has it."""

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


class CannotFit(HerdError):
    """No node has memory for the model beside the other pinned models."""

    status = 409
    code = "pin_cannot_fit"


class PinRequest(msgspec.Struct):
    """A model that stays in memory. `force`: also if its node's memory is not enough for all pinned models."""

    model: str = ""
    node_id: str = ""
    force: bool = False


class ModelsApi:
    def __init__(
        self, fleet: Fleet, transfers: Transfers, pins: PinnedModels, operations: ModelOperations, store: TraceStore
    ) -> None:
        self._fleet = fleet
        self._transfers = transfers
        self._pins = pins
        self._operations = operations
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
            ApiRoute("/fleet/pin", json_errors(self.pin), "POST", Right.MODELS, PinRequest),
            ApiRoute("/fleet/pin/{model:path}", json_errors(self.unpin), "DELETE", Right.MODELS),
            ApiRoute("/dashboard/api/model-management", json_errors(self.management), "GET", Right.READ),
            ApiRoute("/dashboard/api/pull", json_errors(self.start_pull), "POST", Right.MODELS, WantedPull),
            ApiRoute("/dashboard/api/delete", json_errors(self.delete_confirmed), "POST", Right.MODELS, WantedDelete),
            ApiRoute("/dashboard/api/pinned-models", json_errors(self.pinned), "GET", Right.READ),
            ApiRoute("/dashboard/api/pinned-models", json_errors(self.pin), "POST", Right.MODELS, PinRequest),
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
        progress = PullLines(transfer)
        try:
            async for _ in self._transfers.follow(transfer):
                for line in progress.new():
                    yield line
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
        have = self._operations.holders(wanted.model)
        names = [*wanted.node_ids, *([wanted.node_id] if wanted.node_id else [])]
        targets = [NodeId(name) for name in names] or [
            node.id
            for node in self._fleet
            if node.id not in have
            and transfer_queue.can_download(node)
            and transfer_queue.disk_problem(node, max(one.size_bytes for one in have.values()), model) is None
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
        have = self._operations.holders(wanted.model)
        first = NodeId(wanted.node_id) if wanted.node_id else next(iter(sorted(have)))
        transfer = self._transfers.add(wanted.model, BACKGROUND, first, PullOptions(is_refresh=True))
        transfer.copy_to_nodes = tuple(node_id for node_id in have if node_id != first)
        self._audit(request, "update", f"{model} on {first}, then on {len(have) - 1} more")
        return json_response({"jobs": [job_of(transfer)]}, 202)

    # --- deleting, copying ---

    async def delete(self, request: Request) -> Response:
        """Deletes a model from every node that has it, or from the one in `node_id`. The answer is empty, as Ollama's.

        With `confirm`, the question of herd's own clients, it answers like /dashboard/api/delete.
        """
        wanted = await read_body(request, WantedDelete)
        if wanted.confirm:
            return await self._delete_confirmed(request, wanted)
        await self._delete(request, wanted)
        return Response(status_code=200)

    async def delete_confirmed(self, request: Request) -> Response:
        """Deletes a model from a node's disk. The body must repeat the name; a 400 says what is missing."""
        return await self._delete_confirmed(request, await read_body(request, WantedDelete))

    async def _delete_confirmed(self, request: Request, wanted: WantedDelete) -> Response:
        name = request_fields.model_name(wanted.model or wanted.name)
        have = self._operations.holders(name)
        if not wanted.node_id and len(have) > 1:
            raise BadRequest(
                f"{name} is on {', '.join(sorted(have))}; choose a node with node_id, or use * for all: "
                f"herd rm {name} --node NODE",
                code="node_required",
            )
        if canonical(wanted.confirm) != canonical(name):
            raise BadRequest(
                f'to confirm the deletion, add "confirm": "{name}" to the request, or run: herd rm {name}',
                code="confirmation_required",
            )
        nodes = await self._delete(request, wanted)
        return json_response({"status": "deleted", "model": canonical(name), "nodes": nodes})

    async def _delete(self, request: Request, wanted: WantedDelete) -> list[NodeId]:
        name = request_fields.model_name(wanted.model or wanted.name)
        self._check_name(without_local(name), "name")
        have = self._chosen(name, "" if wanted.node_id == "*" else wanted.node_id)
        failed = await self._operations.on_each(have, self._operations.remove)
        for node_id in sorted(set(have) - set(failed)):
            self._audit(request, "delete", f"{name} on {node_id}")
        if failed:
            raise OperationFailed(partial_failure(f"{name} was deleted", have, failed))
        return sorted(have)

    async def copy(self, request: Request) -> Response:
        """Gives a model a second name, on one node or on every node that has it."""
        wanted = await read_body(request, WantedCopy)
        source, to = request_fields.model_name(wanted.source), request_fields.model_name(wanted.destination)
        self._check_name(source, "source")
        self._check_name(to, "destination")
        to = request_fields.new_model_name(to)
        have = self._chosen(source, wanted.node_id)
        failed = await self._operations.on_each(
            have, lambda node_id, model_info: self._operations.copy(node_id, model_info, to)
        )
        if done := sorted(set(have) - set(failed)):
            self._audit(request, "copy", f"{source} as {to} on {', '.join(done)}")
        if failed:
            raise OperationFailed(partial_failure(f"{source} was copied", have, failed))
        return Response(status_code=200)

    # --- memory ---

    async def load(self, request: Request) -> Response:
        """Loads a model on the named node, or on the node with the most free memory that has it."""
        wanted = await read_body(request, ModelPlaceRequest)
        have = self._chosen(request_fields.model_name(wanted.model), wanted.node_id)
        node_id = self._operations.freest(have)
        await self._operations.load(have[node_id])
        return self._moved(request, "load", wanted.model, [node_id])

    async def unload(self, request: Request) -> Response:
        """Unloads a model on the named node, or on all nodes. An error says where it stays in memory, and why."""
        wanted = await read_body(request, ModelPlaceRequest)
        name = request_fields.model_name(wanted.model)
        nodes = await self._operations.unload_everywhere(name, self._chosen(name, wanted.node_id))
        return self._moved(request, "unload", name, nodes)

    def _moved(self, request: Request, action: str, name: str, nodes: list[NodeId]) -> Response:
        model = canonical(name)
        self._audit(request, action, f"{model} on {', '.join(nodes)}")
        return json_response({"status": f"{action}ed", "model": model, "nodes": nodes})

    async def pin(self, request: Request) -> Response:
        """Pins a model: it stays in memory on the named node, or on a node that herd chooses.

        409 if no node has memory for it beside the other pinned models; `force` pins it nevertheless.
        """
        wanted = await read_body(request, PinRequest)
        model = canonical(request_fields.model_name(wanted.model))
        have = self._operations.holders(wanted.model)
        if wanted.node_id and wanted.node_id not in have:
            raise UnknownModel(
                f"{wanted.node_id} does not have {wanted.model}; download it with: "
                f"herd pull {wanted.model} --node {wanted.node_id}"
            )
        pin = PinnedModel(model, wanted.node_id)
        if not wanted.force and (problem := self._pins.problem(pin)):
            raise CannotFit(problem)
        try:
            self._pins.add(pin)
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

    def _chosen(self, name: str, node_id: str) -> dict[NodeId, ModelInfo]:
        """The named node, or all nodes that have the model. Raises `UnknownModel` or `Unavailable`."""
        have = self._operations.holders(name)
        if node_id and node_id not in have:
            raise UnknownModel(f"{node_id} does not have {name}, or is offline; it is on {', '.join(sorted(have))}")
        return {NodeId(node_id): have[NodeId(node_id)]} if node_id else have

    def _check_name(self, name: str, field: str) -> None:
        """Raises BadRequest for a name that Ollama calls invalid and no node has, with Ollama's message."""
        if not is_ollama_name(name) and not self._fleet.knows(canonical(name)):
            raise BadRequest(f'{field} "{name}" is invalid', code=INVALID_MODEL_NAME)

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
