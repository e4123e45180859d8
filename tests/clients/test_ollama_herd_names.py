"""Every public name of ollama-herd 0.11.4 works here, or docs/compatibility.md says what is different."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import typer.main

from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.real_ollama_herd import Unavailable, find_or_install
from herd.cli.commands import agent, app
from herd.coordinator.auth.cors import EXPOSED_HEADERS, USUAL_HEADERS

ROOT = Path(__file__).resolve().parents[2]
NAMES = (ROOT / "tests/protocol_samples/ollama_herd/names.txt").read_text("utf-8").splitlines()
PAGE = (ROOT / "docs/compatibility.md").read_text("utf-8")
ROWS = PAGE.partition("## What ollama-herd")[2].partition("\n## ")[0].splitlines()
EXPLAINED = {name for row in ROWS if row.startswith("| ") for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
COORDINATOR = re.compile(r"http://(?:router-ip|localhost):11435")
CURL_LIMIT_S = 60
ROUTES = [name.removeprefix("route ") for name in NAMES if name.startswith("route ")]
OPTIONS = [name.removeprefix("option ") for name in NAMES if name.startswith("option ")]
HEADERS = [name.removeprefix("header ") for name in NAMES if name.startswith("header ")]
MODELS = ("llama3.2:3b", "qwen2.5:7b")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    models = [FakeModel(name=name) for name in MODELS]
    embedding = FakeModel(name="nomic-embed-text", capabilities=("embedding",))
    with (
        FakeOllama([*models, embedding]) as node,
        running_fleet({"alpha": node}, settings=settings_of_steady_nodes()) as running,
    ):
        yield running


def is_named(name: str) -> bool:
    """Whether the page says what is different about this name."""
    return name in EXPLAINED


def test_the_lists_are_complete() -> None:
    assert (len(ROUTES), len(HEADERS)) == (81, 18) and len(OPTIONS) >= 20


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_served_or_explained(fleet: Fleet, route: str) -> None:
    method, path = route.split(" ")
    path = re.sub(r"\{[^}]*\}", "x", path)
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(method, path, b"{}" if method == "POST" else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if path == "/dashboard/events":
            assert response.status == 200
            return
        body = response.read()
    is_missing = response.status in (405, 501) or b"404 page not found" in body or b"path not found" in body
    is_missing = is_missing or (response.status == 404 and path.startswith(("/docs", "/redoc", "/favicon")))
    assert is_missing == is_named(route), (response.status, body[:200])


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_is_written_or_read_or_explained(header: str) -> None:
    known = (EXPOSED_HEADERS + b", " + USUAL_HEADERS).decode().lower().split(", ")
    assert (header.lower() in known) != is_named(header)


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_exists_or_is_explained(option: str) -> None:
    program, name = option.split(" ")
    if not name.startswith("-"):
        assert name not in typer.main.get_command(app).commands and is_named(option)  # type: ignore[attr-defined]
        return
    command = typer.main.get_command(app if program == "herd" else agent)
    exists = any(name in parameter.opts for parameter in command.params)
    assert exists != (is_named(name) or is_named(option)), name


# --- the examples ---


def curl_commands(text: str) -> list[str]:
    """The curl commands in the code of a Markdown page; a command ends where its quotes are closed."""
    found: list[str] = []
    begun = ""
    for line in text.splitlines():
        if not begun and not line.strip().startswith("curl "):
            continue
        begun += line.strip() + "\n"
        try:
            shlex.split(begun)
        except ValueError:
            continue
        if not begun.endswith("\\\n"):
            found.append(begun.replace("\\\n", " "))
            begun = ""
    assert not begun, f"a curl command has no end: {begun}"
    return found


def ran(fleet: Fleet, command: str, folder: Path) -> tuple[int, str]:
    """The status and the body of the answer to a curl command, sent to this fleet."""
    (folder / "meeting.wav").write_bytes(b"RIFF")
    curl = shutil.which("curl")
    assert curl is not None
    words = shlex.split(COORDINATOR.sub(fleet.url, command))[1:]
    arguments = [curl, "--silent", "--max-time", str(CURL_LIMIT_S), "--write-out", "\n%{http_code}", *words]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=CURL_LIMIT_S, cwd=folder, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_each_curl_command_of_the_page_is_answered_in_order(fleet: Fleet, tmp_path: Path) -> None:
    commands = curl_commands(PAGE)
    assert len(commands) >= 15
    for command in commands:
        status, body = ran(fleet, command, tmp_path)
        assert status == 200, f"{command}: {body}"


def readme_of_ollama_herd() -> str:
    try:
        programs = find_or_install()
    except Unavailable as why:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(why))
        pytest.skip(str(why))
    [metadata] = programs.parent.glob("lib/python*/site-packages/ollama_herd-*.dist-info/METADATA")
    return metadata.read_text("utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_each_curl_command_of_its_readme_is_answered_or_explained(fleet: Fleet, tmp_path: Path) -> None:
    commands = curl_commands(readme_of_ollama_herd())
    assert len(commands) >= 5
    for command in commands:
        status, body = ran(fleet, command, tmp_path)
        path = shlex.split(command)
        address = next(word for word in path if "11435" in word).partition("11435")[2]
        if is_named(f"POST {address}"):
            assert status == 404, command
        else:
            assert status == 200, f"{command}: {body}"


def test_explained_routes_say_why(fleet: Fleet) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        for path, reason in (("/api/transcribe", b"not transcribed"), ("/v1/rerank", b"not ranked")):
            connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
            assert reason in connection.getresponse().read()
