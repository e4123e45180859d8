"""Decides which requests are allowed, from their address, API key, session, Host and Origin.

The rules are in `trust/`. This file reads the headers that they need and stores the decision on the request head, so
that the next equal request of a connection costs one comparison.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from herd.coordinator.auth.cors import Preflight, cors_headers
from herd.coordinator.auth.sloppy_paths import served_path
from herd.coordinator.upstream.hops import HOP_HEADER, loop_refusal
from herd.core.state.nodes.labels import parse_labels
from herd.errors import HerdError, Refusal
from herd.http1 import content_coding
from herd.http1.contract import Exchange, Header
from herd.trust.addresses import zone_of
from herd.trust.browsers import AllowedNames, Effect, content_refusal, host_refusal, machine_refusal, origin_refusal
from herd.trust.identity import UNKNOWN, USED_HEADERS, Identities, Sender
from herd.trust.keys import ApiKey, Keyring, configured_key, has_key_prefix
from herd.trust.logins import OPENED_BY_LINK
from herd.trust.proxies import is_added_by_proxies
from herd.trust.rights import KEY_INVALID, KEYLESS, Caller, Right, access_refusal

ANTHROPIC_PATH = "/v1/messages"
SESSION_COOKIE = "herd_session"
COOKIE_MAX_CHARS = 4096
_BROWSER = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"cookie"})
TIMEOUT_HEADER = b"x-request-timeout"
LABEL_HEADER = b"x-herd-label"
NO_LABELS: frozenset[str] = frozenset()
TIMEOUT_MAX_S = 86400.0
_ASKED_METHOD, _ASKED_HEADERS = b"access-control-request-method", b"access-control-request-headers"
_ASKED_NETWORK = b"access-control-request-private-network"
_USED_HEADERS = (
    _BROWSER
    | {TIMEOUT_HEADER, LABEL_HEADER, b"host", b"authorization", b"x-api-key", b"content-type"}
    | {_ASKED_METHOD, _ASKED_HEADERS, _ASKED_NETWORK}
    | USED_HEADERS
)


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may use the API. The defaults suit a single machine and a home network; see docs/security.md."""

    require_key: bool = field(
        default=False,
        metadata={"env": "FLEET_REQUIRE_KEY", "help": "Always require an API key, even before the first key exists."},
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_ALLOWED_HOSTS",
            "help": "Additional host names that clients use for the coordinator, e.g. behind a proxy.",
        },
    )
    allowed_origins: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_ALLOWED_ORIGINS",
            "help": "Other web origins that may call the API, e.g. https://chat.example.org. "
            "With * in it (chrome-extension://*), pages may use models only.",
        },
    )
    anthropic_require_key: bool = field(
        default=False,
        metadata={
            "env": "FLEET_ANTHROPIC_REQUIRE_KEY",
            "help": "Require an API key for /v1/messages, even before the first key exists.",
        },
    )
    anthropic_api_key: str = field(
        default="",
        metadata={
            "env": "FLEET_ANTHROPIC_API_KEY",
            "secret": True,
            "help": "A key of your choice that is valid for /v1/messages only; prefer `herd keys add NAME`.",
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The decision on one request head. It is valid until `until` (loop time), since keys expire."""

    version: int
    until: float
    refusal: Refusal | None
    key: ApiKey | None = None
    extra_headers: tuple[Header, ...] = ()
    timeout_s: float | None = None
    """The client's timeout for the complete answer, from X-Request-Timeout."""
    may_pull_models: bool = False
    """Whether this client may cause downloads of models."""
    labels: frozenset[str] = NO_LABELS
    """Labels that a node must have to serve these requests."""
    content_coding: str = ""
    """How the client compressed the bodies of these requests; "" for bodies as they are."""
    sender: Sender = UNKNOWN


def timeout_of(admission: object | None) -> float | None:
    return admission.timeout_s if isinstance(admission, Admission) else None


def labels_of(admission: object | None) -> frozenset[str]:
    return admission.labels if isinstance(admission, Admission) else NO_LABELS


def may_pull_models(admission: object | None) -> bool:
    """Whether this client may cause downloads of models."""
    return isinstance(admission, Admission) and admission.may_pull_models


def key_of(admission: object | None) -> ApiKey | None:
    """The API key of an allowed request."""
    return admission.key if isinstance(admission, Admission) else None


def sender_of(admission: object | None) -> Sender:
    """Who sent an allowed request."""
    return admission.sender if isinstance(admission, Admission) else UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDependencies:
    keyring: Callable[[], Keyring]
    identities: Identities
    right_of: Callable[[str, str], Right]
    """The right that a method and path need."""
    is_served: Callable[[str], bool]
    """Whether something is served at this path."""
    body_max_bytes: int
    """The limit of a request body, after it was unpacked."""
    session_key: Callable[[str], str | None]
    """The key that opened a browser session (see `Logins.key_of`)."""
    unix_s: Callable[[], float]
    refuse: Callable[[Exchange, Refusal], None]
    admit: Callable[[Exchange], None]
    hop: str = ""
    """The id of this process in `X-Fleet-Hop`."""
    machine_name: str = ""
    """This machine's own name, which may be the host of its requests."""


class AccessControl:
    """Call it with every exchange. It refuses a request without permission and passes the others to `admit`."""

    def __init__(
        self, settings: AccessSettings, dependencies: AccessDependencies, form_paths: frozenset[str] = frozenset()
    ) -> None:
        """`form_paths`: routes that a page without a script may send a form to."""
        self._settings = settings
        self._names = AllowedNames.of(settings.allowed_hosts, settings.allowed_origins, dependencies.machine_name)
        self._keyring = dependencies.keyring
        self._identities = dependencies.identities
        self._right_of = dependencies.right_of
        self._is_served = dependencies.is_served
        self._hop = dependencies.hop
        self._body_max_bytes = dependencies.body_max_bytes
        self._session_key = dependencies.session_key
        self._form_paths = form_paths
        self._unix_s = dependencies.unix_s
        self._refuse = dependencies.refuse
        self._admit = dependencies.admit
        self._version = 0
        self._anthropic_key = configured_key("anthropic", "FLEET_ANTHROPIC_API_KEY", settings.anthropic_api_key)

    def invalidate_decisions(self) -> None:
        """Invalidates all stored decisions, after keys or logins have changed."""
        self._version += 1

    def __call__(self, exchange: Exchange) -> None:
        admission = exchange.admission
        if (
            not isinstance(admission, Admission)
            or admission.version != self._version
            or admission.until <= exchange.received_at
        ):
            admission = self._decide(exchange)
            exchange.admission = admission
        if admission.extra_headers:
            exchange.add_headers(admission.extra_headers)
            if exchange.method == "OPTIONS" and admission.refusal is None:
                exchange.respond(204, (), b"")
                return
        if admission.refusal is not None:
            self._refuse(exchange, admission.refusal)
        elif admission.content_coding:
            self._unpack(exchange, admission)
        else:
            self._admit(exchange)

    def _unpack(self, exchange: Exchange, admission: Admission) -> None:
        """Admits a request with a compressed body, unpacked. Only here: who has no permission costs no such work."""
        try:
            exchange.body = content_coding.unpack(exchange.body, admission.content_coding, self._body_max_bytes)
        except content_coding.UnsupportedCoding as error:
            exchange.add_headers((*admission.extra_headers, (b"Accept-Encoding", content_coding.SUPPORTED)))
            self._refuse(exchange, error.refusal)
        except HerdError as error:
            self._refuse(exchange, error.refusal)
        else:
            self._admit(exchange)

    # --- one request head ---

    def _decide(self, exchange: Exchange) -> Admission:
        path = served_path(exchange.path, self._is_served)
        if path is not None and path != exchange.path:
            exchange.correct_path(path)
        values: dict[bytes, str] = {}
        for name, value in exchange.headers:
            if name in _USED_HEADERS:
                values.setdefault(name, value.decode("latin-1"))
            elif name == HOP_HEADER and (loop := loop_refusal(self._hop, value)) is not None:
                return Admission(version=self._version, until=math.inf, refusal=loop)
        method = exchange.method
        is_preflight = method == "OPTIONS" and _ASKED_METHOD in values
        if is_preflight:
            method = values[_ASKED_METHOD].upper()
        right = self._right_of(method, exchange.path)
        refusal = self._page_refusal(right, method, values, is_preflight or exchange.path in self._form_paths)
        if refusal is not None:
            return Admission(version=self._version, until=math.inf, refusal=refusal)
        origin = values.get(b"origin", "")
        if is_preflight:
            asked = Preflight(values.get(_ASKED_HEADERS, "").encode("latin-1"), values.get(_ASKED_NETWORK) == "true")
            cors = cors_headers(origin, asked)
            return Admission(version=self._version, until=math.inf, refusal=None, extra_headers=cors)
        return self._check(exchange, right, values, cors_headers(origin, None))

    def _page_refusal(
        self, right: Right, method: str, values: dict[bytes, str], is_any_content: bool
    ) -> Refusal | None:
        host, origin = values.get(b"host", ""), values.get(b"origin", "")
        effect = _effect(right, method)
        refusal = host_refusal(host, self._names) or origin_refusal(origin, host, effect, self._names)
        if refusal is None and effect is Effect.CHANGES and not is_any_content:
            refusal = content_refusal(values.get(b"content-type", ""), not _BROWSER.isdisjoint(values))
        return refusal

    def _check(
        self, exchange: Exchange, right: Right, values: dict[bytes, str], extra_headers: tuple[Header, ...]
    ) -> Admission:
        now, keyring = self._unix_s(), self._keyring()
        key, refusal = (
            (None, None) if right is Right.OPEN else self._key(exchange.path, presented_keys(values), keyring, now)
        )
        if refusal is None:
            is_forwarded = any(is_added_by_proxies(name) for name, _ in exchange.headers)
            session = _session(values.get(b"cookie", ""))
            opened_by = self._session_key(session) if session and key is None else None
            if opened_by:
                key = keyring.by_id(opened_by, now)
            caller = Caller(
                zone_of(exchange.client_ip, is_forwarded),
                key,
                opened_by == OPENED_BY_LINK,
                machine_refusal(values.get(b"host", ""), self._names),
            )
            refusal = access_refusal(right, caller, keyring.has_valid(now), self._requires_key(exchange.path))
        may_pull_models = (
            refusal is None
            and access_refusal(Right.MODELS, caller, keyring.has_valid(now), self._settings.require_key) is None
        )
        until = exchange.received_at + (key.expires_at - now) if key is not None and key.expires_at else math.inf
        timeout_s = _seconds(values.get(TIMEOUT_HEADER, ""))
        if refusal is None and timeout_s is not None and math.isnan(timeout_s):
            message = f"X-Request-Timeout must be a number of seconds above 0 and at most {TIMEOUT_MAX_S:g}"
            refusal = Refusal(400, "invalid_request", message)
        labels = key.labels if key is not None else NO_LABELS
        if refusal is None and (named := values.get(LABEL_HEADER, "")):
            try:
                labels |= parse_labels(named.split(","))
            except ValueError as error:
                refusal = Refusal(400, "invalid_request", f"X-Herd-Label: {error}")
        return Admission(
            version=self._version,
            until=until,
            refusal=refusal,
            key=key,
            extra_headers=extra_headers,
            timeout_s=timeout_s,
            may_pull_models=may_pull_models,
            labels=labels,
            content_coding=content_coding.content_coding(exchange.headers),
            sender=self._identities.sender(values, key, exchange.client_ip) if refusal is None else UNKNOWN,
        )

    def _key(self, path: str, texts: list[str], keyring: Keyring, now: float) -> tuple[ApiKey | None, Refusal | None]:
        configured = self._anthropic_key
        if (
            configured is not None
            and path.startswith(ANTHROPIC_PATH)
            and any(configured.is_secret(text) for text in texts)
        ):
            return configured, None
        return _key_among(texts, keyring, now)

    def _requires_key(self, path: str) -> bool:
        return self._settings.require_key or (self._settings.anthropic_require_key and path.startswith(ANTHROPIC_PATH))


def _effect(right: Right, method: str) -> Effect:
    """What a request with this right does. Open pages that are only read, such as /health, are part of using models."""
    is_read = method in ("GET", "HEAD")
    if right in KEYLESS or (right is Right.OPEN and is_read):
        return Effect.USES_MODELS
    if not is_read:
        return Effect.CHANGES
    return Effect.READS_AS_ADMIN if right is Right.ADMIN else Effect.READS


def _seconds(text: str) -> float | None:
    """None for an empty text, NaN for an invalid one."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return math.nan
    return seconds if 0.0 < seconds <= TIMEOUT_MAX_S else math.nan


def _key_among(texts: list[str], keyring: Keyring, now: float) -> tuple[ApiKey | None, Refusal | None]:
    """The one valid key among these texts. Two different keys, or an invalid one in our format, are refused."""
    found = {key.id: key for text in texts if (key := keyring.find(text, now)) is not None}
    if len(found) > 1 or any(has_key_prefix(text) and keyring.find(text, now) is None for text in texts):
        return None, KEY_INVALID
    return next(iter(found.values()), None), None


def presented_keys(values: dict[bytes, str]) -> list[str]:
    """The keys in a request: bearer token, the password of Basic authentication, and Anthropic's header."""
    texts = []
    scheme, _, rest = values.get(b"authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        texts.append(rest.strip())
    elif scheme.lower() == "basic":
        texts.append(_password(rest.strip()))
    if values.get(b"x-api-key"):
        texts.append(values[b"x-api-key"].strip())
    return [text for text in texts if text]


def _password(basic: str) -> str:
    try:
        return base64.b64decode(basic, validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _session(cookie: str) -> str:
    if not cookie or len(cookie) > COOKIE_MAX_CHARS:
        return ""
    try:
        found = SimpleCookie(cookie).get(SESSION_COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
