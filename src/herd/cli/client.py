"""How the terminal talks to a coordinator: plain HTTP from the standard library. Decides nothing; explains failures.

Every failure a person can meet becomes a `Trouble`: what is wrong, and the exact next command.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 10.0
CHAT_TIMEOUT_S = 600.0


class Trouble(Exception):
    """What is wrong in one sentence, and what to type next."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Coordinator:
    """One coordinator by its URL, e.g. http://localhost:11435."""

    url: str

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """The JSON at this path. Raises Trouble."""
        with self._asked("GET", path, None, TIMEOUT_S) as response:
            return json.loads(response.read())

    def lines(self, path: str, body: object) -> Iterator[tuple[dict[str, str], bytes]]:
        """The lines of a streamed answer, each with the answer's headers (names in lower case). Raises Trouble."""
        with self._asked("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            for line in response:
                if line.strip():
                    yield headers, line.strip()

    def post(self, path: str, body: object) -> tuple[dict[str, str], Any]:
        """Headers and JSON of the answer to a POST. Raises Trouble."""
        with self._asked("POST", path, json.dumps(body).encode(), CHAT_TIMEOUT_S) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return headers, json.loads(response.read())

    @contextmanager
    def _asked(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "localhost", parts.port or 11435, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            if response.status >= 400:
                raise Trouble(_told(response))
            yield response
        except ConnectionRefusedError as error:
            raise Trouble(f"no coordinator answers at {self.url}", "start one with: herd") from error
        except TimeoutError as error:
            raise Trouble(f"{self.url} does not answer", "look at it with: herd doctor") from error
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(f"{self.url}: {error}", "look at it with: herd doctor") from error
        finally:
            connection.close()


def _told(response: http.client.HTTPResponse) -> str:
    text = response.read().decode("utf-8", "replace")
    try:
        error = json.loads(text).get("error", text)
    except (ValueError, AttributeError):
        return f"HTTP {response.status}: {text[:200]}"
    return str(error.get("message", error) if isinstance(error, dict) else error)
