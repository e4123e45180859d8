"""Serves the routes of Ollama's API that create models from files or other models, and push them to a registry.

Each request is forwarded to one node. The model is in all lists before the client gets the last line, `success`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from herd.coordinator.api.responses import json_errors
from herd.coordinator.auth.audit import audit_entry, client_ip
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.models.creation import ModelCreation
from herd.coordinator.models.operations import ModelOperations, OperationFailed
from herd.coordinator.storage.writer import TraceStore
from herd.coordinator.upstream.engine_client import EngineClient, EngineRefused, EngineRequestFailed
from herd.core.planning.transfer_queue import registry_refusal
from herd.core.state.fleet import Fleet, Node, canonical
from herd.errors import BadRequest, Refusal
from herd.http1.content_coding import content_coding
from herd.protocols import request_fields
from herd.protocols.ollama.model_names import ollama_name
from herd.protocols.pull_progress import SUCCESS, read_progress
from herd.trust.keys import ApiKey
from herd.trust.rights import Right

STREAMED_PREFIX = "/api/blobs/"
"""Bodies of requests below this path are passed on while they arrive."""
NDJSON = "application/x-ndjson"
Wanted = TypeVar("Wanted")
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class WantedModel(msgspec.Struct, rename={"source": "from"}):
    """A model to create, from another model (`from`) or from uploaded files. Other fields are the engine's."""

    model: str = ""
    name: str = ""
    source: str = ""
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    stream: bool | None = None


class WantedPush(msgspec.Struct):
    """A model to push to its registry."""

    model: str = ""
    name: str = ""
    stream: bool | None = None


class CreationApi:
    def __init__(
        self,
        creation: ModelCreation,
        operations: ModelOperations,
        engine_client: EngineClient,
        store: TraceStore,
        fleet: Fleet,
        registries: tuple[str, ...],
    ) -> None:
        self._creation = creation
        self._operations = operations
        self._engine_client = engine_client
        self._store = store
        self._fleet = fleet
        self._registries = registries

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/api/blobs/{digest}", json_errors(self.has_blob), "HEAD", Right.MODELS),
            ApiRoute("/api/blobs/{digest}", json_errors(self.upload_blob), "POST", Right.MODELS),
            ApiRoute("/api/create", json_errors(self.create), "POST", Right.MODELS, WantedModel),
            ApiRoute("/api/push", json_errors(self.push), "POST", Right.MODELS, WantedPush),
            ApiRoute("/api/me", json_errors(self.account), "POST", Right.LIST),
            ApiRoute("/api/signout", json_errors(self.account), "POST", Right.LIST),
        ]

    async def has_blob(self, request: Request) -> Response:
        """Whether the node that will create the model has this file: 200 or 404."""
        answer = await self._creation.find(_client(request), f"/api/blobs/{_digest(request)}")
        return Response(status_code=answer.status)

    async def upload_blob(self, request: Request) -> Response:
        """Passes a model file on to one node while it arrives. The node's engine verifies the digest."""
        digest = _digest(request)
        if content_coding(request.headers.raw):
            # The digest is that of the unpacked file, and its length is not in the headers.
            message = "model files are uploaded uncompressed: send the file as it is, without Content-Encoding"
            raise OperationFailed(Refusal(415, "unsupported_content_encoding", message))
        length = request.headers.get("content-length")
        node_id, answer = await self._creation.upload(
            _client(request), f"/api/blobs/{digest}", int(length) if length is not None else None, _pieces(request)
        )
        if answer.status < 300:
            self._audit(request, "upload", f"{digest} to {node_id}")
        return Response(answer.body, answer.status, media_type="application/json" if answer.body else None)

    async def create(self, request: Request) -> Response:
        """Creates a model on the node that has its base model or its files, like Ollama's /api/create."""
        body = await request.body()
        wanted = _decoded(body, WantedModel)
        name = ollama_name(request_fields.new_model_name(wanted.model or wanted.name))
        source = canonical(request_fields.model_name(wanted.source)) if wanted.source else None
        if source is not None and not self._fleet.knows(source):
            # The engine downloads a base model that it does not have. The path of a file is an invalid name.
            self._check_registry(ollama_name(request_fields.new_model_name(wanted.source)))
        digests = {*(wanted.files or {}).values(), *(wanted.adapters or {}).values()}
        if not all(_DIGEST.fullmatch(digest) for digest in digests):
            raise BadRequest("invalid digest format")
        node = await self._creation.place(_client(request), source, digests)
        self._audit(request, "create", f"{name} on {node.id}")
        return await self._forward(node, "/api/create", body, wanted.stream is not False, name)

    async def push(self, request: Request) -> Response:
        """Pushes a model from one node that has it to its registry, like Ollama's /api/push."""
        body = await request.body()
        wanted = _decoded(body, WantedPush)
        name = ollama_name(request_fields.model_name(wanted.model or wanted.name))
        have = self._operations.holders(name)
        self._check_registry(name)
        node = self._fleet.node(self._operations.freest(have))
        if node is None:
            raise OperationFailed(Refusal(503, "no_node", "the node has left the fleet; try again"))
        self._audit(request, "push", f"{name} from {node.id}")
        return await self._forward(node, "/api/push", body, wanted.stream is not False, "")

    async def account(self, _: Request) -> Response:
        """Refuses what `ollama push`, `signin` and `signout` ask: each node has its own account, not for clients."""
        message = (
            "a fleet has no account at ollama.com, each node has its own; run this command on the node that has the "
            "model (see: herd models); POST /api/push is forwarded to it"
        )
        raise OperationFailed(Refusal(501, "not_supported", message))

    def _check_registry(self, name: str) -> None:
        refusal = registry_refusal(name, self._registries)
        if refusal is not None:
            raise OperationFailed(refusal)

    # --- one request to one node ---

    async def _forward(self, node: Node, path: str, body: bytes, stream: bool, created: str) -> Response:
        """Forwards the answer of the node unchanged; `created`: the model that it has afterwards, or empty."""
        lines = self._lines(node, path, body, created)
        try:
            first = await anext(lines, b"")
        except EngineRefused as error:
            return Response(error.body, error.status, media_type="application/json")
        except EngineRequestFailed as error:
            raise OperationFailed(Refusal(502, "node_failed", f"{node.id}: {error}")) from error
        if not stream:
            async with aclosing(lines):
                async for last in lines:
                    first = last
            return Response(first, media_type="application/json")
        return StreamingResponse(_stream(node, first, lines), media_type=NDJSON)

    async def _lines(self, node: Node, path: str, body: bytes, created: str) -> AsyncGenerator[bytes, None]:
        endpoint, call = self._creation.endpoint_and_call(node, path, body)
        async with aclosing(self._engine_client.lines(endpoint.url, call)) as lines:
            async for line in lines:
                progress = read_progress(line)
                if created and progress is not None and progress.status == SUCCESS:
                    await self._operations.read(node.id, endpoint, created)
                yield line + b"\n"

    def _audit(self, request: Request, action: str, target: str) -> None:
        self._store.audit(audit_entry(request, action, target))


async def _stream(node: Node, first: bytes, lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The lines as they arrive. If the node fails, the last line is an error, as Ollama's own errors in a stream."""
    async with aclosing(lines):
        yield first
        try:
            async for line in lines:
                yield line
        except EngineRequestFailed as error:
            yield msgspec.json.encode({"error": f"{node.id}: {error}"}) + b"\n"


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        yield piece


def _digest(request: Request) -> str:
    digest: str = request.path_params["digest"]
    if not _DIGEST.fullmatch(digest):
        raise BadRequest("invalid digest format")
    return digest


def _client(request: Request) -> str:
    """The client whose files belong together."""
    key = request.scope.get("state", {}).get("key")
    return f"key {key.id}" if isinstance(key, ApiKey) else client_ip(request)


def _decoded(body: bytes, kind: type[Wanted]) -> Wanted:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the request body is invalid: {error}") from error
