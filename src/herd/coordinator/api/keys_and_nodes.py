"""The routes by which machines join and by which their owner says who may come in: nodes and keys. Decides no right.

What changes anything needs the right ADMIN (the gate sees to it) and leaves a line in the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.agent_protocol.join import JoinRequest
from herd.coordinator.auth.membership import Membership
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.storage import audit_log
from herd.coordinator.storage.credential_store import CredentialStoreFull
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.events import NodeLeft
from herd.core.state.fleet import NodeId, canonical
from herd.errors import BadRequest, HerdError, UnknownModel
from herd.trust import keys, pairing
from herd.trust.keys import ApiKey, Scope
from herd.trust.rights import Right

log = logging.getLogger("herd.access")

BODY_MAX_BYTES = 64 * 1024
LIMIT_MAX = 1_000_000_000_000
MODELS_MAX = 64
DAY_S = 86400.0

Body = TypeVar("Body")


class WantedKey(msgspec.Struct):
    """A key to be made. Limits of 0 are none; `days` of 0 never end."""

    name: str
    scopes: list[Scope] = msgspec.field(default_factory=lambda: [Scope.CHAT])
    models: list[str] = msgspec.field(default_factory=list)
    requests_per_minute: int = 0
    concurrent_max: int = 0
    tokens_per_month: int = 0
    days: float = 0.0


class NameParameter(msgspec.Struct):
    """Whatever an order is about."""

    name: str


class AccessApi:
    def __init__(
        self,
        membership: Membership,
        driver: Driver,
        store: TraceStore,
        place: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        """`place`: where agents reach this coordinator; `changed` is called when keys did."""
        self._store = store
        self._membership = membership
        self._vault = membership.vault
        self._driver = driver
        self._place = place
        self._changed = changed

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/join", told(self.join), "POST", Right.OPEN, JoinRequest),
            ApiRoute("/fleet/nodes", told(self.nodes), "GET", Right.READ),
            ApiRoute("/fleet/nodes/invite", told(self.invite), "POST", Right.ADMIN),
            ApiRoute("/fleet/nodes/approve", told(self.approve), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/nodes/remove", told(self.remove), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/keys", told(self.keys), "GET", Right.ADMIN),
            ApiRoute("/fleet/keys", told(self.add_key), "POST", Right.ADMIN, WantedKey),
            ApiRoute("/fleet/keys/revoke", told(self.revoke_key), "POST", Right.ADMIN, NameParameter),
            ApiRoute("/fleet/audit", told(self.audit), "GET", Right.ADMIN, query=("limit",)),
        ]

    # --- nodes ---

    async def join(self, request: Request) -> Response:
        """A machine wants to take part: `{"name", "public", "proof"}`. 200 joined, 202 waits for approval, 401 wrong code."""
        said = await read(request, JoinRequest)
        ip = request.client.host if request.client else ""
        answer = await asyncio.to_thread(self._membership.join, said, ip)
        return as_json(answer, 202 if answer.status == "pending" else 200)

    async def nodes(self, _: Request) -> Response:
        """Who is paired and who waits for approval."""
        public = self._vault.public
        paired = [
            {
                "node_id": node.node_id,
                "paired_at": node.paired_at,
                "how": node.how,
                "is_known": self._driver.fleet.node(NodeId(node.node_id)) is not None,
                "fingerprint": pairing.fingerprint(node.public, public),
            }
            for node in self._vault.nodes.values()
        ]
        pending = [
            {"name": one.name, "ip": one.ip, "since": one.since, "fingerprint": pairing.fingerprint(one.public, public)}
            for one in self._membership.applicants
        ]
        return as_json(
            {
                "fleet_id": self._vault.fleet_id,
                "is_open": self._membership.settings.open,
                "paired": paired,
                "pending": pending,
            }
        )

    async def invite(self, request: Request) -> Response:
        """A code for ten minutes, and the line to paste."""
        invitation = self._membership.invite(self._place())
        self._noted(request, "invited a node")
        return as_json(
            {
                "code": invitation.text,
                "command": f"herd-node --join {invitation.text}",
                "ends_in_s": pairing.CODE_LIFE_S,
            }
        )

    async def approve(self, request: Request) -> Response:
        """`{"name": name or fingerprint}`: it is let in when it asks next, within a heartbeat."""
        wanted = (await read(request, NameParameter)).name
        found = self._membership.applicants.named(wanted, self._vault.public)
        if not found:
            raise UnknownModel(f"nobody by the name {wanted} waits; those who do: herd nodes", code="not_pending")
        if len(found) > 1:
            prints = ", ".join(pairing.fingerprint(one.public, self._vault.public) for one in found)
            raise BadRequest(
                f"{len(found)} machines ask by the name {wanted}; say which by its fingerprint: {prints}",
                code="ambiguous",
            )
        self._membership.applicants.approve(found[0].public)
        self._noted(request, "approved a node", found[0].name)
        return as_json(
            {
                "status": "approved",
                "name": found[0].name,
                "fingerprint": pairing.fingerprint(found[0].public, self._vault.public),
            }
        )

    async def remove(self, request: Request) -> Response:
        """`{"name"}`: it is a stranger from now on, and nothing is sent to it."""
        name = NodeId((await read(request, NameParameter)).name)
        was_paired = await asyncio.to_thread(self._vault.remove_node, name)
        self._membership.codes.close_all()
        waiting = self._membership.applicants.named(name, self._vault.public)
        for applicant in waiting:
            self._membership.applicants.reject(applicant.public)
        if not was_paired and not waiting and self._driver.fleet.node(name) is None:
            raise UnknownModel(f"there is no node {name}; those there are: herd nodes", code="unknown_node")
        self._driver.feed(NodeLeft(self._driver.now(), name, ""))
        self._noted(request, "removed a node", name)
        return as_json({"status": "removed", "name": name})

    # --- keys ---

    async def keys(self, _: Request) -> Response:
        """Every key that was made, without its secret."""
        return as_json({"keys": [shown(key, time.time()) for key in self._vault.keyring]})

    async def add_key(self, request: Request) -> Response:
        """Makes a key. Its text is in this answer and nowhere else."""
        wanted = await read(request, WantedKey)
        now = time.time()
        key_id, digest, text = keys.minted(secrets.token_bytes(keys.ID_BYTES + keys.SECRET_BYTES))
        key = _checked(wanted, ApiKey(key_id, wanted.name, digest, frozenset(wanted.scopes), now), now)
        await asyncio.to_thread(self._vault.put_key, key)
        self._changed()
        self._noted(request, "made a key", f"{key.name} ({key.id})")
        return as_json({**shown(key, now), "key": text}, 201)

    async def revoke_key(self, request: Request) -> Response:
        """`{"name": id or name}`: it is worth nothing from now on."""
        wanted = (await read(request, NameParameter)).name
        found = [key for key in self._vault.keyring if wanted in (key.id, key.name) and not key.revoked_at]
        if not found:
            raise UnknownModel(f"there is no valid key {wanted}; those there are: herd keys list", code="unknown_key")
        for key in found:
            await asyncio.to_thread(self._vault.put_key, dataclasses.replace(key, revoked_at=time.time()))
        self._changed()
        self._noted(request, "revoked a key", f"{found[0].name} ({found[0].id})")
        return as_json({"status": "revoked", "keys": [key.id for key in found]})

    async def audit(self, request: Request) -> Response:
        """Who changed what, from where, the newest first; `limit` (100)."""
        text = request.query_params.get("limit", "100")
        if not text.isdecimal():
            raise BadRequest(f"limit must be a number, not {text[:20]!r}")
        return as_json({"entries": await self._store.ask(audit_log.newest, int(text[:9]))})

    def _noted(self, request: Request, what: str, about: str = "") -> None:
        """A line in the log and one in the audit: names and addresses, no secrets."""
        entry = noted(request, what, about)
        log.info(what, extra={"ip": entry.ip, "about": about})
        self._store.audit(entry)


def noted(request: Request, what: str, about: str = "") -> audit_log.AuditEntry:
    """Who did this, for the audit."""
    key = request.scope.get("state", {}).get("key")
    ip = request.client.host if request.client else ""
    return audit_log.AuditEntry(
        time.time(), what, f"the key {key.name}" if isinstance(key, ApiKey) else "this machine, or a login", ip, about
    )


def shown(key: ApiKey, at: float) -> dict[str, object]:
    """A key as its owner sees it: everything but what would open anything."""
    kept = {name: value for name, value in dataclasses.asdict(key).items() if name != "digest"}
    return {**kept, "scopes": sorted(scope.value for scope in key.scopes), "is_valid": key.is_valid(at)}


def _checked(wanted: WantedKey, key: ApiKey, now: float) -> ApiKey:
    if not 0 < len(wanted.name) <= keys.NAME_MAX_CHARS or not wanted.name.isprintable():
        raise BadRequest(f"a key's name has 1 to {keys.NAME_MAX_CHARS} printable characters")
    if not wanted.scopes:
        raise BadRequest(f"a key needs a scope: {', '.join(scope.value for scope in Scope)}")
    limits = {
        "requests_per_minute": wanted.requests_per_minute,
        "concurrent_max": wanted.concurrent_max,
        "tokens_per_month": wanted.tokens_per_month,
    }
    wrong = [name for name, value in limits.items() if not 0 <= value <= LIMIT_MAX]
    if wrong or not 0 <= wanted.days <= 36500 or len(wanted.models) > MODELS_MAX:
        raise BadRequest(
            f"out of range: {', '.join(wrong) or ('days' if len(wanted.models) <= MODELS_MAX else 'models')}"
        )
    expires_at = now + wanted.days * DAY_S if wanted.days else 0.0
    models = tuple(name if "*" in name else canonical(name) for name in wanted.models)
    return dataclasses.replace(
        key,
        models=models,
        expires_at=expires_at,
        requests_per_minute=wanted.requests_per_minute,
        concurrent_max=wanted.concurrent_max,
        tokens_per_month=wanted.tokens_per_month,
    )


def told(endpoint: Callable[[Request], object]) -> Callable[[Request], object]:
    """Renders expected failures as JSON with their status."""

    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)  # type: ignore[misc,no-any-return]
        except HerdError as error:
            return as_json({"error": error.refusal.message, "code": error.refusal.code}, error.refusal.status)
        except CredentialStoreFull as error:
            return as_json({"error": str(error), "code": "full"}, 507)
        except OSError as error:
            return as_json({"error": f"it could not be kept: {error}", "code": "not_kept"}, 507)

    return answered


async def read(request: Request, kind: type[Body]) -> Body:
    """The body as this record. Raises `BadRequest`."""
    body = await request.body()
    if len(body) > BODY_MAX_BYTES:
        raise BadRequest(f"the body is over {BODY_MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from error


def as_json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
