"""Serves the routes that pair nodes with the fleet and manage API keys.

Access control has already checked the right of each route. Every change is written to the log and to the audit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.agent_protocol.join import JoinRequest
from herd.coordinator.api.node_routes.administration import NodesApi
from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.audit import audit_entry, client_ip
from herd.coordinator.auth.membership import Membership, UnsignedNode
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.storage import audit_log
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.events import NodeLeft
from herd.core.state.fleet import NodeId, canonical
from herd.core.state.nodes.labels import parse_labels
from herd.errors import BadRequest, UnknownModel
from herd.trust import keys, pairing
from herd.trust.keys import ApiKey, Scope
from herd.trust.rights import Right

log = logging.getLogger("herd.access")

LIMIT_MAX = 1_000_000_000_000
MODELS_MAX = 64
DAYS_MAX = 36_500
DAY_S = 86400.0


class WantedKey(msgspec.Struct, kw_only=True):
    """A key to create. A limit of 0 means no limit; with `days` = 0 the key does not expire. With `names_users`
    the requests of this key may name their user."""

    name: str
    scopes: list[Scope] = msgspec.field(default_factory=lambda: [Scope.CHAT])
    models: list[str] = msgspec.field(default_factory=list)
    labels: list[str] = msgspec.field(default_factory=list)
    requests_per_minute: int = 0
    concurrent_max: int = 0
    tokens_per_month: int = 0
    days: float = 0.0
    names_users: bool = False


class NameParameter(msgspec.Struct):
    """The name of the node or key that a request acts on."""

    name: str


class AccessApi:
    def __init__(
        self,
        membership: Membership,
        driver: Driver,
        store: TraceStore,
        address: Callable[[], str],
        keys_changed: Callable[[], None],
        unix_s: Callable[[], float],
        nodes: NodesApi,
    ) -> None:
        """`address()` is where agents reach this coordinator; `keys_changed()` is called after a key was added or
        revoked; `unix_s()` is the time by which keys expire; `nodes` knows what is set for each node."""
        self._store = store
        self._membership = membership
        self._credentials = membership.credentials
        self._driver = driver
        self._address = address
        self._keys_changed = keys_changed
        self._unix_s = unix_s
        self._nodes = nodes

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/join", json_errors(self.join), "POST", Right.OPEN, JoinRequest),
            ApiRoute("/fleet/nodes", json_errors(self.nodes), "GET", Right.READ),
            ApiRoute("/fleet/nodes/invite", json_errors(self.invite), "POST", Right.ADMIN),
            ApiRoute("/fleet/nodes/approve", json_errors(self.approve), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/nodes/remove", json_errors(self.remove), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/keys", json_errors(self.keys), "GET", Right.ADMIN),
            ApiRoute("/fleet/keys", json_errors(self.add_key), "POST", Right.ADMIN, WantedKey),
            ApiRoute("/fleet/keys/revoke", json_errors(self.revoke_key), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/audit", json_errors(self.audit), "GET", Right.ADMIN, query=("limit",)),
        ]

    # --- nodes ---

    async def join(self, request: Request) -> Response:
        """Pairs a node: `{"name", "public", "proof"}`. 200: paired, 202: waits for approval, 401: wrong code."""
        join_request = await read_body(request, JoinRequest)
        answer = await asyncio.to_thread(self._membership.join, join_request, client_ip(request))
        return json_response(answer, 202 if answer.status == "pending" else 200)

    async def nodes(self, _: Request) -> Response:
        """Lists paired nodes, nodes waiting for approval, and what is set for each node and what it still does."""
        public = self._credentials.public
        self._membership.pending_nodes.drop_old(self._driver.now())
        paired = [
            {
                "node_id": node.node_id,
                "paired_at": node.paired_at,
                "how": node.how,
                "is_known": self._driver.fleet.node(NodeId(node.node_id)) is not None,
                "fingerprint": pairing.fingerprint(node.public, public),
            }
            for node in self._credentials.nodes.values()
        ]
        paired += [
            {
                "node_id": one.node_id,
                "paired_at": one.approved_at,
                "how": f"address {one.address}",
                "is_known": self._driver.fleet.node(NodeId(one.node_id)) is not None,
                "fingerprint": "",
            }
            for one in self._credentials.addresses.values()
        ]
        pending = [
            {"name": one.name, "ip": one.ip, "since": one.since, "fingerprint": pairing.fingerprint(one.public, public)}
            for one in self._membership.pending_nodes
        ]
        pending += [
            {"name": one.name, "ip": one.ip, "since": one.since, "fingerprint": ""}
            for one in self._membership.unsigned.values()
        ]
        return json_response(
            {
                "fleet_id": self._credentials.fleet_id,
                "is_open": self._membership.settings.open,
                "paired": paired,
                "pending": pending,
                "nodes": self._nodes.lines(),
            }
        )

    async def invite(self, request: Request) -> Response:
        """Creates a join code that is valid for ten minutes, and returns the command to run on the new machine."""
        invitation = self._membership.invite(self._address())
        self._audit(request, "invited a node")
        return json_response(
            {
                "code": invitation.text,
                "command": f"herd-node --join {invitation.text}",
                "ends_in_s": pairing.CODE_LIFE_S,
            }
        )

    async def approve(self, request: Request) -> Response:
        """Approves a pending node: `{"name": name or fingerprint}`. The node is paired within one heartbeat.

        An agent of ollama-herd, which cannot sign, is approved by its address: only this node, only from there.
        """
        name = (await read_body(request, NameParameter)).name
        pending = self._membership.pending_nodes.find(name, self._credentials.public)
        if not pending and (unsigned := self._membership.find_unsigned(name)):
            return await self._approve_address(request, unsigned)
        if not pending:
            raise UnknownModel(f"no pending node is named {name}; list them with: herd nodes", code="not_pending")
        if len(pending) > 1:
            prints = ", ".join(pairing.fingerprint(one.public, self._credentials.public) for one in pending)
            raise BadRequest(
                f"{len(pending)} pending nodes are named {name}; approve one of them by its fingerprint: {prints}",
                code="ambiguous",
            )
        self._membership.pending_nodes.approve(pending[0].public)
        self._audit(request, "approved a node", pending[0].name)
        return json_response(
            {
                "status": "approved",
                "name": pending[0].name,
                "fingerprint": pairing.fingerprint(pending[0].public, self._credentials.public),
            }
        )

    async def _approve_address(self, request: Request, found: list[UnsignedNode]) -> Response:
        """Approves an agent of ollama-herd: unsigned reports of this one node are accepted from its present address."""
        if len(found) > 1:
            addresses = ", ".join(one.ip for one in found)
            message = f"{len(found)} pending nodes are named {found[0].name}; approve one of them by its address"
            raise BadRequest(f"{message}: {addresses}", code="ambiguous")
        node_id = await asyncio.to_thread(self._membership.approve_address, found[0])
        self._audit(request, "approved an address", f"{node_id} ({found[0].ip})")
        answer = {"status": "approved", "name": node_id, "fingerprint": found[0].ip, "reported": found[0].name}
        return json_response(answer)

    async def remove(self, request: Request) -> Response:
        """Removes a node from the fleet: `{"name"}`. To return, it must be paired again.

        It receives no more requests.
        """
        name = NodeId((await read_body(request, NameParameter)).name)
        was_paired = await asyncio.to_thread(self._credentials.remove_node, name)
        was_paired |= await asyncio.to_thread(self._credentials.remove_addresses, name)
        self._membership.codes.revoke_all()
        pending = self._membership.pending_nodes.find(name, self._credentials.public)
        for applicant in pending:
            self._membership.pending_nodes.reject(applicant.public)
        if not was_paired and not pending and self._driver.fleet.node(name) is None:
            raise UnknownModel(f"no node is named {name}; list the nodes with: herd nodes", code="unknown_node")
        self._driver.feed(NodeLeft(self._driver.now(), name, ""))
        await self._nodes.forget(name)
        self._audit(request, "removed a node", name)
        return json_response({"status": "removed", "name": name})

    # --- keys ---

    async def keys(self, _: Request) -> Response:
        """Lists all API keys without their secrets."""
        return json_response({"keys": [key_view(key, self._unix_s()) for key in self._credentials.keyring]})

    async def add_key(self, request: Request) -> Response:
        """Creates an API key. Only this response contains its secret."""
        wanted = await read_body(request, WantedKey)
        now = self._unix_s()
        key_id, digest, text = keys.create_key(secrets.token_bytes(keys.ID_BYTES + keys.SECRET_BYTES))
        key = _with_limits(
            wanted,
            ApiKey(id=key_id, name=wanted.name, digest=digest, scopes=frozenset(wanted.scopes), created_at=now),
            now,
        )
        await asyncio.to_thread(self._credentials.put_key, key)
        self._keys_changed()
        self._audit(request, "created a key", f"{key.name} ({key.id})")
        return json_response({**key_view(key, now), "key": text}, 201)

    async def revoke_key(self, request: Request) -> Response:
        """Revokes every valid API key with this id or name: `{"name": id or name}`."""
        name = (await read_body(request, NameParameter)).name
        found = [key for key in self._credentials.keyring if name in (key.id, key.name) and not key.revoked_at]
        if not found:
            raise UnknownModel(f"no valid key is named {name}; list the keys with: herd keys list", code="unknown_key")
        for key in found:
            await asyncio.to_thread(self._credentials.put_key, dataclasses.replace(key, revoked_at=self._unix_s()))
        self._keys_changed()
        self._audit(request, "revoked a key", f"{found[0].name} ({found[0].id})")
        return json_response({"status": "revoked", "keys": [key.id for key in found]})

    async def audit(self, request: Request) -> Response:
        """Lists administrative changes, newest first: who, what, when, from which address. `limit` defaults to 100."""
        text = request.query_params.get("limit", "100")
        if not text.isdecimal():
            raise BadRequest(f"limit must be a number, not {text[:20]!r}")
        return json_response({"entries": await self._store.ask(audit_log.recent_entries, int(text[:9]))})

    def _audit(self, request: Request, action: str, target: str = "") -> None:
        """Writes the change to the log and to the audit: names and addresses, no secrets."""
        entry = audit_entry(request, action, target)
        log.info(action, extra={"ip": entry.ip, "about": target})
        self._store.audit(entry)


def key_view(key: ApiKey, at: float) -> dict[str, object]:
    """The key without the digest of its secret."""
    fields = {name: value for name, value in dataclasses.asdict(key).items() if name != "digest"}
    lists = {"scopes": sorted(scope.value for scope in key.scopes), "labels": sorted(key.labels)}
    return {**fields, **lists, "is_valid": key.is_valid(at)}


def _with_limits(wanted: WantedKey, key: ApiKey, now: float) -> ApiKey:
    """The key with the wanted limits. Raises `BadRequest` if one of them is out of range."""
    if not 0 < len(wanted.name) <= keys.NAME_MAX_CHARS or not wanted.name.isprintable():
        raise BadRequest(f"the name of a key must have 1 to {keys.NAME_MAX_CHARS} printable characters")
    if not wanted.scopes:
        raise BadRequest(f"a key needs at least one scope: {', '.join(scope.value for scope in Scope)}")
    limits = {
        "requests_per_minute": wanted.requests_per_minute,
        "concurrent_max": wanted.concurrent_max,
        "tokens_per_month": wanted.tokens_per_month,
    }
    problems = [
        f"{name} must be from 0 to {LIMIT_MAX}" for name, value in limits.items() if not 0 <= value <= LIMIT_MAX
    ]
    if not 0 <= wanted.days <= DAYS_MAX:
        problems.append(f"days must be from 0 to {DAYS_MAX}")
    if len(wanted.models) > MODELS_MAX:
        problems.append(f"models may have at most {MODELS_MAX} names")
    try:
        labels = parse_labels(wanted.labels)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    if problems:
        raise BadRequest(f"out of range: {'; '.join(problems)}")
    expires_at = now + wanted.days * DAY_S if wanted.days else 0.0
    models = tuple(name if "*" in name else canonical(name) for name in wanted.models)
    return dataclasses.replace(
        key,
        models=models,
        labels=labels,
        expires_at=expires_at,
        requests_per_minute=wanted.requests_per_minute,
        concurrent_max=wanted.concurrent_max,
        tokens_per_month=wanted.tokens_per_month,
        names_users=wanted.names_users,
    )
