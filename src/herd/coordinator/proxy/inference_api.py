"""Accepts inference requests: finds the dialect of a path, parses the request, checks the key's limits, and admits it.

This is the hot path: one dictionary lookup and one cheap read of the body, then the driver decides. Model lists are
answered from memory, without asking a node, and are cached until the fleet changes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from herd.coordinator.auth.access_control import key_of, labels_of, sender_of, timeout_of
from herd.coordinator.driver import Driver
from herd.coordinator.proxy.auto_pull import AutoPull, AutoPullCallbacks
from herd.coordinator.proxy.memory_requests import MemoryRequests, WantedNodes
from herd.coordinator.proxy.prefix_hashes import prefix_hashes, responses_prefix_hashes
from herd.coordinator.proxy.recorded_exchange import RecordedExchange, ResponseRecorder
from herd.coordinator.proxy.relay import Relay
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.relaying.client_headers import TAG_CHARACTERS_MAX, ClientHeaders, client_headers
from herd.coordinator.proxy.requested_models import ModelResolver, RequestedModels
from herd.coordinator.proxy.response_store import owner_of
from herd.coordinator.proxy.wait_comments import WaitNotice, is_event_stream
from herd.core.state.fleet import ModelName
from herd.core.state.request import Request, RequestId, RequestKind
from herd.dialects import Dialect, HttpResponse
from herd.errors import HerdError, MethodNotAllowed, Refusal
from herd.http1.contract import Exchange, Header
from herd.protocols.conversation import ParsedRequest, Route
from herd.protocols.openai.responses_history import RESPONSES
from herd.trust.allowances import Allowances
from herd.trust.identity import Identities
from herd.trust.keys import ApiKey
from herd.trust.user_limits import UserLimits, limited_user

LISTINGS_CACHED_MAX = 64
TAGS_MAX = 16
_USER_TAG = "user:"


@dataclass(frozen=True, slots=True)
class _CachedListing:
    fleet_version: int
    second: int
    response: HttpResponse


class _Listings:
    """The list routes of dialects: for each path, or beginning of a path, its dialect and methods."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[Dialect, list[str]]] = {}
        self._prefixes: list[tuple[str, tuple[Dialect, list[str]]]] = []

    def add(self, dialect: Dialect) -> None:
        for method, path in dialect.listings:
            if path.endswith("/{name}"):
                self._prefixes.append((path.removesuffix("{name}"), (dialect, [method])))
            else:
                self._exact.setdefault(path, (dialect, []))[1].append(method)

    def find(self, path: str) -> tuple[Dialect, list[str]] | None:
        found = self._exact.get(path)
        return found or next((route for prefix, route in self._prefixes if path.startswith(prefix)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    id_prefix: str
    """The beginning of every request id."""
    hashes_prefixes: bool
    """Whether the policy uses prompt caches; otherwise requests are not hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceDependencies:
    dialects: Sequence[Dialect]
    driver: Driver
    relay: RelayDependencies
    responses: ResponseRecorder
    allowances: Allowances
    identities: Identities
    user_limits: UserLimits | None = None
    """None if no limit of users is set."""
    unix_month: Callable[[], tuple[float, str]]
    """The unix time in seconds and its calendar month, for the budgets of API keys."""
    other_routes: Callable[[Exchange], None]
    """Answers requests that are not inference."""
    capture: Callable[[str, str, bytes], None] | None = None
    """Takes the id, path and body of every request, if FLEET_CAPTURE is on."""
    auto_pull: AutoPull | None = None
    models: ModelResolver
    """The aliases of models."""
    memory_requests: MemoryRequests
    """Answers requests that only load or unload a model."""


class InferenceApi:
    """Call it with every exchange. It passes what is not inference to `other_routes`."""

    def __init__(self, settings: InferenceSettings, dependencies: InferenceDependencies) -> None:
        self._id_prefix = settings.id_prefix
        self._hashes_prefixes = settings.hashes_prefixes
        self._dialects = tuple(dependencies.dialects)
        self._driver = dependencies.driver
        self._poison_requests = dependencies.driver.dispatcher.poisons
        self._relay_dependencies = dependencies.relay
        self._allowances = dependencies.allowances
        self._identities = dependencies.identities
        self._user_limits = dependencies.user_limits
        self._unix_month = dependencies.unix_month
        self._other_routes = dependencies.other_routes
        self._capture = dependencies.capture
        self._auto_pull = dependencies.auto_pull
        self._memory_requests = dependencies.memory_requests
        self._models = dependencies.models
        self._responses = dependencies.responses
        self._ids = itertools.count(1)
        self._routes: dict[str, tuple[Dialect, Route]] = {
            route.path: (dialect, route) for dialect in self._dialects for route in dialect.routes
        }
        by_header = {dialect.client_header: _Listings() for dialect in self._dialects}
        for dialect in self._dialects:
            by_header[dialect.client_header].add(dialect)
        self._listings = sorted(by_header.items(), key=lambda item: item[0] == b"")
        """The list routes by the header that their clients send; last those of clients without such a header."""
        self._cache: dict[tuple[str, str, str, bytes], _CachedListing] = {}

    def __call__(self, exchange: Exchange) -> None:
        found = self._routes.get(exchange.path)
        if found is None:
            self._answer_listing_or_pass_on(exchange)
            return
        dialect, route = found
        request_id = self._start_answer(exchange, dialect)
        try:
            if exchange.method != route.method:
                if exchange.method in ("GET", "HEAD") and (
                    probed := dialect.probe(route, self._relay_dependencies.timestamp())
                ):
                    _send(exchange, probed)
                    return
                raise MethodNotAllowed("method not allowed here", allow=route.method)
            if route.path == RESPONSES:
                exchange = self._responses.attend(exchange, _owner(exchange))
            key = key_of(exchange.admission)
            parsed = dialect.parse(route, exchange.body)
            if isinstance(exchange, RecordedExchange):
                exchange.describe(parsed)
            headers = client_headers(exchange)
            may_fall_back = headers.may_fall_back if headers.may_fall_back is not None else parsed.may_fall_back
            models = self._models.find(parsed, key, may_fall_back)
            parsed.is_alias = bool(models.alias_of)
            if route.kind is RequestKind.INFO and self._answer_from_memory(exchange, dialect, parsed, models.model):
                return
        except HerdError as error:
            _refuse(exchange, dialect, error, request_id)
            return
        if key is not None and (refusal := self._key_refusal(key, parsed)) is not None:
            _send(exchange, dialect.error(refusal, request_id), _retry_after_header(refusal))
            return
        if parsed.memory_action is not None and self._memory_requests.takes(parsed, models.model):
            if key is not None:
                self._allowances.finish_request(key.id, 0)
            wanted = WantedNodes(headers.only_node, labels_of(exchange.admission))
            self._memory_requests.serve(exchange, dialect, parsed, models.model, wanted)
            return
        request = self._request(exchange, dialect, parsed, key, models, request_id)
        request.may_substitute = may_fall_back
        if self._user_limits is not None:
            refusal = self._user_limits.start_request(limited_user(request), self._unix_month()[0])
            if refusal is not None:
                if key is not None:
                    self._allowances.finish_request(key.id, 0)
                _send(exchange, dialect.error(refusal, request_id), _retry_after_header(refusal))
                return
        if self._capture is not None:
            self._capture(request.id, exchange.path, exchange.body)
        if (
            self._auto_pull is not None
            and models.may_download
            and not self._driver.fleet.knows(request.model)
            and self._try_hold_for_download(exchange, dialect, parsed, request, key)
        ):
            return
        self._driver.admit(request, Relay(exchange, parsed, dialect, request.id, self._relay_dependencies))

    def _try_hold_for_download(
        self, exchange: Exchange, dialect: Dialect, parsed: ParsedRequest, request: Request, key: ApiKey | None
    ) -> bool:
        assert self._auto_pull is not None

        def release_allowance() -> None:
            if key is not None:
                self._allowances.finish_request(key.id, 0)
            if self._user_limits is not None:
                self._user_limits.finish_request(limited_user(request), 0)

        def refuse(refusal: Refusal, wait: WaitNotice | None) -> None:
            release_allowance()
            if wait is not None and wait.has_sent_head:
                exchange.cut(dialect.error_frame(parsed, refusal))
            else:
                _send(exchange, dialect.error(refusal, request.id), _retry_after_header(refusal))

        def admit(wait: WaitNotice) -> None:
            self._driver.admit(request, Relay(exchange, parsed, dialect, request.id, self._relay_dependencies, wait))

        takes_comments = parsed.stream and is_event_stream(dialect, parsed)
        return self._auto_pull.try_hold(
            exchange, request, takes_comments, AutoPullCallbacks(admit, refuse, release_allowance)
        )

    # --- inference ---

    def _key_refusal(self, key: ApiKey, parsed: ParsedRequest) -> Refusal | None:
        """Why this key may not send the request. Otherwise its allowance is reduced until the request's final row."""
        return self._models.refusal(parsed, key) or self._allowances.start_request(key, *self._unix_month())

    def _start_answer(self, exchange: Exchange, dialect: Dialect) -> RequestId:
        """A new request id, which the answer has in the header of its API, whatever the answer will be."""
        request_id = RequestId(f"{self._id_prefix}{next(self._ids):x}")
        exchange.add_headers(dialect.id_headers(request_id))
        return request_id

    def _request(
        self,
        exchange: Exchange,
        dialect: Dialect,
        parsed: ParsedRequest,
        key: ApiKey | None,
        models: RequestedModels,
        request_id: RequestId,
    ) -> Request:
        headers, sender = client_headers(exchange), sender_of(exchange.admission)
        owner, tags = key.id if key is not None else "", self._tags(headers, parsed)
        user = sender.user
        if sender.is_trusted and not user:
            user = self._identities.user_in_body(parsed.body)
        timeout_s = timeout_of(exchange.admission)
        deadline_at = exchange.received_at + timeout_s if timeout_s is not None else None
        fingerprint = hash(parsed.body) if self._poison_requests else 0
        return Request(
            id=request_id,
            model=models.model,
            kind=parsed.route.kind,
            dialect=dialect.name,
            fallbacks=models.fallbacks,
            stream=parsed.stream,
            prompt_tokens=parsed.prompt_tokens,
            output_tokens_max=parsed.output_tokens_max,
            wanted_window_tokens=parsed.window_tokens,
            needs=parsed.needs,
            size_bytes=len(parsed.body),
            client_ip=exchange.client_ip,
            tags=tags,
            deadline_at=deadline_at,
            requested_name=parsed.model,
            alias_of=models.alias_of,
            prefix=self._prefix(parsed, owner) if self._hashes_prefixes else (),
            key_id=owner,
            tenant=sender.tenant,
            member=user or _app_tag(tags) or sender.program,
            user=user,
            app=sender.app,
            fingerprint=fingerprint,
            only_node=headers.only_node,
            labels=labels_of(exchange.admission),
            window_tokens=parsed.window_tokens,
            has_runner_options=parsed.has_runner_options,
            wants_thinking=parsed.wants_thinking,
            may_think_unseen=parsed.may_think_unseen,
            has_format=parsed.has_format,
            is_thinking_in_limit=parsed.is_thinking_in_limit,
            path=parsed.route.path,
            special_fields=parsed.special_fields,
        )

    @staticmethod
    def _prefix(parsed: ParsedRequest, owner: str) -> tuple[int, ...]:
        is_responses = parsed.route.path == RESPONSES
        return (responses_prefix_hashes if is_responses else prefix_hashes)(parsed.body, owner)

    def _tags(self, headers: ClientHeaders, parsed: ParsedRequest) -> tuple[str, ...]:
        if not headers.tags and not parsed.user:
            return parsed.tags
        tags = [*parsed.tags, *headers.tags]
        if parsed.user:
            # An e-mail address is a person's name, also where the client may not name its users.
            name = self._identities.label(parsed.user) if "@" in parsed.user else parsed.user
            tags.append(f"{_USER_TAG}{name[:TAG_CHARACTERS_MAX]}")
        return tuple(dict.fromkeys(tag for tag in tags if tag))[:TAGS_MAX]

    def _answer_from_memory(
        self, exchange: Exchange, dialect: Dialect, parsed: ParsedRequest, model: ModelName
    ) -> bool:
        """Raises HerdError. The size of the prompt is corrected by what engines counted for earlier prompts."""
        factor = self._driver.forecast.token_ratios.factor(model)
        parsed = replace(parsed, prompt_tokens=round(parsed.prompt_tokens * factor))
        model_infos = [node.report.models[model] for node in self._driver.fleet.with_model(model)]
        response = dialect.describe(parsed, model_infos)
        if response is None:
            return False
        _send(exchange, response)
        return True

    # --- model lists ---

    def _answer_listing_or_pass_on(self, exchange: Exchange) -> None:
        """Answers a model list, or passes the request on."""
        found = None
        for client_header, listings in self._listings:
            if not client_header or exchange.header(client_header) is not None:
                found = found or listings.find(exchange.path)
        if found is None:
            self._other_routes(exchange)
            return
        dialect, methods = found
        request_id = self._start_answer(exchange, dialect)
        try:
            if exchange.method not in methods and exchange.method != "HEAD":
                raise MethodNotAllowed("method not allowed here", allow=", ".join(methods))
            _send(exchange, self._listing(dialect, exchange))
        except HerdError as error:
            _refuse(exchange, dialect, error, request_id)

    def _listing(self, dialect: Dialect, exchange: Exchange) -> HttpResponse:
        timestamp = self._relay_dependencies.timestamp()
        method = "GET" if exchange.method == "HEAD" else exchange.method
        key, fleet = (dialect.name, method, exchange.path, exchange.query), self._driver.fleet
        cached = self._cache.get(key)
        if cached is not None and cached.fleet_version == fleet.version and cached.second == timestamp.unix_s:
            return cached.response
        response = dialect.listing(method, exchange.path, fleet, timestamp, exchange.query)
        if len(self._cache) >= LISTINGS_CACHED_MAX:
            self._cache.clear()
        self._cache[key] = _CachedListing(fleet.version, timestamp.unix_s, response)
        return response


def _app_tag(tags: tuple[str, ...]) -> str:
    """The tag that names the app. Tags are not verified: an app that varies them divides its own tenant's turns."""
    return tags[0] if tags and not tags[0].startswith(_USER_TAG) else ""


def _refuse(exchange: Exchange, dialect: Dialect, error: HerdError, request_id: RequestId) -> None:
    refusal = error.refusal
    extra: tuple[Header, ...] = ((b"allow", refusal.allow.encode()),) if refusal.allow else ()
    _send(exchange, dialect.error(refusal, request_id), extra)


def _owner(exchange: Exchange) -> str:
    key = key_of(exchange.admission)
    origin = (exchange.header(b"origin") or b"").decode("latin-1")
    return owner_of(key.id if key is not None else "", exchange.client_ip, origin)


def _retry_after_header(refusal: Refusal) -> tuple[Header, ...]:
    return ((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)),) if refusal.retry_after_s is not None else ()


def _send(exchange: Exchange, response: HttpResponse, extra: tuple[Header, ...] = ()) -> None:
    exchange.respond(response.status, ((b"content-type", response.content_type.encode()), *extra), response.body)
