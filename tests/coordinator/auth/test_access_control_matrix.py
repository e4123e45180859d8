"""Tests every combination of host, page, address, proxy and scheme on every route: only this machine has its rights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from access_fixtures import CHAT, ask, status
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.access_control import AccessControl, AccessDependencies, AccessSettings
from herd.coordinator.auth.routes import ApiRoute, Rights
from herd.errors import Refusal
from herd.http1.contract import Exchange, Header
from herd.trust.identity import Identities, IdentitySettings
from herd.trust.keys import Keyring
from herd.trust.rights import Right

HOSTS = {
    "localhost:11435": "own",
    "127.0.0.1": "own",
    "[::1]:11435": "own",
    "study": "own",
    "study.local": "own",
    "allowed.example": "own",
    "printer": "any",
    "herd.local:11435": "any",
    "herd.lan": "any",
    "herd.internal": "any",
    "herd.home.arpa": "any",
    "x.localhost": "any",
    "192.168.1.9:11435": "any",
    "": "any",
    "evil.example": "public",
}
"""Each host, and whether only this machine has it, any machine of the network may have it, or it is public."""
SAME = "same"
ORIGINS = {
    "": "none",
    SAME: "same",
    "https://ours.example": "named",
    "http://localhost:3000": "local",
    "app://chat": "local",
    "http://x.localhost:8000": "pattern",
    "chrome-extension://abc": "pattern",
    "https://evil.example": "foreign",
    "http://herd2.local:11435": "foreign",
    "null": "foreign",
}
"""Each page, and what its origin tells: none (a program), the host itself, allowed by name, by pattern, or foreign."""
SOURCES = {"127.0.0.1": "loopback", "::1": "loopback", "192.168.1.7": "private", "203.0.113.9": "public"}
PROXIES: tuple[tuple[Header, ...], ...] = ((), ((b"x-forwarded-host", b"h"),))
SCHEMES = ("http", "https")
KEYLESS = (Right.LIST, Right.CHAT, Right.EMBED)
READ_METHODS = ("GET", "HEAD")


@dataclass(kw_only=True)
class Head:
    """The part of an exchange that access control reads."""

    method: str
    path: str
    headers: tuple[Header, ...]
    client_ip: str
    is_encrypted: bool
    admission: object | None = None
    facts: object | None = None
    received_at: float = 0.0
    body: bytes = b"{}"

    def add_headers(self, headers: object) -> None:
        """Ignores the headers for the answer."""

    def correct_path(self, path: str) -> None:
        self.path = path


class Decisions:
    """Access control that only says what it has decided: 200, or the status of the refusal."""

    def __init__(self, rights: Rights) -> None:
        self._status = 0
        settings = AccessSettings(
            allowed_hosts=("allowed.example",), allowed_origins=("https://ours.example", "chrome-extension://*")
        )
        dependencies = AccessDependencies(
            keyring=lambda: Keyring(()),
            identities=Identities(IdentitySettings(), lambda: b"secret"),
            right_of=rights,
            is_served=rights.is_served,
            body_max_bytes=1000,
            session_key=lambda _session: None,
            unix_s=lambda: 0.0,
            refuse=self._refused,
            admit=self._admitted,
            machine_name="study",
        )
        self._control = AccessControl(settings, dependencies)

    def __call__(self, head: Head) -> int:
        self._control(head)  # type: ignore[arg-type]
        return self._status

    def _refused(self, _exchange: Exchange, refusal: Refusal) -> None:
        self._status = refusal.status

    def _admitted(self, _exchange: Exchange) -> None:
        self._status = 200


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as running:
        yield running


@pytest.fixture(scope="module")
def routes(fleet: Fleet) -> dict[tuple[str, str], Right]:
    """Every method and path that is answered, and the right that it needs."""
    own = [route for route in fleet.coordinator.bridge._application.routes if isinstance(route, ApiRoute)]  # type: ignore[attr-defined]
    rights = _rights(fleet)
    found = {(route.method, route.path.replace("{", "").replace("}", "")): route.right for route in own}
    for dialect in fleet.coordinator.dialects:
        found |= {(route.method, route.path): rights(route.method, route.path) for route in dialect.routes}
    assert len(found) > 60 and {Right.ADMIN, Right.READ, Right.MODELS, Right.CHAT} <= set(found.values())
    return found


def _rights(fleet: Fleet) -> Rights:
    return Rights(fleet.coordinator.dialects, fleet.coordinator.bridge._application.routes)  # type: ignore[attr-defined]


def _head(method: str, path: str, host: str, origin: str, source: str, proxy: tuple[Header, ...], scheme: str) -> Head:
    page = f"{scheme}://{host}" if origin == SAME else origin
    sent = [(b"content-type", b"application/json"), *proxy]
    sent += [(b"host", host.encode())] if host else []
    sent += [(b"origin", page.encode())] if page else []
    return Head(method=method, path=path, headers=tuple(sent), client_ip=source, is_encrypted=scheme == "https")


def _allowed(right: Right, method: str, host: str, origin: str, source: str, is_forwarded: bool) -> bool:
    """The rule of docs/security.md."""
    if HOSTS[host] == "public":
        return False
    is_read = method in READ_METHODS
    uses_models = right in KEYLESS or (right is Right.OPEN and is_read)
    reads = is_read and right in (Right.READ, Right.MODELS, Right.PAGE)
    page = "foreign" if origin == SAME and not host else ORIGINS[origin]
    if page == "foreign" or (page == "pattern" and not uses_models) or (page == "local" and not (uses_models or reads)):
        return False
    if right in (Right.OPEN, Right.PAGE):
        return True
    network = "public" if is_forwarded else SOURCES[source]
    if right in KEYLESS:
        return network != "public"
    return network == "loopback" and HOSTS[host] == "own"


def test_every_combination_has_the_rights_of_the_table(fleet: Fleet, routes: dict[tuple[str, str], Right]) -> None:
    decide = Decisions(_rights(fleet))
    kinds = {(right, method in READ_METHODS): (method, path) for (method, path), right in routes.items()}
    for (right, _), (method, path) in kinds.items():
        for host, origin, source, proxy, scheme in itertools.product(HOSTS, ORIGINS, SOURCES, PROXIES, SCHEMES):
            got = decide(_head(method, path, host, origin, source, proxy, scheme))
            wanted = _allowed(right, method, host, origin, source, bool(proxy))
            assert (got == 200) is wanted, (right, method, path, host, origin, source, proxy, scheme, got)
            assert got in (200, 401, 403, 421)


def test_no_route_gives_another_devices_page_the_rights_of_this_machine(
    fleet: Fleet, routes: dict[tuple[str, str], Right]
) -> None:
    decide = Decisions(_rights(fleet))
    others = [host for host, kind in HOSTS.items() if kind == "any" and host]
    for (method, path), right in routes.items():
        for host, origin in itertools.product(others, (SAME, "")):
            got = decide(_head(method, path, host, origin, "127.0.0.1", (), "http"))
            is_open = right in (*KEYLESS, Right.OPEN, Right.PAGE)
            assert got == (200 if is_open else 403), (method, path, host, got)


@pytest.mark.parametrize(
    "host", ["home.local", "nas.lan", "db.internal", "tv.home.arpa", "x.localhost", "printer", "a.b.local"]
)
def test_another_devices_page_gets_no_key_and_an_answer_with_the_fix(fleet: Fleet, host: str) -> None:
    page = {"Host": f"{host}:{fleet.port}", "Origin": f"http://{host}:{fleet.port}"}
    for origin in (page, {"Host": host}):
        got, answer, _ = ask(fleet, "POST", "/fleet/keys", {"name": "theirs", "scopes": ["admin"]}, **origin)
        assert got == 403 and f"FLEET_ALLOWED_HOSTS={host}" in str(answer) and "http://localhost" in str(answer)
        assert status(fleet, "GET", "/fleet/status", **origin) == 403
    assert fleet.coordinator.credentials.keyring.has_valid(0.0) is False


def test_the_network_still_uses_models_under_any_local_name(fleet: Fleet) -> None:
    for host in ("herd.local:11435", "herd", "nas.lan", "192.168.1.9"):
        assert status(fleet, "POST", "/api/chat", CHAT, Host=host) == 200
        assert status(fleet, "GET", "/api/tags", Host=host) == 200
