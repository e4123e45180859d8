"""`herd doctor`: what is wrong with this set-up, and the command that mends it. Looks; changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import console, safe, show

Json = dict[str, Any]

LOCAL_ENGINES = (("Ollama", 11434), ("llama.cpp server", 8080), ("LM Studio", 1234), ("vLLM", 8000))
PYTHON_MIN = (3, 11)
DISK_FREE_MIN_BYTES = 1_000_000_000
QUICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `level` is ok, warn or bad; `remedy` is what to type."""

    level: str
    about: str
    told: str
    remedy: str = ""


def doctor(coordinator: Coordinator, data_dir: Path, as_json: bool) -> bool:
    """Whether nothing is bad."""
    findings = [*_this_machine(data_dir), *_engines_here(), *_coordinator(coordinator)]
    show([asdict(one) for one in findings], as_json, lambda _: _draw(findings))
    return all(one.level != "bad" for one in findings)


def _draw(findings: list[Finding]) -> None:
    marks = {"ok": "[green]ok  [/green]", "warn": "[yellow]look[/yellow]", "bad": "[red]bad [/red]"}
    for one in findings:
        console.print(f"{marks[one.level]} {safe(one.about)}: {safe(one.told)}")
        if one.remedy:
            console.print(f"       {safe(one.remedy)}")
    bad = sum(one.level == "bad" for one in findings)
    console.print("Nothing is wrong." if not bad else f"{bad} to mend.")


def _this_machine(data_dir: Path) -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        yield Finding("bad", "Python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield Finding("ok", "Python", version)
    folder = data_dir if data_dir.exists() else data_dir.parent
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "data folder", f"{data_dir} cannot be written", f"make it writable, or set FLEET_DATA_DIR: chmod u+w {folder}")
        return
    free = shutil.disk_usage(folder).free
    level = "ok" if free >= DISK_FREE_MIN_BYTES else "warn"
    yield Finding(level, "data folder", f"{data_dir}, {free / 1e9:.1f} GB free")


def _engines_here() -> Iterator[Finding]:
    found = [(name, port) for name, port in LOCAL_ENGINES if _listens(port)]
    for name, port in found:
        yield Finding("ok", "engine here", f"something listens on port {port} ({name}'s)")
    if not found:
        remedy = "start Ollama, or let the agent bring its own: herd-node --engine embedded"
        yield Finding("warn", "engine here", "none of the usual ports answers", remedy)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=QUICK_S):
            return True
    except OSError:
        return False


def _coordinator(coordinator: Coordinator) -> Iterator[Finding]:
    try:
        state = coordinator.get("/fleet/status")
    except Trouble as trouble:
        yield Finding("bad", "coordinator", trouble.problem, _port_advice(coordinator, trouble))
        return
    yield Finding("ok", "coordinator", f"answers at {coordinator.url}")
    if not state["nodes"]:
        yield Finding("bad", "nodes", "none has reported", "on each machine with an engine run: herd-node")
    for node in state["nodes"]:
        yield from _node(node)
    if state["store"]["failing_since"] is not None:
        yield Finding("bad", "traces", f"not being stored: {state['store']['problem']}", "free disk space, or set FLEET_DATA_DIR")


def _port_advice(coordinator: Coordinator, trouble: Trouble) -> str:
    port = urllib.parse.urlsplit(coordinator.url).port or 11435
    if _listens(port):
        return f"another program holds port {port}; start the coordinator elsewhere: herd --port {port + 1}"
    return trouble.remedy


def _node(node: Json) -> Iterator[Finding]:
    name = f"node {node['node_id']}"
    if node["status"] == "offline":
        yield Finding("warn", name, f"silent for {node['last_heartbeat_s']:.0f} s", "if it should be there, run on it: herd-node")
    elif not node["reachable"]:
        remedy = "a firewall on that machine may block its engine port; allow it for this machine"
        yield Finding("bad", name, "reports, but refuses our connections", remedy)
    elif not node["engines"]:
        yield Finding("bad", name, "has no engine", "start Ollama there, or: herd-node --engine embedded")
    elif not node["models"]:
        yield Finding("warn", name, "has no model", "on it run, for example: ollama pull llama3.2:3b")
    elif node["memory"]["pressure"] == "critical":
        yield Finding("bad", name, "is out of memory", "close programs there, or use smaller models")
    else:
        yield Finding("ok", name, f"{node['status']}, {len(node['models'])} models, {', '.join(e['kind'] for e in node['engines'])}")
