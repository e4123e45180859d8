"""Tests creating models, uploading their files and pushing them through the coordinator."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import random
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from access_fixtures import FORWARDED
from fakes.faults import Cut, How
from fakes.fleet import Fleet, Machine, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.http1.http_settings import HttpSettings
from herd.http1.streamed_body import WINDOW_BYTES

FILE = b"weights " * 1000
DIGEST = f"sha256:{hashlib.sha256(FILE).hexdigest()}"


@contextmanager
def two(settings: Any = None) -> Iterator[tuple[Fleet, FakeOllama, FakeOllama]]:
    """`two` has more memory than `one`, and the model `n` that `one` lacks."""
    machines = {"one": Machine(memory_gb=16.0), "two": Machine(memory_gb=64.0)}
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m", "n"]) as other,
        running_fleet({"one": one, "two": other}, machines, settings) as fleet,
    ):
        yield fleet, one, other


def call(fleet: Fleet, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """An answer of JSON lines becomes a list."""
    content: Any = body if isinstance(body, bytes) or body is None or hasattr(body, "__next__") else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        chunked = hasattr(content, "__next__")
        connection.request(
            method, path, content, {"Content-Type": "application/json"} | headers, encode_chunked=chunked
        )
        response = connection.getresponse()
        lines = [json.loads(line) for line in response.read().splitlines()]
        return response.status, lines[0] if len(lines) == 1 else lines or None


def names(fleet: Fleet) -> dict[str, list[str]]:
    return {entry["name"]: entry["details"]["fleet_nodes"] for entry in call(fleet, "GET", "/api/tags")[1]["models"]}


def test_a_model_is_created_from_another_where_that_is_and_listed_at_once() -> None:
    with two() as (fleet, one, other):
        status, lines = call(
            fleet, "POST", "/api/create", {"model": "mine", "from": "n", "parameters": {"num_ctx": 64}}
        )
        assert status == 200 and lines[-1] == {"status": "success"} and len(lines) > 1
        assert "mine:latest" in other.models and "mine:latest" not in one.models
        assert names(fleet)["mine:latest"] == ["two"]
        body = {"model": "whole", "from": "n", "stream": False}
        assert call(fleet, "POST", "/api/create", body) == (200, {"status": "success"})


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "../x", "from": "m"}, 400, "invalid model name"),
        ({}, 400, "model is required"),
        ({"model": "x", "files": {"a": "sha256:short"}}, 400, "invalid digest format"),
        *(
            ({"model": "x", "from": path}, 400, "invalid model name")
            for path in ("./missing.gguf", "/nowhere/x.gguf", "../x", "~/x.gguf", "C:\\x.gguf", "a b", "x.gguf/")
        ),
        ({"model": "x", "from": "evil.host/a/b"}, 403, "registry evil.host is not allowed"),
        (b"[", 400, "the request body is invalid"),
    ],
)
def test_an_invalid_creation_is_answered_as_by_the_engine(body: object, status: int, error: str) -> None:
    with two() as (fleet, *_):
        found, answer = call(fleet, "POST", "/api/create", body)
        assert found == status and answer["error"].startswith(error)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_files_go_to_one_node_and_the_model_is_created_there(is_chunked: bool) -> None:
    with two() as (fleet, one, other):
        path = f"/api/blobs/{DIGEST}"
        assert call(fleet, "HEAD", path)[0] == 404
        content = iter([FILE[:5000], FILE[5000:]]) if is_chunked else FILE
        assert call(fleet, "POST", path, content) == (201, None)
        assert other.blobs[DIGEST] == FILE and not one.blobs
        assert call(fleet, "HEAD", path)[0] == 200
        body = {"model": "mine", "files": {"a.gguf": DIGEST}}
        assert call(fleet, "POST", "/api/create", body)[1][-1] == {"status": "success"}
        assert names(fleet)["mine:latest"] == ["two"]


def test_the_head_and_the_creation_find_a_file_that_one_node_has_already() -> None:
    with two() as (fleet, one, _):
        one.blobs[DIGEST] = FILE
        body = {"model": "mine", "files": {"a.gguf": DIGEST}}
        assert call(fleet, "POST", "/api/create", body)[0] == 200
        assert names(fleet)["mine:latest"] == ["one"]
        assert call(fleet, "HEAD", f"/api/blobs/{DIGEST}")[0] == 200
        second = b"second"
        digest = f"sha256:{hashlib.sha256(second).hexdigest()}"
        assert call(fleet, "POST", f"/api/blobs/{digest}", second)[0] == 201
        assert digest in one.blobs, "all files of one client go to one node"


def test_files_on_a_node_without_the_base_model_are_a_clear_error() -> None:
    with two() as (fleet, one, _):
        one.blobs[DIGEST] = FILE
        status, answer = call(fleet, "POST", "/api/create", {"model": "x", "from": "n", "adapters": {"a": DIGEST}})
        assert status == 409 and answer["error"].endswith("herd pull n --node one")


def test_a_large_upload_is_never_in_memory_as_a_whole() -> None:
    piece = b"x" * (64 << 10)
    count = 10 * WINDOW_BYTES // len(piece)
    digest = f"sha256:{hashlib.sha256(piece * count).hexdigest()}"
    settings = replace(settings_for_tests(), http=HttpSettings(body_max_bytes=1 << 20))
    with two(settings) as (fleet, _, other):
        assert call(fleet, "POST", f"/api/blobs/{digest}", iter([piece] * count))[0] == 201
        assert len(other.blobs[digest]) == len(piece) * count > 1 << 20
        assert call(fleet, "POST", "/api/create", b"x" * (2 << 20))[0] == 413, "other bodies keep their limit"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_upload_has_a_limit(is_chunked: bool) -> None:
    settings = replace(settings_for_tests(), http=HttpSettings(streamed_body_max_bytes=4000))
    with two(settings) as (fleet, one, other):
        content = iter([FILE]) if is_chunked else FILE
        status, answer = call(fleet, "POST", f"/api/blobs/{DIGEST}", content)
        assert status in (400, 413) and answer["error"] == "the request body is over 4000 bytes"
        assert not one.blobs and not other.blobs


@pytest.mark.parametrize("size", [10, 8 * WINDOW_BYTES])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_compressed_file_is_refused_whatever_its_size(coding: str, size: int) -> None:
    """Unpacked it had another length than announced: its last bytes reached the node as another request."""
    file = random.Random(1).randbytes(size)
    digest = f"sha256:{hashlib.sha256(file).hexdigest()}"
    with two() as (fleet, one, other):
        packed = zlib.compress(file) if coding == "deflate" else gzip.compress(file, mtime=0)
        status, answer = call(fleet, "POST", f"/api/blobs/{digest}", packed, **{"Content-Encoding": coding})
        assert status == 415 and "uncompressed" in answer["error"]
        assert not [seen.path for seen in (*one.requests, *other.requests) if seen.path.startswith("/api/blobs")]


@pytest.mark.parametrize("path", [f"//api/blobs/{DIGEST}", f"/ollama/api/blobs/{DIGEST}", f"/API/blobs/{DIGEST}"])
def test_a_sloppy_path_has_the_rights_of_the_right_one_and_the_limit_of_other_bodies(path: str) -> None:
    settings = replace(settings_for_tests(), http=HttpSettings(body_max_bytes=len(FILE)))
    with two(settings) as (fleet, one, other):
        assert call(fleet, "POST", path, FILE, **FORWARDED)[0] == 401
        assert call(fleet, "POST", path, FILE + b"x")[0] == 413
        assert not one.blobs and not other.blobs
        assert call(fleet, "POST", path, FILE)[0] == 201
        assert other.blobs[DIGEST] == FILE


def test_a_slow_upload_is_refused_and_frees_its_connection() -> None:
    settings = replace(settings_for_tests(), http=HttpSettings(body_grace_s=0.1, body_min_bytes_per_s=10**9))
    with two(settings) as (fleet, *_), closing(socket.create_connection(("127.0.0.1", fleet.port), 30)) as sock:
        head = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(FILE)}\r\n\r\n"
        sock.sendall(head.encode() + FILE[:10])
        received = b""
        while piece := sock.recv(1 << 16):
            received += piece
        assert received.startswith(b"HTTP/1.1 4") and b"too slowly" in received


def test_a_wrong_digest_is_refused_by_the_engine_and_an_invalid_one_before_it() -> None:
    with two() as (fleet, *_):
        status, answer = call(fleet, "POST", f"/api/blobs/sha256:{'0' * 64}", FILE)
        assert status == 400 and answer["error"].startswith("digest mismatch")
        assert call(fleet, "POST", "/api/blobs/xyz", FILE)[0] == 400
        assert call(fleet, "HEAD", "/api/blobs/xyz")[0] == 400


def test_a_node_that_dies_during_the_upload_is_named() -> None:
    with two() as (fleet, _, other):
        other.fail(Cut(how=How.RESET, path=f"/api/blobs/{DIGEST}"))
        status, answer = call(fleet, "POST", f"/api/blobs/{DIGEST}", FILE)
        other.heal()
        assert status == 502 and answer["error"].startswith("two: the upload was interrupted")


def test_a_client_that_disconnects_ends_the_upload() -> None:
    with two() as (fleet, _, other):
        with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
            connection.putrequest("POST", f"/api/blobs/{DIGEST}")
            connection.putheader("Content-Length", str(len(FILE)))
            connection.endheaders(FILE[:100])
        assert call(fleet, "POST", f"/api/blobs/{DIGEST}", FILE)[0] == 201
        assert other.blobs[DIGEST] == FILE


def test_a_push_is_forwarded_to_a_node_with_the_model_and_its_error_is_the_engines() -> None:
    with two() as (fleet, *_):
        status, lines = call(fleet, "POST", "/api/push", {"model": "n"})
        assert status == 200 and lines[0] == {"status": "retrieving manifest"} and "no such host" in lines[-1]["error"]
        status, answer = call(fleet, "POST", "/api/push", {"model": "n", "stream": False})
        assert status == 500 and "no such host" in answer["error"]
        assert call(fleet, "POST", "/api/push", {"model": "nn"})[1]["error"].startswith("model 'nn' not found")


def test_the_accounts_of_nodes_are_not_for_clients() -> None:
    with two() as (fleet, *_):
        for path in ("/api/me", "/api/signout"):
            status, answer = call(fleet, "POST", path, b"")
            assert status == 501 and "on the node that has the model" in answer["error"]


def test_changes_are_audited() -> None:
    with two() as (fleet, *_):
        call(fleet, "POST", f"/api/blobs/{DIGEST}", FILE)
        call(fleet, "POST", "/api/create", {"model": "mine", "from": "m"})
        call(fleet, "POST", "/api/push", {"model": "mine"})
        assert fleet.coordinator.store.flush()
        done = [entry["what"] for entry in call(fleet, "GET", "/fleet/audit")[1]["entries"]]
        assert sorted(done) == ["create", "push", "upload"]


def test_without_an_ollama_the_error_says_what_is_needed() -> None:
    with running_fleet({}) as fleet:
        for path, body in ((f"/api/blobs/{DIGEST}", FILE), ("/api/create", {"model": "x", "files": {"a": DIGEST}})):
            status, answer = call(fleet, "POST", path, body)
            assert status == 503 and answer["error"].startswith("no online node has an Ollama")
