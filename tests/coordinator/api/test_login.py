"""Tests the login page and the sessions that it opens."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from herd.coordinator.api.login import FORM_MAX_BYTES
from herd.coordinator.auth.access_control import AccessSettings
from herd.trust import logins

FORWARDED = {"X-Forwarded-For": "203.0.113.9"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", **FORWARDED}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), access=AccessSettings(require_key=True))
    with running_fleet({}, settings=settings) as running:
        yield running


def ask(
    fleet: Fleet, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    header_map = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, header_map)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, {name.lower(): value for name, value in response.getheaders()}


def a_key(fleet: Fleet, *scopes: str) -> str:
    wanted = '{"name": "ann", "scopes": [' + ", ".join(f'"{scope}"' for scope in scopes) + "]}"
    status, text, _ = ask(fleet, "POST", "/fleet/keys", wanted)
    assert status == 201
    return text.partition('"key":"')[2].partition('"')[0]


def enter(fleet: Fleet, key: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    return ask(fleet, "POST", "/login", f"key={quote(key)}", **{**FORM, "Origin": fleet.url, **headers})


def session_in(headers: dict[str, str]) -> str:
    return headers["set-cookie"].partition(";")[0]


def test_the_login_page_needs_no_key_and_has_no_script(fleet: Fleet) -> None:
    status, text, headers = ask(fleet, "GET", "/login", **FORWARDED)
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert '<form method="post" action="/login">' in text and "<script" not in text and "$" not in text
    policy = headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy
        and "form-action 'self'" in policy
        and "unsafe" not in policy
        and "'sha256-" in policy
    )
    assert headers["cache-control"] == "no-store"
    assert len(text) < 4096


def test_a_key_opens_a_session_with_the_rights_of_the_key(fleet: Fleet) -> None:
    status, _, headers = enter(fleet, a_key(fleet, "read"))
    assert (status, headers["location"]) == (303, "/dashboard")
    assert "httponly" in headers["set-cookie"].lower() and "samesite=strict" in headers["set-cookie"].lower()
    cookie = session_in(headers)
    assert ask(fleet, "GET", "/fleet/status", **FORWARDED, Cookie=cookie)[0] == 200
    assert ask(fleet, "GET", "/fleet/keys", **FORWARDED, Cookie=cookie)[0] == 403
    assert (
        ask(fleet, "POST", "/fleet/nodes/invite", "{}", **FORWARDED, Cookie=cookie, Content_Type="application/json")[0]
        == 403
    )


def test_a_session_of_an_admin_key_ends_when_the_key_is_revoked(fleet: Fleet) -> None:
    cookie = session_in(enter(fleet, a_key(fleet, "admin"))[2])
    assert ask(fleet, "GET", "/fleet/keys", **FORWARDED, Cookie=cookie)[0] == 200
    ask(fleet, "POST", "/fleet/keys/revoke", '{"name": "ann"}')
    assert ask(fleet, "GET", "/fleet/keys", **FORWARDED, Cookie=cookie)[0] == 401
    assert ask(fleet, "POST", "/logout", "{}", **FORWARDED, Cookie=cookie, Content_Type="application/json")[0] == 200


def test_a_session_ends_at_logout(fleet: Fleet) -> None:
    cookie = session_in(enter(fleet, a_key(fleet, "read"))[2])
    assert ask(fleet, "POST", "/logout", "{}", **FORWARDED, Cookie=cookie, Content_Type="application/json")[0] == 200
    assert ask(fleet, "GET", "/fleet/status", **FORWARDED, Cookie=cookie)[0] == 401


@pytest.mark.parametrize("key", ["wrong", "herd_aaaaaaaa_bbbb", "<script>alert(1)</script>", "$message"])
def test_a_wrong_key_is_refused_and_not_repeated(fleet: Fleet, key: str) -> None:
    status, text, headers = enter(fleet, key)
    assert status == 401 and "unknown, expired or revoked" in text and "set-cookie" not in headers
    assert key not in text and "<form" in text


@pytest.mark.parametrize(
    "body", ["", "key=", "other=1", "key=a&key=b", "key=" + "a" * FORM_MAX_BYTES, "&" * 50, "\udcff"]
)
def test_a_form_without_a_key_is_refused(fleet: Fleet, body: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", "/login", body.encode("utf-8", "surrogateescape"), FORM)
    response = connection.getresponse()
    assert response.status == 400 and b"contains no key" in response.read()
    connection.close()


def test_after_ten_wrong_keys_the_address_must_wait_even_with_the_right_one(fleet: Fleet) -> None:
    key = a_key(fleet, "read")
    for _ in range(logins.TRIES_MAX):
        assert enter(fleet, "wrong")[0] == 401
    status, text, headers = enter(fleet, key)
    assert status == 429 and 0 < int(headers["retry-after"]) <= 60 and "Too many wrong keys" in text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
def test_no_other_origin_can_log_a_browser_in(fleet: Fleet, origin: str) -> None:
    assert enter(fleet, a_key(fleet, "read"), Origin=origin)[0] == 403


def test_a_browser_without_a_session_is_redirected_to_the_login_page(fleet: Fleet) -> None:
    status, _, headers = ask(fleet, "GET", "/dashboard", **FORWARDED, Accept="text/html,*/*;q=0.8")
    assert (status, headers["location"]) == (303, "/login")
    assert ask(fleet, "GET", "/dashboard", **FORWARDED)[0] == 401


def test_a_login_is_in_the_audit_without_the_key(fleet: Fleet) -> None:
    key = a_key(fleet, "read")
    enter(fleet, key)
    fleet.coordinator.store.flush()
    entries = fleet.get("/fleet/audit")["entries"]
    assert entries[0]["what"] == "logged in with a key" and entries[0]["about"].startswith("ann (")
    assert key not in str(entries)
