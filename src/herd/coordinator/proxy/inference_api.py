"""The door for inference: which dialect a path belongs to, what is asked, and whether it is let in. Chooses no node.

The hot path: one dictionary look-up, one cheap read of the body, then the driver decides. Lists are answered from
memory, never from a node, and are cached until the fleet changes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from herd.coordinator.auth.access_control import key_of, timeout_of
from herd.coordinator.driver import Driver
from herd.coordinator.http.contract import Exchange, Header
from herd.coordinator.proxy.auto_pull import AutoPull, AutoPullCallbacks
from herd.coordinator.proxy.prefix_hashes import prefix_hashes
from herd.coordinator.proxy.relay import Relay
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.wait_comments import WaitNotice
from herd.core.state.fleet import canonical
from herd.core.state.request import Request, RequestId, RequestKind
from herd.dialects import Answer, Dialect, Timestamp
from herd.errors import HerdError, MethodNotAllowed, Refusal
from herd.protocols.conversation import ParsedRequest, Route
from herd.trust.allowances import Allowances
from herd.trust.keys import ApiKey

LISTINGS_CACHED_MAX = 64
TAGS_MAX = 16
TAG_CHARACTERS_MAX = 64
NODE_CHARACTERS_MAX = 256
PRODUCT_BYTES_MAX = 32
"""How much is looked at of a User-Agent to tell two programs on one machine apart."""
_ANY_ENGINE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Cached:
    fleet_version: int
    second: int
    answer: Answer


class InferenceApi:
    """Callable with every exchange: takes what is inference, hands the rest on."""

    def __init__(
        self,
        dialects: Iterable[Dialect],
        driver: Driver,
        services: RelayDependencies,
        id_prefix: str,
        rest: Callable[[Exchange], None],
        hashes_prefixes: bool,
        allowances: Allowances,
        month: Callable[[], tuple[float, str]],
        capture: Callable[[str, str, bytes], None] | None = None,
        auto_pull: AutoPull | None = None,
    ) -> None:
        """`hashes_prefixes` where the policy asks who has read a conversation's beginning; else that costs nothing.

        `month()` is now, in unix seconds, and its calendar month, for what keys may use. `capture` is told of every request
        (id, path, body) where the owner asked for that.
        """
        self._allowances = allowances
        self._month = month
        self._capture = capture
        self._auto_pull = auto_pull
        self._dialects = tuple(dialects)
        self._driver = driver
        self._services = services
        self._rest = rest
        self._poison_requests = driver.dispatcher.poisons
        self._hashes_prefixes = hashes_prefixes
        self._ids = itertools.count(1)
        self._id_prefix = id_prefix
        self._routes: dict[str, tuple[Dialect, Route]] = {
            route.path: (dialect, route) for dialect in self._dialects for route in dialect.routes
        }
        self._lists: dict[str, tuple[Dialect, list[str]]] = {}
        self._prefixes: list[tuple[str, Dialect, list[str]]] = []
        for dialect in self._dialects:
            self._index_listings(dialect)
        self._cache: dict[tuple[str, str], _Cached] = {}

    def __call__(self, exchange: Exchange) -> None:
        found = self._routes.get(exchange.path)
        if found is None:
            self._list_or_rest(exchange)
            return
        dialect, route = found
        try:
            if exchange.method != route.method:
                raise MethodNotAllowed("method not allowed here", allow=route.method)
            ask = dialect.parse(route, exchange.body)
        except HerdError as error:
            self._refuse(exchange, dialect, error)
            return
        if route.kind is RequestKind.INFO and self._answered_from_memory(exchange, dialect, ask):
            return
        key = key_of(exchange.admission)
        if key is not None and (refusal := self._key_refusal(key, ask)) is not None:
            _send(exchange, dialect.error(refusal), _retry_after(refusal))
            return
        request = self._request(exchange, dialect, ask, key)
        if self._capture is not None:
            self._capture(request.id, exchange.path, exchange.body)
        if (
            self._auto_pull is not None
            and not self._driver.fleet.knows(request.model)
            and self._fetched(exchange, dialect, ask, request, key)
        ):
            return
        self._driver.admit(request, Relay(exchange, ask, dialect, request.id, self._services))

    def _fetched(
        self, exchange: Exchange, dialect: Dialect, ask: ParsedRequest, request: Request, key: ApiKey | None
    ) -> bool:
        """Whether it waits for its model to be fetched."""
        assert self._auto_pull is not None

        def leave() -> None:
            if key is not None:
                self._allowances.give_back(key.id, 0)

        def refuse(refusal: Refusal, wait: WaitNotice | None) -> None:
            leave()
            if wait is not None and wait.has_begun:
                exchange.cut(dialect.error_frame(ask, refusal))
            else:
                _send(exchange, dialect.error(refusal, request.id), _retry_after(refusal))

        def admit(wait: WaitNotice) -> None:
            self._driver.admit(request, Relay(exchange, ask, dialect, request.id, self._services, wait))

        tells = ask.stream and dialect.error_frame(ask, Refusal(503, "", "")).startswith((b"data:", b"event:"))
        return self._auto_pull.take(exchange, request, tells, AutoPullCallbacks(admit, refuse, leave))

    def dialect_of(self, path: str) -> Dialect:
        """The dialect in whose shape an error about this path is told."""
        found = self._routes.get(path)
        if found is not None:
            return found[0]
        by_first_segment = {route.path.split("/")[1]: d for d in self._dialects for route in d.routes}
        return by_first_segment.get(path.strip("/").split("/")[0], self._dialects[0])

    # --- inference ---

    def _key_refusal(self, key: ApiKey, ask: ParsedRequest) -> Refusal | None:
        """What this key may not: a model, or any more. What is let in is given back by its last row."""
        for name in (ask.model, *ask.fallback_models):
            if not key.allows_model(canonical(name)):
                return Refusal(403, "model_not_allowed", f"the key {key.name} may not ask {name[:80]}")
        return self._allowances.take(key, *self._month())

    def _request(self, exchange: Exchange, dialect: Dialect, ask: ParsedRequest, key: ApiKey | None) -> Request:
        owner, tags = key.id if key is not None else "", self._tags(exchange, ask)
        timeout_s = timeout_of(exchange.admission)
        deadline_at = exchange.received_at + timeout_s if timeout_s is not None else None
        fingerprint = hash(ask.body) if self._poison_requests else 0
        return Request(
            RequestId(f"{self._id_prefix}{next(self._ids):x}"),
            canonical(ask.model),
            ask.route.kind,
            dialect.name,
            tuple(canonical(name) for name in ask.fallback_models) if ask.fallback_models else (),
            ask.stream,
            ask.prompt_tokens,
            ask.output_tokens_max,
            ask.context_wanted,
            ask.needs,
            len(ask.body),
            exchange.client_ip,
            tags,
            deadline_at,
            ask.model,
            _ANY_ENGINE,
            prefix_hashes(ask.body, owner) if self._hashes_prefixes else (),
            owner,
            _tenant(exchange, tags, owner),
            fingerprint,
            _only_node(exchange),
            ask.context_wanted,
            ask.has_runner_options,
            is_thinking_in_limit=ask.is_thinking_in_limit,
        )

    @staticmethod
    def _tags(exchange: Exchange, ask: ParsedRequest) -> tuple[str, ...]:
        header = exchange.header(b"x-herd-tags")
        if header is None and not ask.user:
            return ask.tags
        named = header.decode("ascii", "replace").split(",") if header else []
        tags = [*ask.tags, *(name.strip()[:TAG_CHARACTERS_MAX] for name in named)]
        if ask.user:
            tags.append(f"user:{ask.user[:TAG_CHARACTERS_MAX]}")
        return tuple(dict.fromkeys(tag for tag in tags if tag))[:TAGS_MAX]

    def _answered_from_memory(self, exchange: Exchange, dialect: Dialect, ask: ParsedRequest) -> bool:
        model = canonical(ask.model)
        cards = [node.report.models[model] for node in self._driver.fleet.with_model(model)]
        answer = dialect.describe(ask, cards)
        if answer is None:
            return False
        _send(exchange, answer)
        return True

    def _refuse(self, exchange: Exchange, dialect: Dialect, error: HerdError) -> None:
        refusal = error.refusal
        extra: tuple[Header, ...] = ((b"allow", refusal.allow.encode()),) if refusal.allow else ()
        _send(exchange, dialect.error(refusal), extra)

    # --- lists ---

    def _index_listings(self, dialect: Dialect) -> None:
        for method, path in dialect.listings:
            if path.endswith("/{name}"):
                self._prefixes.append((path.removesuffix("{name}"), dialect, [method]))
            else:
                self._lists.setdefault(path, (dialect, []))[1].append(method)

    def _list_or_rest(self, exchange: Exchange) -> None:
        found = self._lists.get(exchange.path) or next(
            ((d, methods) for prefix, d, methods in self._prefixes if exchange.path.startswith(prefix)), None
        )
        if found is None:
            self._rest(exchange)
            return
        dialect, methods = found
        try:
            if exchange.method not in methods and exchange.method != "HEAD":
                raise MethodNotAllowed("method not allowed here", allow=", ".join(methods))
            _send(exchange, self._listing(dialect, exchange))
        except HerdError as error:
            self._refuse(exchange, dialect, error)

    def _listing(self, dialect: Dialect, exchange: Exchange) -> Answer:
        moment = self._services.moment()
        method = "GET" if exchange.method == "HEAD" else exchange.method
        key, fleet = (method, exchange.path), self._driver.fleet
        cached = self._cache.get(key)
        if cached is not None and cached.fleet_version == fleet.version and cached.second == moment.unix_s:
            return cached.answer
        answer = dialect.listing(method, exchange.path, fleet, moment)
        if len(self._cache) >= LISTINGS_CACHED_MAX:
            self._cache.clear()
        self._cache[key] = _Cached(fleet.version, moment.unix_s, answer)
        return answer


def _tenant(exchange: Exchange, tags: tuple[str, ...], key_id: str) -> str:
    """On whose behalf it waits. What nobody checks (tags, the client's name) tells apart the well-meaning only: who can be
    anybody takes several turns; `herd keys` ends that. An address is not shown but by a number that means something in this
    process alone."""
    if key_id:
        return f"key {key_id}"
    if tags:
        return f"app {tags[0]}"
    agent = exchange.header(b"user-agent")
    product = agent[:PRODUCT_BYTES_MAX].split(b"/", 1)[0].decode("ascii", "replace") if agent else ""
    return f"client {hash(exchange.client_ip) & 0xFFFFFF:06x} {product}".rstrip()


def _only_node(exchange: Exchange) -> str:
    """The node that the client names, to compare machines or to try one; "" for any. Where there is none of that name nobody can serve it."""
    named = exchange.header(b"x-herd-node")
    return named.decode("utf-8", "replace").strip()[:NODE_CHARACTERS_MAX] if named else ""


def _retry_after(refusal: Refusal) -> tuple[Header, ...]:
    return ((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)),) if refusal.retry_after_s is not None else ()


def _send(exchange: Exchange, answer: Answer, extra: tuple[Header, ...] = ()) -> None:
    exchange.respond(answer.status, ((b"content-type", answer.content_type.encode()), *extra), answer.body)


def wall_clock(unix_ns: Callable[[], int], rfc3339: Callable[[int], str]) -> Callable[[], Timestamp]:
    """A source of moments for answers, from a clock handed in."""
    return lambda: Timestamp(rfc3339(now := unix_ns()), now // 1_000_000_000)
