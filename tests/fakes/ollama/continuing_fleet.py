"""Runs two nodes whose engine continues an assistant's turn, as llama.cpp does; the first one is preferred."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fakes.fleet import Fleet, Machine, report_of, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from herd.agent_protocol import heartbeat_encode
from herd.coordinator.settings import Settings
from herd.core.state.fleet import Report


@contextmanager
def continuing_fleet(model: FakeModel, settings: Settings | None = None) -> Iterator[tuple[Fleet, FakeOllama]]:
    """The fleet, and its preferred node."""
    with FakeOllama([model]) as bad, FakeOllama([model]) as good, running_fleet({}, settings=settings) as fleet:
        for node_id, node in (("bad", bad), ("good", good)):
            heartbeat = heartbeat_encode.encode(as_llamacpp(report_of(node_id, node, Machine())), time.time())
            fleet.ask("POST", "/heartbeat", heartbeat)
        yield fleet, bad


def as_llamacpp(report: Report) -> Report:
    """The same node, as if its engine were llama.cpp."""
    endpoint = replace(report.engines[0], kind="llamacpp")
    models = {name: replace(model_info, engine=endpoint) for name, model_info in report.models.items()}
    return replace(report, engines=(endpoint,), models=models)
