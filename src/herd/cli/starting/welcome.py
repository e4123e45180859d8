"""Prints what to do next, when the coordinator was started in a terminal."""

from __future__ import annotations

from rich.text import Text

from herd.cli.status import capture_line
from herd.cli.terminal import print_lines
from herd.coordinator.app import Coordinator


def print_welcome(coordinator: Coordinator, url: str) -> None:
    capture = coordinator.settings.capture
    lines = [
        Text(),
        Text.assemble(("herd", "bold"), f" is running at {url}"),
        Text("Add this machine, if it has Ollama or another engine:  herd-node"),
        Text.assemble(
            "Add another machine, within 10 minutes:                ",
            (f"herd-node --join {coordinator.invitation()}", "bold"),
        ),
        Text("Show the fleet, in another terminal:                   herd status"),
        *([Text(capture_line(capture.lasts_s), "bold yellow")] if capture.is_on else []),
        Text("Stop with Ctrl-C."),
        Text(),
    ]
    print_lines(*lines)
