"""Finds the user behind a request, from trusted headers, the body, the API key or the address.

    1. headers of a chat server: X-OpenWebUI-User-*, X-LibreChat-User-*, X-User-*, or of a proxy: Remote-*
    2. the body: `user`, else `metadata.user_id`, else `safety_identifier`
    3. the API key, else the client's address

Any client can write the first two, so they count only from the addresses and keys that the owner trusts. A key, or
else an address, is the tenant of a request; its users share what the tenant gets. A client that invents users
therefore divides its own share and never gets a second one. What identifies a person is replaced by a keyed hash,
unless the owner wants to see names.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

import msgspec

from herd.addresses import address_group
from herd.trust.addresses import is_in_networks, parse_networks
from herd.trust.app_names import APP_HEADERS, LIBRARIES, AppNames
from herd.trust.keys import ApiKey

USER_MAX_CHARS: Final = 64
CLAIM_MAX_CHARS: Final = 512
HASH_CHARS: Final = 12
_EMAILS, _NAMES, _IDS = (
    tuple(b"%b-%b" % (prefix, kind) for prefix in (b"x-openwebui-user", b"x-librechat-user", b"x-user", b"remote"))
    for kind in (b"email", b"name", b"id")
)
USER_HEADERS: Final = (*_EMAILS, *_IDS, b"remote-user", *_NAMES)
"""The headers that name a user, most useful first: an e-mail address is the same person in every app."""
DROPPED_HEADERS: Final = frozenset({*USER_HEADERS, b"x-openwebui-user-role", b"x-librechat-user-role"})
"""Nodes do not get these headers."""
USED_HEADERS: Final = frozenset({*USER_HEADERS, *APP_HEADERS})

_CLAUDE_CODE = re.compile(r"user_(?P<device>[^_]*)_account_(?P<account>[^_]*)_session_")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    trusted: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_IDENTITY_TRUSTED",
            "help": "Addresses or networks whose requests may name their user in headers or in the body, "
            "e.g. that of Open WebUI.",
        },
    )
    shows_names: bool = field(
        default=False,
        metadata={
            "env": "FLEET_IDENTITY_NAMES",
            "help": "Store and show the users' names and e-mail addresses instead of hashes.",
        },
    )

    def __post_init__(self) -> None:
        try:
            parse_networks(self.trusted)
        except ValueError as error:
            raise ValueError(
                f"FLEET_IDENTITY_TRUSTED: {error}; write addresses or networks such as 192.168.1.10 or 10.8.0.0/24"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends the requests with one head; precomputed, because a connection sends many with the same one."""

    tenant: str = ""
    """The API key, else the address."""
    user: str = ""
    """The user that trusted headers name; empty if none does."""
    app: str = ""
    """The app that the headers name; empty if they name none."""
    program: str = ""
    """The app, or the library or browser that it uses."""
    is_trusted: bool = False
    """Whether the body may name the user."""


UNKNOWN: Final = Sender()


class Identities:
    """`secret()` is the key of the hashes: it prevents that names are found by hashing guesses."""

    def __init__(self, settings: IdentitySettings, secret: Callable[[], bytes]) -> None:
        self._shows_names = settings.shows_names
        self._networks = parse_networks(settings.trusted)
        self._secret = secret
        self._apps = AppNames()

    def sender(self, values: Mapping[bytes, str], key: ApiKey | None, client_ip: str) -> Sender:
        """The sender of a request with these headers (`USED_HEADERS`, perhaps others too)."""
        is_trusted = (key is not None and key.names_users) or is_in_networks(client_ip, self._networks)
        claimed = next((values[name] for name in USER_HEADERS if values.get(name, "").strip()), "")
        program = self._apps.name({name: values[name] for name in APP_HEADERS if name in values})
        return Sender(
            tenant=tenant_of(key.id if key is not None else "", client_ip),
            user=self.label(unquote(claimed)) if is_trusted and claimed else "",
            app="" if program in LIBRARIES else program,
            program=program,
            is_trusted=is_trusted,
        )

    def user_in_body(self, body: bytes) -> str:
        """The user that the body of a trusted client names; empty if it names none."""
        return self.label(claimed_user(body))

    def label(self, claimed: str) -> str:
        """The name of a user as it is stored and shown: a hash of what the client says, or that itself."""
        text = _CONTROL.sub(" ", claimed[:CLAIM_MAX_CHARS]).strip()
        if not text:
            return ""
        if self._shows_names:
            return text[:USER_MAX_CHARS].rstrip()
        digest = hmac.new(self._secret(), text.casefold().encode("utf-8", "replace"), hashlib.sha256)
        return f"u-{digest.hexdigest()[:HASH_CHARS]}"


def tenant_of(key_id: str, client_ip: str) -> str:
    """The tenant of requests with this key, else from this address. Its number has a meaning in this process alone."""
    return f"key {key_id}" if key_id else f"client {hash(address_group(client_ip)) & 0xFFFFFF:06x}"


def claimed_user(body: bytes) -> str:
    """What the body of a request says about its user: `user`, else `metadata.user_id`, else `safety_identifier`."""
    try:
        fields = _BODY.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    metadata = fields.metadata if isinstance(fields.metadata, dict) else {}
    return _text(fields.user) or _stable_part(_text(metadata.get("user_id"))) or _text(fields.safety_identifier)


def _stable_part(user_id: str) -> str:
    """The part of Claude Code's `metadata.user_id` that is the same in all sessions; another value as it is.

    It is a text, `user_DEVICE_account_ACCOUNT_session_SESSION`, or an object with these three in JSON.
    """
    if found := _CLAUDE_CODE.match(user_id):
        return found["account"] or found["device"] or user_id
    if not user_id.startswith("{"):
        return user_id
    try:
        parts = _CLAUDE_CODE_PARTS.decode(user_id)
    except (msgspec.DecodeError, RecursionError):
        return user_id
    return _text(parts.account_uuid) or _text(parts.device_id) or user_id


def _text(value: object) -> str:
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value)[:CLAIM_MAX_CHARS].strip() if is_id else ""


class _Body(msgspec.Struct):
    user: object = None
    metadata: object = None
    safety_identifier: object = None


class _ClaudeCodeParts(msgspec.Struct):
    account_uuid: object = None
    device_id: object = None


_BODY = msgspec.json.Decoder(_Body)
_CLAUDE_CODE_PARTS = msgspec.json.Decoder(_ClaudeCodeParts)
