"""Runs a coordinator and one agent for each engine as processes of their own, as a user starts them.

with HerdProcesses([ollama.url], folder) as herd:       # herd.url, herd.get("/fleet/status")
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any

from fakes.child_process import Child, free_port, wait_until

Json = dict[str, Any]


class HerdProcesses:
    """See the docstring of this module."""

    def __init__(self, engine_urls: Sequence[str], folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are the coordinator's, beside those below."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._engine_urls = engine_urls
        self._folder = folder
        self._settings = settings or {}
        self._stack = ExitStack()

    def __enter__(self) -> HerdProcesses:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def get(self, path: str) -> Json:
        return self._ask("GET", path, b"")

    def post(self, path: str, body: Json) -> Json:
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes) -> Json:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body)
            answer = json.loads(connection.getresponse().read())
            assert isinstance(answer, dict)
            return answer

    def _start(self) -> None:
        home = {"HOME": str(self._folder)}
        fleet = {"FLEET_HOST": "127.0.0.1", "FLEET_PORT": str(self.port), "FLEET_OPEN": "true", "FLEET_MDNS": "false"}
        data = {"FLEET_DATA_DIR": str(self._folder / "coordinator")}
        coordinator = self._child("herd", {**home, **fleet, **data, **self._settings})
        coordinator.wait_for_get(self.port, "/api/version")
        for number, url in enumerate(self._engine_urls):
            settings = {
                "FLEET_NODE_NODE_ID": f"node-{number}",
                "FLEET_NODE_DATA_DIR": str(self._folder / f"node-{number}"),
                "FLEET_NODE_ROUTER_URL": self.url,
                "FLEET_NODE_OLLAMA_HOST": url,
                "FLEET_NODE_HEARTBEAT_INTERVAL": "0.5",
            }
            self._child("herd_node", {**home, **settings})
        wait_until(self._has_all_models, "all nodes list models")

    def _child(self, entry: str, settings: Mapping[str, str]) -> Child:
        child = Child([sys.executable, "-c", f"from herd.cli import {entry}; {entry}()"], settings)
        self._stack.callback(child.stop)
        return child

    def _has_all_models(self) -> bool:
        nodes = self.get("/fleet/status")["nodes"]
        return len(nodes) == len(self._engine_urls) and bool(self.get("/v1/models")["data"])
