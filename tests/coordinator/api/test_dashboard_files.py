"""Tests the dashboard's files as a browser requests them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from herd.coordinator.api.dashboard_files import DashboardFiles
from herd.trust.rights import Right

SCRIPT = b"console.log('herd');" * 50
PAGE = b"<!doctype html><p>herd</p>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_bytes(PAGE)
    (tmp_path / "assets" / "index-1a2b.js").write_bytes(SCRIPT)
    (tmp_path / "assets" / "index-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT))
    return tmp_path


def get(folder: Path, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One GET request, sent to the application directly."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": raw,
    }
    asyncio.run(Starlette(routes=DashboardFiles(folder).routes)(scope, receive, send))
    header_map = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], header_map, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    "page",
    [
        "",
        "/trends",
        "/models",
        "/apps",
        "/benchmarks",
        "/health",
        "/recommendations",
        "/settings",
        "/playground",
        "/requests/r1a2b3-40",
    ],
)
def test_every_documented_path_returns_the_page(folder: Path, page: str) -> None:
    status, headers, body = get(folder, f"/dashboard{page}")
    assert (status, body, headers["content-type"]) == (200, PAGE, "text/html; charset=utf-8")


def test_the_policy_allows_only_own_resources_and_no_frames(folder: Path) -> None:
    _, headers, _ = get(folder, "/dashboard")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


def test_the_page_is_revalidated_and_answered_304_if_unchanged(folder: Path) -> None:
    _, headers, _ = get(folder, "/dashboard")
    assert headers["cache-control"] == "no-cache"
    status, _, body = get(folder, "/dashboard", if_none_match=headers["etag"])
    assert (status, body) == (304, b"")
    (folder / "index.html").write_bytes(PAGE + b"!")
    assert get(folder, "/dashboard", if_none_match=headers["etag"])[0] == 200


def test_an_asset_is_cached_forever_and_sent_compressed(folder: Path) -> None:
    status, headers, body = get(folder, "/dashboard/assets/index-1a2b.js", accept_encoding="br, gzip")
    assert status == 200 and gzip.decompress(body) == SCRIPT and headers["content-encoding"] == "gzip"
    assert "immutable" in headers["cache-control"] and headers["vary"] == "Accept-Encoding"
    status, headers, body = get(folder, "/dashboard/assets/index-1a2b.js")
    assert body == SCRIPT and "content-encoding" not in headers


def test_no_path_leads_out_of_the_folder(folder: Path) -> None:
    (folder / "assets" / "secret.txt").write_text("s")
    for name in ("secret.txt", "../index.html", "..%2findex.html", "index-1a2b.js.gz", "gone.js"):
        assert get(folder, f"/dashboard/assets/{name}")[0] == 404


def test_without_pages_the_answer_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "missing.txt").write_text("the npm registry cannot be reached")
    status, _, body = get(tmp_path, "/dashboard")
    assert status == 404 and b"the npm registry cannot be reached" in body
    assert b"install a released wheel" in get(tmp_path / "nowhere", "/dashboard/health")[2]


def test_the_pages_need_no_key_unless_keys_are_required(folder: Path) -> None:
    assert {route.right for route in DashboardFiles(folder).routes} == {Right.PAGE}
