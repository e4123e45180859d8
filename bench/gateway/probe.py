"""Sends one request of a scenario and checks that the answer is exactly the stub's text."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from bench.gateway.machine import BenchmarkError
from bench.gateway.scenarios import Scenario

ANSWER_MAX_S = 10.0
SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A correct answer: its line ends, and its headers in lower case."""

    lines: int
    headers: Mapping[str, str]


def probe(port: int, scenario: Scenario) -> Answer:
    """Raises `BenchmarkError` if the answer is not correct, and `OSError` or `HTTPException` if there is none."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_MAX_S)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", scenario.path.url_path, json.dumps(scenario.load.body), headers)
        response = connection.getresponse()
        body = response.read()
    shown = body[:SHOWN_BYTES].decode("utf-8", "replace")
    if response.status != 200:
        raise BenchmarkError(f"{scenario.key}: status {response.status}: {shown}")
    try:
        text = scenario.path.read(body)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{scenario.key}: the answer is not valid ({error!r}): {shown}") from error
    if text != scenario.text or not body.endswith(scenario.load.end.encode()):
        raise BenchmarkError(f"{scenario.key}: the answer is not the stub's: {shown}")
    return Answer(body.count(b"\n"), {name.lower(): value for name, value in response.getheaders()})
