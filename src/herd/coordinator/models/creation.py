"""Chooses the nodes for model files that clients upload, for models that they create from them, and for pushes.

A client uploads files one by one (HEAD and POST /api/blobs/DIGEST) and then creates a model from all of them. So all
files of one client go to one node: the node that has them already, or the best one. A HEAD is answered for that node.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from herd.coordinator.models.operations import OperationFailed
from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.coordinator.upstream.uploads import Uploader
from herd.core.planning import transfer_queue
from herd.core.state.fleet import EngineEndpoint, Fleet, ModelName, Node, NodeId
from herd.engines import Engine, EngineRequest, EngineResponse
from herd.errors import Refusal

CLIENTS_MAX = 1024
"""Clients whose upload node is remembered; the oldest is forgotten first."""
REMEMBERED_S = 3600.0
"""How long after its last file a client's next file goes to the same node."""
UPLOADS_MAX = 8
"""Uploads at the same time; further ones are refused."""


class ModelCreation:
    def __init__(
        self,
        fleet: Fleet,
        engine_client: EngineClient,
        engines: Mapping[str, Engine],
        uploader: Uploader,
        now: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._engine_client = engine_client
        self._engines = engines
        self._uploader = uploader
        self._now = now
        self._nodes: OrderedDict[str, tuple[NodeId, float]] = OrderedDict()
        self._uploads = 0

    # --- files ---

    async def find(self, client: str, path: str) -> EngineResponse:
        """The answer to HEAD: of the client's node, or of the first node that has the file."""
        node = self._node_of(client)
        nodes = [node] if node is not None else self._able()
        if not nodes:
            raise OperationFailed(NO_NODE)
        answers = await asyncio.gather(*(self._ask(one, "HEAD", path) for one in nodes))
        found = [(one, answer) for one, answer in zip(nodes, answers, strict=True) if answer.status == 200]
        if found:
            self._remember(client, found[0][0].id)
        return found[0][1] if found else max(answers, key=lambda answer: answer.status)

    async def upload(
        self, client: str, path: str, length: int | None, pieces: AsyncIterator[bytes]
    ) -> tuple[NodeId, EngineResponse]:
        """Passes a file on to the client's node. Raises `OperationFailed`, and what `pieces` raises."""
        node = self._node_of(client) or self._best(length or 0)
        problem = transfer_queue.disk_problem(node, length or 0)
        if problem is not None:
            raise OperationFailed(Refusal(507, "no_disk", problem))
        self._remember(client, node.id)
        endpoint, call = self._call(node, "POST", path)
        with self._counted():
            try:
                answer = await self._uploader.send(endpoint.url, call, length, pieces)
            except EngineRequestFailed as error:
                self._nodes.pop(client, None)
                message = f"{node.id}: {error}; send the file again, it goes to another node if this one is gone"
                raise OperationFailed(Refusal(502, "node_failed", message)) from error
        return node.id, answer

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._uploads >= UPLOADS_MAX:
            message = f"{self._uploads} files are being uploaded already; try again shortly"
            raise OperationFailed(Refusal(503, "too_many_uploads", message, retry_after_s=30.0))
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    # --- models ---

    async def place(self, client: str, source: ModelName | None, digests: Collection[str]) -> Node:
        """The node that creates a model from these files, and from the model `source` if there is one.

        Raises `OperationFailed` if no node has everything.
        """
        able = self._able()
        having = [node for node in able if source is not None and node.model_info(source) is not None]
        if digests:
            return await self._with_files(client, source, digests, able)
        if having:
            return max(having, key=lambda node: (node.free_model_memory_bytes, node.id))
        return self._best(0)

    async def _with_files(
        self, client: str, source: ModelName | None, digests: Collection[str], able: list[Node]
    ) -> Node:
        paths = [f"/api/blobs/{digest}" for digest in digests]
        answers = await asyncio.gather(*(self._ask(node, "HEAD", path) for node in able for path in paths))
        statuses = [answer.status for answer in answers]
        complete = [
            node
            for number, node in enumerate(able)
            if all(status == 200 for status in statuses[number * len(paths) : (number + 1) * len(paths)])
        ]
        fitting = [node for node in complete if source is None or node.model_info(source) is not None]
        preferred = self._node_of(client)
        if preferred in fitting or (preferred is not None and not complete):
            assert preferred is not None
            return preferred
        if fitting:
            return fitting[0]
        if complete and source is not None and self._fleet.knows(source):
            name = source.removesuffix(":latest")
            message = f"the uploaded files are on {complete[0].id}, which does not have {name}; copy it there with: "
            raise OperationFailed(Refusal(409, "files_elsewhere", f"{message}herd pull {name} --node {complete[0].id}"))
        return complete[0] if complete else self._best(0)

    def endpoint_and_call(self, node: Node, path: str, body: bytes) -> tuple[EngineEndpoint, EngineRequest]:
        return self._call(node, "POST", path, body)

    # --- nodes ---

    def _able(self) -> list[Node]:
        """Online nodes whose engine creates models, sorted."""
        return sorted((node for node in self._fleet if self._endpoint(node) is not None), key=lambda node: node.id)

    def _endpoint(self, node: Node) -> EngineEndpoint | None:
        if not transfer_queue.can_download(node):
            return None
        return next((one for one in node.report.engines if one.abilities.serves_ollama_api and not one.problem), None)

    def _best(self, size_bytes: int) -> Node:
        """The node with enough disk space that runs large models best. Raises `OperationFailed`."""
        able = self._able()
        if not able:
            raise OperationFailed(NO_NODE)
        fitting = [node for node in able if transfer_queue.disk_problem(node, size_bytes) is None]
        if not fitting:
            message = f"no node has enough disk space for {size_bytes / 1e9:.1f} GB"
            raise OperationFailed(Refusal(507, "no_disk", message))
        return max(fitting, key=lambda node: (not node.report.is_paused, node.report.memory_ceiling_bytes, node.id))

    def _node_of(self, client: str) -> Node | None:
        known = self._nodes.get(client)
        if known is None or self._now() - known[1] > REMEMBERED_S:
            return None
        node = self._fleet.node(known[0])
        return node if node is not None and self._endpoint(node) is not None else None

    def _remember(self, client: str, node_id: NodeId) -> None:
        self._nodes[client] = node_id, self._now()
        self._nodes.move_to_end(client)
        while len(self._nodes) > CLIENTS_MAX:
            self._nodes.popitem(last=False)

    def _call(self, node: Node, method: str, path: str, body: bytes = b"") -> tuple[EngineEndpoint, EngineRequest]:
        endpoint = self._endpoint(node)
        engine = self._engines.get(endpoint.kind) if endpoint is not None else None
        call = engine.management_request(method, path, body) if engine is not None else None
        if endpoint is None or call is None:
            raise OperationFailed(NO_NODE)
        return endpoint, call

    async def _ask(self, node: Node, method: str, path: str) -> EngineResponse:
        endpoint, call = self._call(node, method, path)
        try:
            return await self._engine_client.send(endpoint.url, call)
        except EngineRequestFailed:
            return EngineResponse(404, b"")


NO_NODE = Refusal(
    503, "no_node", "no online node has an Ollama, which creating a model needs; see: herd status", retry_after_s=30.0
)
