"""The program that occupies the coordinator's port is named, with what to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fakes.child_process import free_port
from fakes.fleet import running_fleet
from fakes.ollama.server import FakeOllama
from herd.cli.starting.occupied_port import port_in_use


@contextmanager
def answering(answers: dict[str, bytes]) -> Iterator[int]:
    """A server that sends these bytes for each path, and nothing for others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                with connection:
                    path = connection.recv(4096).split(b" ", 2)[1].decode()
                    connection.sendall(answers.get(path, b""))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_our_own_coordinator_is_named() -> None:
    with running_fleet({}) as fleet:
        error = port_in_use(fleet.port)
    assert error.problem == f"a coordinator already listens on port {fleet.port}"
    assert f"herd --port {fleet.port + 1} --data-dir FOLDER" in error.remedy


def test_the_router_of_ollama_herd_is_named() -> None:
    with answering({"/fleet/limits": ok(b'{"max_retries": 2, "hot_model_cap": 3, "nodes": []}')}) as port:
        error = port_in_use(port)
    assert error.problem == f"port {port} is in use by the router of ollama-herd"
    assert "used unchanged" in error.remedy


def test_an_ollama_that_was_moved_there_is_named_with_the_commands_for_it() -> None:
    with FakeOllama(["m"]) as fake:
        error = port_in_use(fake.port)
    assert error.problem == f"port {fake.port} is in use by an Ollama"
    assert f"--ollama-host http://127.0.0.1:{fake.port}" in error.remedy
    assert f"herd --port {fake.port + 1}" in error.remedy


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", ok(b"[]"), ok(b"{"), b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]
)
def test_any_other_program_is_another_program(answer: bytes) -> None:
    with answering(dict.fromkeys(("/", "/fleet/limits"), answer)) as port:
        assert port_in_use(port).problem == f"port {port} is in use by another program"


def test_a_port_without_a_server_is_another_program() -> None:
    assert "by another program" in port_in_use(free_port()).problem
