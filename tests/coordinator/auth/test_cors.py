"""Tests the CORS headers: what a browser's page may send, and what it may read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from access_fixtures import CHAT, EVIL, a_fleet, ask, status
from fakes.fleet import Fleet
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.cors import EXPOSED_HEADERS, USUAL_HEADERS

ROOT = Path(__file__).resolve().parents[3]

SDK_HEADERS = (
    "accept,anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,content-type,"
    "openai-beta,openai-organization,x-api-key,x-stainless-arch,x-stainless-helper-method,x-stainless-lang,"
    "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-some-new-header"
)


def preflight(fleet: Fleet, path: str, headers: str, **more: str) -> tuple[int, dict[str, str]]:
    got, _, answered = ask(
        fleet,
        "OPTIONS",
        path,
        Origin="http://localhost:5173",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers=headers,
        **more,
    )
    return got, answered


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat"])
def test_an_allowed_page_may_send_whatever_headers_its_sdk_wants(fleet: Fleet, path: str) -> None:
    got, headers = preflight(fleet, path, SDK_HEADERS)
    assert got == 204
    assert set(headers["access-control-allow-headers"].split(",")) == set(SDK_HEADERS.split(","))
    assert {"GET", "POST", "PATCH", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-max-age"] == "43200" and headers["access-control-allow-origin"]
    assert "Access-Control-Request-Headers" in headers["vary"]
    assert "access-control-allow-private-network" not in headers
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("asked", ["a b", 'x"', "x;y", "x,,y", ",", "*/*", "x" * 5000])
def test_header_names_that_are_none_are_not_repeated(fleet: Fleet, asked: str) -> None:
    got, headers = preflight(fleet, "/api/chat", asked)
    assert got == 204 and headers["access-control-allow-headers"] == USUAL_HEADERS.decode()


def test_an_allowed_page_of_a_more_public_network_is_let_through(fleet: Fleet) -> None:
    got, headers = preflight(fleet, "/api/chat", "content-type", Access_Control_Request_Private_Network="true")
    assert got == 204 and headers["access-control-allow-private-network"] == "true"
    got, _, headers = ask(
        fleet,
        "OPTIONS",
        "/api/chat",
        **EVIL,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Private_Network="true",
    )
    assert got == 403 and "access-control-allow-private-network" not in headers


def test_an_allowed_page_can_read_answers_and_errors_with_their_headers(fleet: Fleet) -> None:
    page = {"Origin": "app://obsidian.md"}
    bad = {"model": "none", "messages": []}
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/chat/completions", bad), ("/v1/nothing", {})):
        _, _, headers = ask(fleet, "POST", path, body, **page)
        exposed = headers["access-control-expose-headers"].lower().split(", ")
        assert headers["access-control-allow-origin"] == "app://obsidian.md", path
        assert {name for name in headers if name.startswith("x-fleet-")} <= set(exposed), path
        assert {"x-request-id", "request-id", "x-fleet-ignored", "retry-after"} <= set(exposed), path


def test_every_documented_header_of_answers_can_be_read_by_a_page() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `X-Fleet-")]
    documented = {name for row in rows for name in re.findall(r"`(X-Fleet-[\w-]+)`", row)}
    assert "X-Fleet-Node" in documented and documented <= set(EXPOSED_HEADERS.decode().split(", "))


def test_a_pattern_lets_pages_use_models_but_neither_read_nor_change_state(engine: FakeOllama) -> None:
    with a_fleet(engine, allowed_origins=("chrome-extension://*", "null")) as fleet:
        for origin in ("chrome-extension://abcdef", "null"):
            assert status(fleet, "POST", "/api/chat", CHAT, Origin=origin) == 200
            assert status(fleet, "GET", "/", Origin=origin) == 200
            assert status(fleet, "GET", "/fleet/status", Origin=origin) == 403
            assert status(fleet, "POST", "/fleet/nodes/invite", {}, Origin=origin) == 403
            asked = {"Access_Control_Request_Method": "POST"}
            assert status(fleet, "OPTIONS", "/v1/messages", Origin=origin, **asked) == 204
            assert status(fleet, "OPTIONS", "/fleet/nodes/invite", Origin=origin, **asked) == 403
