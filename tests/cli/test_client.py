"""What people write as an address, and what they are told when nobody, or somebody else, answers there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fakes.child import free_port
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
def test_an_address_may_be_written_in_many_ways(written: str, url: str) -> None:
    assert coordinator_at(written).url == url


@pytest.mark.parametrize("written", ["", "http://", "box:port", "box:99999", "ftp://box", "http://[::1"])
def test_what_is_no_address_is_told_with_how_to_write_one(written: str) -> None:
    with pytest.raises(CliError) as told:
        coordinator_at(written)
    assert "--url http://HOST:11435" in told.value.remedy


def test_nobody_there_is_told_with_the_command_that_starts_one() -> None:
    with pytest.raises(NotReached, match="no coordinator answers at") as told:
        CoordinatorClient(f"http://127.0.0.1:{free_port()}").get("/fleet/status")
    assert "start it with: herd" in told.value.remedy


def test_each_failure_of_the_network_is_told_in_its_own_words() -> None:
    told = [
        not_reached("http://box:1", error).problem
        for error in (socket.gaierror(), TimeoutError(), ConnectionResetError(104, "reset"))
    ]
    assert (
        told[0].startswith("there is no machine called box")
        and told[1].endswith("does not answer")
        and "reset" in told[2]
    )


def test_one_that_takes_connections_and_says_nothing_is_not_waited_for_for_ever() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(NotReached, match="does not answer"):
            CoordinatorClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05).get("/fleet/status")


def test_another_program_on_the_port_is_not_taken_for_a_coordinator() -> None:
    with FakeOllama(["m"]) as ollama, pytest.raises(NotReached, match="is no herd coordinator"):
        CoordinatorClient(ollama.url).get("/fleet/status")


def test_garbage_is_no_coordinator_either() -> None:
    with FakeOllama(["m"]) as broken:
        broken.fail(Garbage())
        with pytest.raises(NotReached):
            CoordinatorClient(broken.url).get("/fleet/status")


def test_a_refused_request_points_to_the_record_of_it(fleet: Fleet) -> None:
    with pytest.raises(CliError, match="model 'nope' not found") as told:
        CoordinatorClient(fleet.url).post("/api/chat", {"model": "nope", "messages": []})
    assert told.value.remedy.startswith("see which nodes were considered: herd why r")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_the_words_of_an_error_are_found_in_every_dialect(fleet: Fleet, path: str) -> None:
    with pytest.raises(CliError) as told:
        CoordinatorClient(fleet.url).post(
            path, {"model": "nope", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        )
    assert told.value.problem.startswith("model 'nope' not found")


def test_a_streamed_answer_comes_line_by_line_with_its_headers(fleet: Fleet) -> None:
    told = list(
        CoordinatorClient(fleet.url).lines("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]})
    )
    assert len(told) > 2 and {headers["x-fleet-node"] for headers, _ in told} == {"alpha"}
