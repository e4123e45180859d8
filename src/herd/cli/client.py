"""How the terminal talks to a coordinator: plain HTTP from the standard library. Decides nothing; explains failures.

Every failure that a person can meet becomes a `CliError`: what is wrong, and the exact next command.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from herd.addresses import host_and_port
from herd.agent.coordinator_link import COORDINATOR_PORT

Json = dict[str, Any]
Headers = Mapping[str, str]

KEY_VARIABLE = "HERD_KEY"
TIMEOUT_S = 10.0
CHAT_TIMEOUT_S = 600.0
"""Between two pieces of an answer: a large model may have to be loaded first."""
ERROR_SHOWN_CHARS = 300
HTTPS_PORT = 443


class CliError(Exception):
    """What is wrong in one sentence, and what to type next."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class NotReached(CliError):
    """Nobody answers there, or nobody who is a coordinator."""


@dataclass(frozen=True, slots=True)
class CoordinatorClient:
    """One coordinator by its URL, e.g. http://localhost:11435; made by `coordinator_at`."""

    url: str
    timeout_s: float = TIMEOUT_S
    key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, ""), repr=False)
    """Sent with every request; from HERD_KEY."""

    def get(self, path: str) -> Json:
        """The JSON object at this path. Raises Trouble."""
        with self._asked("GET", path, None, self.timeout_s) as response:
            return _object(self.url, response.read())

    def post(self, path: str, body: object) -> tuple[Headers, Json]:
        """Headers (names in lower case) and JSON of the answer to a POST. Raises Trouble."""
        with self._asked("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            return _headers(response), _object(self.url, response.read())

    def delete(self, path: str, body: object = None) -> Json:
        """The JSON object that a DELETE answers. Raises Trouble."""
        with self._asked(
            "DELETE", path, json.dumps(body).encode() if body is not None else None, CHAT_TIMEOUT_S
        ) as response:
            return _object(self.url, response.read())

    def lines(self, path: str, body: object) -> Generator[tuple[Headers, bytes], None, None]:
        """The lines of a streamed answer that are not empty, each with the answer's headers. Raises Trouble.

        Whether the answer is whole is for the caller to see: its dialect says how it ends.
        """
        with self._asked("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            headers = _headers(response)
            for line in response:
                if line.strip():
                    yield headers, line.strip()

    @contextmanager
    def _asked(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            with closing(_connection(self.url, timeout_s)) as connection:
                connection.request(method, path, body, self._told_headers(body is not None))
                response = connection.getresponse()
                if response.status >= 400:
                    raise _refused(self.url, path, response)
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise not_reached(self.url, error) from error

    def _told_headers(self, has_body: bool) -> dict[str, str]:
        told = {"Content-Type": "application/json"} if has_body else {}
        return {**told, "Authorization": f"Bearer {self.key}"} if self.key else told


def coordinator_at(text: str, timeout_s: float = TIMEOUT_S) -> CoordinatorClient:
    """From what people write: "box", "box:11435", "http://box:11435/v1". Raises Trouble when it is no address."""
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise CliError(
            f"{text!r} is no address of a coordinator", f"write it like this: --url http://HOST:{COORDINATOR_PORT}"
        )
    port = port or (HTTPS_PORT if parts.scheme == "https" else COORDINATOR_PORT)
    return CoordinatorClient(f"{parts.scheme}://{host_and_port(host, port)}", timeout_s)


def not_reached(url: str, error: Exception) -> NotReached:
    """What an error of the network means, and what to do."""
    here = "if it should run on this machine, start it with: herd"
    if isinstance(error, ConnectionRefusedError):
        return NotReached(
            f"no coordinator answers at {url}",
            f"{here}\nif it runs elsewhere, say where: --url http://HOST:{COORDINATOR_PORT}",
        )
    if isinstance(error, socket.gaierror):
        name = urllib.parse.urlsplit(url).hostname
        return NotReached(
            f"there is no machine called {name} on this network", "use its address instead: --url http://ADDRESS:11435"
        )
    if isinstance(error, TimeoutError):
        return NotReached(f"{url} does not answer", "a firewall, or a wrong address; look closer with: herd doctor")
    if isinstance(error, http.client.HTTPException):
        return NotReached(f"{url} broke off its answer", "look closer with: herd doctor")
    return NotReached(f"{url}: {error}", "look closer with: herd doctor")


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def _headers(response: http.client.HTTPResponse) -> Headers:
    return {name.lower(): value for name, value in response.getheaders()}


def _object(url: str, body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _stranger(url) from error
    if not isinstance(value, dict):
        raise _stranger(url)
    return value


def _refused(url: str, path: str, response: http.client.HTTPResponse) -> CliError:
    """The coordinator's own words, with what to type next; or that this is no coordinator."""
    told, headers = _told(response), _headers(response)
    if told is None:
        return _stranger(url)
    if request_id := headers.get("x-fleet-request"):
        return CliError(told, f"see which nodes were considered: herd why {request_id}")
    if response.status == 401:
        return CliError(told, f"with a key: {KEY_VARIABLE}=KEY herd ...")
    if path.startswith("/fleet/nodes"):
        return CliError(told, "see who takes part and who waits: herd nodes")
    if path.startswith("/fleet/keys"):
        return CliError(told, "see the keys: herd keys")
    if path.startswith(
        ("/api/pull", "/api/delete", "/fleet/sync", "/fleet/update", "/fleet/pin", "/fleet/load", "/fleet/unload")
    ):
        return CliError(told, "see which node has what: herd models")
    if path.startswith("/dashboard/api/requests/"):
        return CliError(told, "see the newest with: herd why last, those that still run with: herd top")
    return CliError(told, "look closer with: herd doctor")


def _told(response: http.client.HTTPResponse) -> str | None:
    """The sentence of an error in any dialect; None for what no coordinator would say."""
    try:
        error = json.loads(response.read()).get("error")
    except (ValueError, AttributeError, RecursionError):
        return None
    text = error.get("message") if isinstance(error, dict) else error
    return text[:ERROR_SHOWN_CHARS] if isinstance(text, str) else None


def _stranger(url: str) -> NotReached:
    return NotReached(
        f"something answers at {url}, but it is no herd coordinator",
        "find the program that holds this port, or start herd on another: herd --port 11436",
    )
