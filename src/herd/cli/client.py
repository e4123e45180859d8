"""Sends requests to a coordinator for the command line, with the standard library's HTTP client.

Every failure that a user can see becomes a `CliError`: the problem, and the exact next command.
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
from herd.cli.starting.problem import CliError as CliError

Json = dict[str, Any]
Headers = Mapping[str, str]

KEY_VARIABLE = "HERD_KEY"
TIMEOUT_S = 10.0
CHAT_TIMEOUT_S = 600.0
"""Between two parts of an answer: a large model may have to be loaded first."""
ERROR_SHOWN_CHARS = 300
HTTPS_PORT = 443


class NotReached(CliError):
    """No coordinator answers at this URL: nothing does, or another program."""


class KeyNeeded(CliError):
    """The coordinator refused the request because of its API key, or because there was none (status 401)."""


@dataclass(frozen=True, slots=True)
class CoordinatorClient:
    """One coordinator by its URL, e.g. http://localhost:11435; created by `coordinator_at`."""

    url: str
    timeout_s: float = TIMEOUT_S
    key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, ""), repr=False)
    """API key sent with every request, from HERD_KEY."""
    more_headers: Mapping[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Json:
        """The JSON object at this path. Raises CliError."""
        with self._request("GET", path, None, self.timeout_s) as response:
            return _object(self.url, response.read())

    def post(self, path: str, body: object) -> tuple[Headers, Json]:
        """Sends a POST; the answer's headers (names in lower case) and JSON object. Raises CliError."""
        with self._request("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            return _headers(response), _object(self.url, response.read())

    def delete(self, path: str, body: object = None) -> Json:
        """Sends a DELETE; the answer's JSON object. Raises CliError."""
        with self._request(
            "DELETE", path, json.dumps(body).encode() if body is not None else None, CHAT_TIMEOUT_S
        ) as response:
            return _object(self.url, response.read())

    def lines(self, path: str, body: object) -> Generator[tuple[Headers, bytes], None, None]:
        """Sends a POST; the non-empty lines of the streamed answer, each with the answer's headers. Raises CliError.

        The caller checks whether the answer is complete: each API marks its end differently.
        """
        with self._request("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            headers = _headers(response)
            for line in response:
                if line.strip():
                    yield headers, line.strip()

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            with closing(_connection(self.url, timeout_s)) as connection:
                connection.request(method, path, body, self._request_headers(body is not None))
                response = connection.getresponse()
                if response.status >= 400:
                    raise _refused(self.url, path, response)
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise not_reached(self.url, error) from error

    def _request_headers(self, has_body: bool) -> dict[str, str]:
        headers = {**self.more_headers, **({"Content-Type": "application/json"} if has_body else {})}
        return {**headers, "Authorization": f"Bearer {self.key}"} if self.key else headers


def coordinator_at(text: str, timeout_s: float = TIMEOUT_S) -> CoordinatorClient:
    """The coordinator at "box", "box:11435" or "http://box:11435/v1". Raises CliError for an invalid address."""
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise CliError(
            f"{text!r} is not a valid coordinator URL",
            f"use this form: --url http://HOST:PORT (port {COORDINATOR_PORT})",
        )
    port = port or (HTTPS_PORT if parts.scheme == "https" else COORDINATOR_PORT)
    return CoordinatorClient(f"{parts.scheme}://{host_and_port(host, port)}", timeout_s)


def not_reached(url: str, error: Exception) -> NotReached:
    """The problem and the next command for a network error."""
    if isinstance(error, ConnectionRefusedError):
        return NotReached(
            f"no coordinator answers at {url}",
            "if it should run on this machine, start it with: herd\n"
            "if it runs on another machine, give its URL: --url http://HOST:PORT",
        )
    if isinstance(error, socket.gaierror):
        name = urllib.parse.urlsplit(url).hostname
        return NotReached(
            f"the host name {name} cannot be resolved", "use the IP address instead: --url http://ADDRESS:PORT"
        )
    if isinstance(error, TimeoutError):
        return NotReached(f"{url} does not answer", "check the address and firewalls; for details run: herd doctor")
    if isinstance(error, http.client.HTTPException):
        return NotReached(f"{url} closed the connection early", "for details run: herd doctor")
    return NotReached(f"{url}: {error}", "for details run: herd doctor")


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
        raise _not_a_coordinator(url) from error
    if not isinstance(value, dict):
        raise _not_a_coordinator(url)
    return value


def _refused(url: str, path: str, response: http.client.HTTPResponse) -> CliError:
    """The coordinator's error with the next command, or the error that this is not a coordinator."""
    message, headers = _error_message(response), _headers(response)
    if message is None:
        return _not_a_coordinator(url)
    kind = KeyNeeded if response.status == 401 else CliError
    if request_id := headers.get("x-fleet-request"):
        return CliError(message, f"for the routing decision run: herd why {request_id}")
    if ": herd " in message:
        # The message already names the next command.
        return kind(message)
    if message == "invalid model name":
        return CliError(message, "a name has the form [HOST/][NAMESPACE/]MODEL[:TAG], without spaces, e.g. qwen3:8b")
    if response.status == 401:
        return kind(message, f"run the command with an API key: {KEY_VARIABLE}=KEY herd ...")
    if path.startswith("/fleet/nodes"):
        return CliError(message, "list paired and pending nodes with: herd nodes")
    if path.startswith("/fleet/keys"):
        return CliError(message, "list the keys with: herd keys")
    if path.startswith(
        ("/api/pull", "/api/delete", "/fleet/sync", "/fleet/update", "/fleet/pin", "/fleet/load", "/fleet/unload")
    ):
        return CliError(message, "list the models of each node with: herd models")
    if path.startswith("/dashboard/api/requests/"):
        return CliError(message, "show the newest request with: herd why last\nshow running requests with: herd top")
    return CliError(message, "for details run: herd doctor")


def _error_message(response: http.client.HTTPResponse) -> str | None:
    """The error message in the format of any API; None for an answer that a coordinator would not send."""
    try:
        error = json.loads(response.read()).get("error")
    except (ValueError, AttributeError, RecursionError):
        return None
    text = error.get("message") if isinstance(error, dict) else error
    return text[:ERROR_SHOWN_CHARS] if isinstance(text, str) else None


def _not_a_coordinator(url: str) -> NotReached:
    return NotReached(
        f"the program at {url} is not a herd coordinator",
        "stop the program that uses this port, or start herd on another port: herd --port 11436",
    )
