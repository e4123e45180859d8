"""`herd doctor`: what is wrong with this set-up, and the command that mends it. Looks; changes nothing.

It follows the way of a request: this machine, its engines, the coordinator, how others find that, the nodes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from herd import __version__, mdns
from herd.cli.client import CliError, CoordinatorClient, Json, NotReached, coordinator_at
from herd.cli.demo import embedded_requirements
from herd.cli.fleet import by_model, node_state
from herd.cli.screen import console, folded, show
from herd.text import duration, number

LOCAL_ENGINES = (("Ollama", 11434), ("llama.cpp server", 8080), ("LM Studio", 1234), ("vLLM", 8000))
PYTHON_MIN = (3, 11)
DISK_FREE_MIN_BYTES = 1_000_000_000
QUICK_S = 0.5
ASKED_MAX_S = 3.0
SEARCH_S = 2.0
LOOKED_AT_HERE = frozenset(
    {"offline", "unreachable", "idle_nodes", "memory_pressure", "version_skew", "model_drift", "store_trouble"}
)
"""Checks of the coordinator that this verb makes itself, node by node."""
MARKS = (("ok", "ok   ", "green"), ("look", "look ", "yellow"), ("bad", "bad  ", "red"))


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing looked at: `level` is ok, look or bad; `remedy` is what to type."""

    level: str
    about: str
    told: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be looked at: `problems` are settings that cannot be used, `agent_url` is where this machine's agent is told to
    report, empty when it searches; `may_search` is false where mDNS is switched off."""

    coordinator: CoordinatorClient
    data_dir: Path
    problems: Sequence[str] = ()
    agent_url: str = ""
    may_search: bool = True


def doctor(setup: Setup, as_json: bool) -> bool:
    """Whether nothing is bad."""
    with console.status("looking", spinner="line"):
        findings = list(examine(setup))
    show([asdict(one) for one in findings], as_json, lambda _: _lines(findings))
    return all(one.level != "bad" for one in findings)


def examine(setup: Setup) -> Iterator[DoctorFinding]:
    yield from _settings(setup.problems)
    yield from _this_machine(setup.data_dir)
    engines = [(name, port) for name, port in LOCAL_ENGINES if _listens("127.0.0.1", port)]
    yield from _engines_here(engines)
    announced = asyncio.run(_announced()) if setup.may_search else []
    coordinator = CoordinatorClient(setup.coordinator.url, ASKED_MAX_S)
    try:
        state = coordinator.get("/fleet/status")
    except CliError as trouble:
        yield from when_unreachable(setup, trouble, announced)
    else:
        yield DoctorFinding("ok", "coordinator", f"answers at {coordinator.url}")
        yield from _ways_in(setup, announced)
        yield from _agent_here(setup, state, bool(engines))
        yield from _fleet(state)
        yield from _health(coordinator)


# --- this machine ---


def _settings(problems: Sequence[str]) -> Iterator[DoctorFinding]:
    for problem in problems:
        yield DoctorFinding("bad", "settings", problem, "correct it; every setting and its values: herd config")


def _this_machine(data_dir: Path) -> Iterator[DoctorFinding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        yield DoctorFinding("bad", "Python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield DoctorFinding("ok", "herd", f"{__version__} on Python {version}")
    folder = next((place for place in (data_dir, *data_dir.parents) if place.exists()), data_dir)
    if not os.access(folder, os.W_OK):
        yield DoctorFinding(
            "bad", "data folder", f"{data_dir} cannot be written", "choose another: herd --data-dir FOLDER"
        )
        return
    free = shutil.disk_usage(folder).free
    told = f"{data_dir}, {free / 1e9:.1f} GB free"
    if free < DISK_FREE_MIN_BYTES:
        yield DoctorFinding(
            "look", "data folder", told, "free some space; traces and logs are dropped when there is none"
        )
    else:
        yield DoctorFinding("ok", "data folder", told)


def _engines_here(engines: Sequence[tuple[str, int]]) -> Iterator[DoctorFinding]:
    for name, port in engines:
        yield DoctorFinding("ok", "engine here", f"something answers on port {port}, {name}'s")
    if engines:
        return
    remedy = "to lend this machine, start Ollama, or let the agent bring its own engine: herd-node --engine embedded"
    if missing := embedded_requirements.missing():
        remedy += f"\nwhich must be installed first: {missing}"
    yield DoctorFinding("look", "engine here", "none answers on a usual port", remedy)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=QUICK_S):
            return True
    except OSError:
        return False


# --- the coordinator, and how others find it ---


async def _announced() -> list[mdns.FoundCoordinator]:
    """Who announces a coordinator on this network."""
    seen: list[mdns.FoundCoordinator] = []
    async with mdns.browse() as found:
        try:
            async with asyncio.timeout(SEARCH_S):
                while True:
                    seen.append(await found.get())
        except TimeoutError:
            return seen


def when_unreachable(
    setup: Setup, trouble: CliError, announced: Sequence[mdns.FoundCoordinator]
) -> Iterator[DoctorFinding]:
    """Where else a coordinator may be, of those that announce themselves; and what keeps us from this one."""
    others = [one for one in announced if one.url != setup.coordinator.url]
    answering = next((one for one in others if _answers(one.url)), None)
    if answering is not None:
        remedy = (
            f"look at that one: herd doctor --url {answering.url}\nreport to it: herd-node --router-url {answering.url}"
        )
        yield DoctorFinding(
            "bad", "coordinator", f"{trouble.problem}; but one announces itself at {answering.url}", remedy
        )
        return
    for one in others[:1]:
        remedy = f"a firewall on that machine may block port {_port(one.url)}: allow it there"
        yield DoctorFinding("bad", "coordinator", f"one announces itself at {one.url}, but does not let us in", remedy)
    yield DoctorFinding("bad", "coordinator", trouble.problem, trouble.remedy)
    if setup.may_search and not others and isinstance(trouble, NotReached):
        remedy = f"once it runs, and mDNS does not come through, name it: herd-node --router-url http://HOST:{_port(setup.coordinator.url)}"
        yield DoctorFinding("look", "network", "nobody announces a coordinator by mDNS", remedy)


def _answers(url: str) -> bool:
    try:
        CoordinatorClient(url, ASKED_MAX_S).get("/fleet/limits")
    except CliError:
        return False
    return True


def _ways_in(setup: Setup, announced: Sequence[mdns.FoundCoordinator]) -> Iterator[DoctorFinding]:
    """Whether agents on other machines can find and reach a coordinator that runs here."""
    url = urllib.parse.urlsplit(setup.coordinator.url)
    here = [address for address in mdns.addresses() if not address.startswith("127.")]
    if url.hostname not in ("localhost", "127.0.0.1", "::1", *here):
        return
    if here and not _listens(here[0], _port(setup.coordinator.url)):
        remedy = "to let other machines in, start it with: herd --host 0.0.0.0"
        yield DoctorFinding("look", "network", "the coordinator listens to this machine only", remedy)
    elif setup.may_search and here:
        ours = [one for one in announced if _port(one.url) == url.port]
        if ours:
            yield DoctorFinding("ok", "network", f"agents find it by mDNS at {ours[0].url}")
        else:
            remedy = f"on the other machines, name it: herd-node --router-url http://{here[0]}:{url.port}"
            yield DoctorFinding("look", "network", "the coordinator is not found by mDNS", remedy)


def _agent_here(setup: Setup, state: Json, has_engine: bool) -> Iterator[DoctorFinding]:
    """Whether this machine's own agent reports, and to whom."""
    if setup.agent_url:
        astray = _astray(setup)
        if astray is not None:
            yield astray
            return
    ours, name = mdns.addresses(), socket.gethostname().split(".")[0]
    is_there = any(node["lan_ip"] in ours or node["node_id"] == name for node in state["nodes"])
    if has_engine and not is_there:
        remedy = f"lend this machine: herd-node --router-url {setup.coordinator.url}"
        yield DoctorFinding("look", "agent here", "an engine runs here, but nobody reports it", remedy)


def _astray(setup: Setup) -> DoctorFinding | None:
    """What is wrong with where this machine's agent is told to report; None when nothing is."""
    try:
        theirs = coordinator_at(setup.agent_url, ASKED_MAX_S)
        if theirs.url == setup.coordinator.url:
            return None
        theirs.get("/fleet/limits")
    except CliError as trouble:
        remedy = f"report to this one: herd-node --router-url {setup.coordinator.url}"
        return DoctorFinding("bad", "agent here", f"FLEET_NODE_ROUTER_URL sends it astray: {trouble.problem}", remedy)
    return DoctorFinding(
        "look",
        "agent here",
        f"reports to another coordinator, {theirs.url}",
        f"look at that one: herd doctor --url {theirs.url}",
    )


def _port(url: str) -> int:
    return urllib.parse.urlsplit(url).port or 0


# --- the fleet ---


def _fleet(state: Json) -> Iterator[DoctorFinding]:
    if not state["nodes"]:
        yield DoctorFinding("bad", "nodes", "none has reported", "on each machine with an engine run: herd-node")
    for node in state["nodes"]:
        yield from _node(node)
    for model in by_model(state):
        if model["has_drifted"]:
            where = ", ".join(here["node_id"] for here in model["nodes"])
            yield DoctorFinding(
                "look",
                f"model {model['name']}",
                f"is not the same on {where}",
                f"on each of them: ollama pull {model['name']}",
            )
    if (state.get("store") or {}).get("failing_since") is not None:
        yield DoctorFinding(
            "bad",
            "traces",
            f"are not being stored: {state['store']['problem']}",
            "free disk space, or choose another folder: herd --data-dir FOLDER",
        )


def _health(coordinator: CoordinatorClient) -> Iterator[DoctorFinding]:
    """What the coordinator found itself, less what was told above."""
    try:
        found = coordinator.get("/dashboard/api/v1/health")["findings"]
    except (CliError, KeyError):
        # An older coordinator, or a key that may not read: everything else was told.
        return
    for one in found:
        if one["check"] not in LOOKED_AT_HERE and not one["snoozed_until"]:
            command = one["fix"]["commands"][0]["command"] if one["fix"]["commands"] else ""
            yield DoctorFinding(
                "bad" if one["severity"] == "critical" else "look", "fleet", one["title"], command or one["fix"]["text"]
            )


def _node(node: Json) -> Iterator[DoctorFinding]:
    about, silence = f"node {node['node_id']}", duration(node["last_heartbeat_s"] * 1000)
    verdicts: tuple[tuple[Callable[[], bool], DoctorFinding], ...] = (
        (
            lambda: node["status"] == "offline",
            DoctorFinding("look", about, f"silent for {silence}", "if it should be there, on it run: herd-node"),
        ),
        (
            lambda: not node["reachable"],
            DoctorFinding(
                "bad",
                about,
                "reports, but refuses our connections",
                "on it, allow this machine through the firewall to the engine's port",
            ),
        ),
        (
            lambda: not node["engines"],
            DoctorFinding("bad", about, "has no engine", "on it, start Ollama, or run: herd-node --engine embedded"),
        ),
        (
            lambda: not node["models"],
            DoctorFinding("look", about, "has no model", "on it run, for example: ollama pull llama3.2:3b"),
        ),
        (
            lambda: node["memory"]["pressure"] == "critical",
            DoctorFinding("bad", about, "is out of memory", "close programs there, or use smaller models"),
        ),
        (
            lambda: node["draining"] or node["paused"],
            DoctorFinding(
                "look", about, f"takes no requests: {node_state(node)}", "when it is free again it comes back by itself"
            ),
        ),
    )
    found = next((finding for is_so, finding in verdicts if is_so()), None)
    engines = ", ".join(engine["kind"] for engine in node["engines"])
    yield found or DoctorFinding("ok", about, f"{node['status']}, {number(len(node['models']), 'model')}, {engines}")
    if node["agent_version"] and node["agent_version"] != __version__:
        yield DoctorFinding(
            "look",
            about,
            f"its agent is {node['agent_version']}, this is {__version__}",
            "on the older of the two: pipx upgrade ollama-herd",
        )


# --- drawing ---


def _lines(findings: Sequence[DoctorFinding]) -> Iterator[Text]:
    for one in findings:
        mark, style = next((mark, style) for level, mark, style in MARKS if level == one.level)
        yield from folded(Text(mark, style), f"{one.about}: {one.told}", console.width)
        for line in one.remedy.splitlines():
            yield from folded(Text("       "), line, console.width)
    bad = sum(one.level == "bad" for one in findings)
    yield Text(f"{number(bad, 'thing')} to mend." if bad else "Nothing is wrong.", "red" if bad else "green")
