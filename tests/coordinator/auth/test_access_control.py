"""Tests access to routes over real connections: local and remote, with and without a key, from other origins."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from access_fixtures import CHAT, EVIL, FORWARDED, a_fleet, a_key, ask, status
from fakes.faults import Hang
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.routes import ApiRoute
from herd.trust.rights import Right


def every_route(fleet: Fleet) -> list[ApiRoute]:
    bridge = fleet.coordinator.bridge
    assert bridge is not None
    return [route for route in bridge._application.routes if isinstance(route, ApiRoute)]  # type: ignore[attr-defined]


def test_local_requests_need_no_key_before_the_first_key_exists(fleet: Fleet) -> None:
    assert status(fleet, "POST", "/api/chat", CHAT) == 200
    assert status(fleet, "GET", "/api/tags") == 200
    assert status(fleet, "GET", "/fleet/status") == 200
    assert status(fleet, "POST", "/fleet/nodes/invite", {}) == 200


def test_an_unknown_remote_client_reaches_only_open_routes(fleet: Fleet) -> None:
    for route in every_route(fleet):
        [method] = set(route.methods or ()) - {"HEAD"} or {"HEAD"}
        path = route.path.replace("{", "").replace("}", "")
        got = status(fleet, method, path, {} if method == "POST" else None, **FORWARDED)
        assert (got == 401) is (route.right not in (Right.OPEN, Right.PAGE)) or path in (
            "/heartbeat",
            "/heartbeat/goodbye",
        ), (method, path, got)
    for method, path, body in (
        ("POST", "/api/chat", CHAT),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/messages", CHAT),
        ("GET", "/api/tags", None),
        ("GET", "/v1/models", None),
        ("POST", "/api/show", {"model": "m"}),
    ):
        assert status(fleet, method, path, body, **FORWARDED) == 401, path
    assert status(fleet, "GET", "/health", **FORWARDED) == 200


def test_after_the_first_key_every_request_needs_one(fleet: Fleet) -> None:
    key = a_key(fleet)
    assert status(fleet, "POST", "/api/chat", CHAT) == 401
    for sent in (key, {"X-Api-Key": key["Authorization"].removeprefix("Bearer ")}):
        assert status(fleet, "POST", "/api/chat", CHAT, **sent) == 200
        assert status(fleet, "POST", "/v1/chat/completions", CHAT, **sent, **FORWARDED) == 200
    assert status(fleet, "GET", "/fleet/status", **FORWARDED, **key) == 403


def test_a_missing_required_key_is_reported_in_each_dialects_format(engine: FakeOllama) -> None:
    with a_fleet(engine, require_key=True) as fleet:
        got, answer, headers = ask(fleet, "POST", "/api/chat", CHAT)
        assert got == 401 and "herd keys add" in answer["error"] and headers["www-authenticate"] == "Bearer"
        assert "herd keys add" in ask(fleet, "POST", "/v1/chat/completions", CHAT)[1]["error"]["message"]
        assert ask(fleet, "POST", "/v1/messages", CHAT)[1]["type"] == "error"


def test_a_revoked_key_is_refused_on_a_connection_that_used_it(fleet: Fleet) -> None:
    key = a_key(fleet, name="gone")
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    for wanted in (200, 401):
        connection.request("GET", "/api/tags", headers=key)
        response = connection.getresponse()
        response.read()
        assert response.status == wanted
        if wanted == 200:
            assert status(fleet, "POST", "/fleet/keys/revoke", {"name": "gone"}) == 200
    connection.close()


def test_an_invalid_herd_key_is_refused_and_a_foreign_token_is_ignored(fleet: Fleet) -> None:
    assert status(fleet, "GET", "/api/tags", Authorization="Bearer herd_wrong_key") == 401
    assert status(fleet, "GET", "/api/tags", Authorization="Bearer ollama") == 200
    assert status(fleet, "GET", "/api/tags", X_Api_Key="sk-none") == 200


def test_a_valid_key_in_one_header_does_not_cover_an_invalid_one(fleet: Fleet) -> None:
    good, other = a_key(fleet, name="a"), a_key(fleet, name="b", scopes=["admin"])
    mixed = {**good, "X-Api-Key": other["Authorization"].removeprefix("Bearer ")}
    assert status(fleet, "POST", "/fleet/nodes/invite", {}, **mixed, **FORWARDED) == 401


def test_a_key_is_limited_to_its_models_also_for_fallbacks(fleet: Fleet) -> None:
    key = a_key(fleet, models=["m"])
    assert status(fleet, "POST", "/api/chat", CHAT, **key) == 200
    assert status(fleet, "POST", "/api/chat", {**CHAT, "model": "other"}, **key) == 403
    assert status(fleet, "POST", "/api/chat", {**CHAT, "fallback_models": ["other"]}, **key) == 403


def test_a_keys_rate_limit_is_enforced_and_reported(fleet: Fleet) -> None:
    key = a_key(fleet, requests_per_minute=2)
    assert [status(fleet, "POST", "/api/chat", CHAT, **key) for _ in range(2)] == [200, 200]
    got, _, headers = ask(fleet, "POST", "/api/chat", CHAT, **key)
    assert got == 429 and int(headers["retry-after"]) > 0


def test_a_keys_concurrency_slot_is_released_when_its_request_ends(fleet: Fleet) -> None:
    key = a_key(fleet, concurrent_max=1)
    assert [status(fleet, "POST", "/api/chat", CHAT, **key) for _ in range(3)] == [200, 200, 200]
    assert [status(fleet, "POST", "/api/chat", {**CHAT, "model": "none"}, **key) for _ in range(3)] == [404, 404, 404]
    assert status(fleet, "POST", "/api/chat", CHAT, **key) == 200


def test_the_tokens_of_a_month_are_counted(fleet: Fleet) -> None:
    key = a_key(fleet, tokens_per_month=1)
    assert [status(fleet, "POST", "/api/chat", CHAT, **key) for _ in range(2)] == [200, 429]


def test_an_unknown_host_name_is_refused(fleet: Fleet) -> None:
    got, answer, _ = ask(fleet, "GET", "/api/tags", Host="evil.example")
    assert got == 421 and "FLEET_ALLOWED_HOSTS" in answer["error"]
    assert status(fleet, "GET", "/api/tags", Host="herd.local:11435") == 200


def test_pages_of_other_origins_are_refused(fleet: Fleet) -> None:
    for method, path, body in (
        ("POST", "/api/chat", CHAT),
        ("GET", "/api/tags", None),
        ("GET", "/fleet/status", None),
        ("POST", "/fleet/nodes/invite", {}),
    ):
        got, _, headers = ask(fleet, method, path, body, **EVIL)
        assert got == 403 and "access-control-allow-origin" not in headers, path


def test_a_local_page_can_chat_but_not_change_state(fleet: Fleet) -> None:
    page = {"Origin": "http://localhost:3000"}
    got, _, headers = ask(fleet, "POST", "/api/chat", CHAT, **page)
    assert (
        got == 200 and headers["access-control-allow-origin"] == "http://localhost:3000" and headers["vary"] == "Origin"
    )
    assert status(fleet, "POST", "/fleet/nodes/invite", {}, **page) == 403
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    got, _, headers = ask(fleet, "OPTIONS", "/api/chat", **page, **preflight)
    assert got == 204 and "POST" in headers["access-control-allow-methods"]
    assert status(fleet, "OPTIONS", "/fleet/nodes/invite", **page, **preflight) == 403
    assert status(fleet, "OPTIONS", "/api/chat", **EVIL, **preflight) == 403


def coded(fleet: Fleet, coding: str, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json", "Content-Encoding": coding, **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer, {name.lower(): value for name, value in response.getheaders()}


CHAT_BYTES = json.dumps(CHAT).encode()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(CHAT_BYTES, mtime=0)),
        ("GZIP", gzip.compress(CHAT_BYTES, mtime=0)),
        ("x-gzip", gzip.compress(CHAT_BYTES, mtime=0)),
        ("identity, gzip", gzip.compress(CHAT_BYTES, mtime=0)),
        ("deflate", zlib.compress(CHAT_BYTES)),
        ("identity", CHAT_BYTES),
        ("", CHAT_BYTES),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_compressed_body_is_answered_like_the_same_body_uncompressed(
    fleet: Fleet, engine: FakeOllama, coding: str, body: bytes, path: str
) -> None:
    got, answer, _ = coded(fleet, coding, body, path)
    assert got == 200, answer


def test_a_compressed_body_works_for_routes_that_are_not_inference(fleet: Fleet) -> None:
    body = gzip.compress(json.dumps({"name": "app"}).encode())
    assert coded(fleet, "gzip", body, "/fleet/keys")[0] == 201


@pytest.mark.parametrize("coding", ["br", "zstd, gzip", "gzip, gzip", "gzip, deflate", "x" * 90])
def test_another_coding_is_refused_in_words(fleet: Fleet, coding: str) -> None:
    got, answer, headers = coded(fleet, coding, CHAT_BYTES)
    assert got == 415 and "gzip, deflate or zstd" in answer["error"]["message"]
    assert headers["accept-encoding"] == "gzip, deflate, zstd"
    got, answer, headers = coded(fleet, coding, CHAT_BYTES, Origin="http://localhost:1")
    assert got == 415 and headers["access-control-allow-origin"] == "http://localhost:1"


def test_a_damaged_compressed_body_is_refused_in_words(fleet: Fleet) -> None:
    for body in (b"{}", gzip.compress(CHAT_BYTES, mtime=0)[:-4]):
        got, answer, _ = coded(fleet, "gzip", body)
        assert got == 400 and ("not valid gzip" in str(answer) or "incomplete" in str(answer))


def test_the_limit_counts_the_unpacked_bytes_and_needs_the_right_first(engine: FakeOllama) -> None:
    settings = replace(settings_for_tests(), http=replace(settings_for_tests().http, body_max_bytes=4096))
    with running_fleet({"alpha": engine}, settings=settings) as fleet:
        bomb = gzip.compress(b"{" + b" " * 10**6)
        got, answer, _ = coded(fleet, "gzip", bomb)
        assert got == 413 and "4096 bytes after unpacking (FLEET_MAX_BODY_BYTES)" in answer["error"]["message"]
        padded = CHAT_BYTES + b" " * (4096 - len(CHAT_BYTES))
        assert coded(fleet, "gzip", gzip.compress(padded, mtime=0))[0] == 200
        assert coded(fleet, "gzip", gzip.compress(padded + b" "))[0] == 413
        assert coded(fleet, "gzip", bomb, **FORWARDED)[0] == 401


def test_an_allowed_origin_is_allowed(engine: FakeOllama) -> None:
    with a_fleet(engine, allowed_origins=("https://chat.example.org",), allowed_hosts=("herd.example.org",)) as fleet:
        assert (
            status(fleet, "POST", "/api/chat", CHAT, Origin="https://chat.example.org", Host="herd.example.org") == 200
        )


def test_a_form_of_the_own_origin_cannot_change_state(fleet: Fleet) -> None:
    ours = {"Origin": f"http://127.0.0.1:{fleet.port}"}
    assert status(fleet, "POST", "/fleet/nodes/invite", {}, **ours) == 200
    assert status(fleet, "POST", "/fleet/nodes/invite", {}, **ours, Content_Type="text/plain") == 415


def test_a_login_link_works_once_and_grants_admin_rights(fleet: Fleet) -> None:
    path = ask(fleet, "POST", "/fleet/logins", {})[1]["path"]
    got, _, headers = ask(fleet, "GET", path, **FORWARDED)
    assert (
        got == 303
        and "httponly" in headers["set-cookie"].lower()
        and "samesite=strict" in headers["set-cookie"].lower()
    )
    cookie = headers["set-cookie"].partition(";")[0]
    assert status(fleet, "GET", "/fleet/status", **FORWARDED, Cookie=cookie) == 200
    assert status(fleet, "GET", path, **FORWARDED) == 400
    assert status(fleet, "POST", "/logout", {}, **FORWARDED, Cookie=cookie) == 200
    assert status(fleet, "GET", "/fleet/status", **FORWARDED, Cookie=cookie) == 401


@pytest.mark.parametrize(
    "cookie", ["herd_session=", "herd_session=x", "=;;;", "herd_session=" + "a" * 5000, 'herd_session="\\', "other=1"]
)
def test_no_other_cookie_grants_rights(fleet: Fleet, cookie: str) -> None:
    assert status(fleet, "GET", "/fleet/status", **FORWARDED, Cookie=cookie) == 401


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"name": "x", "scopes": ["all"]},
        {"name": "x", "scopes": []},
        {"name": "x", "requests_per_minute": -1},
        {"name": "x", "days": -1},
        {"name": "x", "models": ["m"] * 65},
        {},
        [],
    ],
)
def test_a_key_with_invalid_limits_is_refused(fleet: Fleet, wanted: object) -> None:
    assert status(fleet, "POST", "/fleet/keys", wanted) == 400
    assert ask(fleet, "GET", "/fleet/keys")[1]["keys"] == []


def test_the_list_of_keys_shows_no_secret(fleet: Fleet) -> None:
    key = a_key(fleet, scopes=["chat", "read"], models=["llama*"], days=1)
    [row] = ask(fleet, "GET", "/fleet/keys")[1]["keys"]
    assert (
        row["name"] == "app"
        and row["scopes"] == ["chat", "read"]
        and row["models"] == ["llama*"]
        and row["expires_at"] > row["created_at"]
    )
    assert "digest" not in row and key["Authorization"].rpartition("_")[2] not in json.dumps(row)


def test_a_restart_does_not_reset_the_monthly_tokens(engine: FakeOllama, tmp_path: Path) -> None:
    with running_fleet({"alpha": engine}, data_dir=tmp_path) as fleet:
        key = a_key(fleet, tokens_per_month=1)
        assert status(fleet, "POST", "/api/chat", CHAT, **key) == 200
        fleet.settle()
    with running_fleet({"alpha": engine}, data_dir=tmp_path) as fleet:
        assert status(fleet, "POST", "/api/chat", CHAT, **key) == 429
        assert status(fleet, "GET", "/api/tags", **key) == 200


def test_changes_are_in_the_audit_log_with_key_and_address(fleet: Fleet) -> None:
    admin = a_key(fleet, name="boss", scopes=["admin"])
    assert status(fleet, "POST", "/fleet/nodes/invite", {}, **admin) == 200
    assert status(fleet, "POST", "/fleet/keys/revoke", {"name": "boss"}) == 200
    assert fleet.coordinator.store.flush()
    entries = ask(fleet, "GET", "/fleet/audit?limit=2")[1]["entries"]
    assert [(one["what"], one["who"], one["ip"]) for one in entries] == [
        ("revoked a key", "this machine, or a login", "127.0.0.1"),
        ("invited a node", "the key boss", "127.0.0.1"),
    ]
    assert entries[0]["about"].startswith("boss (")
    assert admin["Authorization"].rpartition("_")[2] not in json.dumps(entries)
    assert status(fleet, "GET", "/fleet/audit?limit=x") == 400


def test_usage_is_counted_by_key(fleet: Fleet) -> None:
    key = a_key(fleet)
    assert [status(fleet, "POST", "/api/chat", CHAT, **key) for _ in range(2)] == [200, 200]
    fleet.settle()
    assert fleet.coordinator.store.flush()
    [row] = ask(fleet, "GET", "/dashboard/api/usage")[1]["by_key"]
    assert (row["key_id"], row["request_count"]) == (key["Authorization"].split("_")[1], 2) and row[
        "total_completion_tokens"
    ] > 0


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "nan", "inf", "100000"])
def test_an_invalid_timeout_is_refused(fleet: Fleet, seconds: str) -> None:
    got, answer, _ = ask(fleet, "POST", "/api/chat", CHAT, X_Request_Timeout=seconds)
    assert got == 400 and "X-Request-Timeout" in answer["error"]


def test_a_request_ends_at_its_clients_timeout(fleet: Fleet, engine: FakeOllama) -> None:
    hang = engine.fail(Hang())
    try:
        got, answer, _ = ask(fleet, "POST", "/api/chat", CHAT, X_Request_Timeout="0.1")
    finally:
        hang.release()
        engine.heal()
    assert got == 504 and "deadline" in answer["error"]


MESSAGES = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("header", [{"X_Api_Key": "a-word-of-mine"}, {"Authorization": "Bearer a-word-of-mine"}])
def test_the_configured_anthropic_key_opens_only_anthropics_paths(engine: FakeOllama, header: dict[str, str]) -> None:
    with a_fleet(engine, anthropic_require_key=True, anthropic_api_key="a-word-of-mine") as fleet:
        assert status(fleet, "POST", "/v1/messages", MESSAGES) == 401
        assert status(fleet, "POST", "/v1/messages", MESSAGES, X_Api_Key="a-word-of-yours") == 401
        assert status(fleet, "POST", "/v1/messages", MESSAGES, **header) == 200
        assert status(fleet, "POST", "/v1/messages", MESSAGES, **header, **FORWARDED) == 200
        assert status(fleet, "POST", "/v1/messages/count_tokens", MESSAGES) == 401
        assert status(fleet, "POST", "/api/chat", CHAT) == 200, "local clients need no key"
        for path, body in (("/api/chat", CHAT), ("/v1/chat/completions", CHAT), ("/fleet/keys", {"name": "x"})):
            assert status(fleet, "POST", path, body, **header, **FORWARDED) == 401, path
        assert status(fleet, "POST", "/v1/messages", MESSAGES, **a_key(fleet)) == 200, "a key of ours counts as well"


def test_without_a_configured_key_only_herd_keys_open_anthropics_paths(engine: FakeOllama) -> None:
    with a_fleet(engine, anthropic_require_key=True) as fleet:
        assert status(fleet, "POST", "/v1/messages", MESSAGES) == 401
        assert status(fleet, "POST", "/v1/messages", MESSAGES, X_Api_Key="anything") == 401
        assert status(fleet, "POST", "/v1/messages", MESSAGES, **a_key(fleet)) == 200


def test_a_configured_key_alone_does_not_require_a_key_from_local_clients(engine: FakeOllama) -> None:
    with a_fleet(engine, anthropic_api_key="a-word-of-mine") as fleet:
        assert status(fleet, "POST", "/v1/messages", MESSAGES) == 200
        assert status(fleet, "POST", "/v1/messages", MESSAGES, **FORWARDED) == 401
        assert status(fleet, "POST", "/v1/messages", MESSAGES, X_Api_Key="a-word-of-mine", **FORWARDED) == 200
        assert "a-word-of-mine" not in json.dumps(fleet.get("/fleet/status"))
