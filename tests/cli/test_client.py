"""Tests of coordinator URLs, and of the errors when nothing or another program answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fakes.child_process import free_port
from fakes.faults import Garbage
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.cli.client import CliError, CoordinatorClient, NotReached, coordinator_at, not_reached


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}) as running:
        yield running


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("box", "http://box:11435"),
        ("box:80", "http://box:80"),
        ("localhost:11435", "http://localhost:11435"),
        ("http://10.0.0.1:11435/v1", "http://10.0.0.1:11435"),
        ("https://herd.example.org", "https://herd.example.org:443"),
        ("http://[::1]:11435", "http://[::1]:11435"),
        ("[::1]", "http://[::1]:11435"),
        ("HTTP://Box/", "http://box:11435"),
    ],
)
def test_a_coordinator_url_may_be_abbreviated(written: str, url: str) -> None:
    assert coordinator_at(written).url == url


@pytest.mark.parametrize("written", ["", "http://", "box:port", "box:99999", "ftp://box", "http://[::1"])
def test_an_invalid_url_is_reported_with_the_valid_form(written: str) -> None:
    with pytest.raises(CliError) as raised:
        coordinator_at(written)
    assert "--url http://HOST:PORT" in raised.value.remedy


def test_a_missing_coordinator_is_reported_with_the_command_that_starts_one() -> None:
    with pytest.raises(NotReached, match="no coordinator answers at") as raised:
        CoordinatorClient(f"http://127.0.0.1:{free_port()}").get("/fleet/status")
    assert "start it with: herd" in raised.value.remedy


def test_each_network_error_has_its_own_message() -> None:
    messages = [
        not_reached("http://box:1", error).problem
        for error in (socket.gaierror(), TimeoutError(), ConnectionResetError(104, "reset"))
    ]
    assert (
        messages[0] == "the host name box cannot be resolved"
        and messages[1].endswith("does not answer")
        and "reset" in messages[2]
    )


def test_a_silent_server_causes_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(NotReached, match="does not answer"):
            CoordinatorClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05).get("/fleet/status")


def test_another_program_on_the_port_is_recognized() -> None:
    with FakeOllama(["m"]) as ollama, pytest.raises(NotReached, match="is not a herd coordinator"):
        CoordinatorClient(ollama.url).get("/fleet/status")


def test_an_invalid_http_answer_is_reported() -> None:
    with FakeOllama(["m"]) as broken:
        broken.fail(Garbage())
        with pytest.raises(NotReached):
            CoordinatorClient(broken.url).get("/fleet/status")


def test_a_refused_request_is_reported_with_the_command_that_explains_it(fleet: Fleet) -> None:
    with pytest.raises(CliError, match="model 'nope' not found") as raised:
        CoordinatorClient(fleet.url).post("/api/chat", {"model": "nope", "messages": []})
    assert raised.value.remedy.startswith("for the routing decision run: herd why r")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_the_error_message_is_found_in_the_format_of_every_api(fleet: Fleet, path: str) -> None:
    with pytest.raises(CliError) as raised:
        CoordinatorClient(fleet.url).post(
            path, {"model": "nope", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        )
    assert raised.value.problem.startswith("model 'nope' not found")


def test_a_streamed_answer_is_returned_line_by_line_with_its_headers(fleet: Fleet) -> None:
    lines = list(
        CoordinatorClient(fleet.url).lines("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]})
    )
    assert len(lines) > 2 and {headers["x-fleet-node"] for headers, _ in lines} == {"alpha"}
