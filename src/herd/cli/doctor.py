"""Checks this machine's setup and prints, for each problem, the command that fixes it (`herd doctor`).

The checks follow the path of a request: this machine, its engines, the coordinator, the network, the nodes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.text import Text

import herd.engines
from herd import __version__, mdns
from herd.build_form import build_form
from herd.cli.client import CliError, CoordinatorClient, Json, NotReached, coordinator_at
from herd.cli.demo import embedded_requirements
from herd.cli.models import by_model
from herd.cli.status import node_state
from herd.cli.terminal import console, show, wrapped
from herd.discover import discover
from herd.engines import Engine
from herd.text import duration, number

PYTHON_MIN = (3, 11)
DISK_FREE_MIN_BYTES = 1_000_000_000
CONNECT_TIMEOUT_S = 0.5
REPLY_TIMEOUT_S = 3.0
MDNS_SEARCH_S = 2.0
CHECKED_HERE = frozenset(
    {"offline", "unreachable", "idle_nodes", "memory_pressure", "version_skew", "model_drift", "store_trouble"}
)
"""The coordinator's health checks that this command makes itself, node by node."""

OK, WARNING, ERROR = "ok", "look", "bad"
"""Levels as they are written in the JSON output."""
MARKS = MappingProxyType({OK: ("ok      ", "green"), WARNING: ("warning ", "yellow"), ERROR: ("error   ", "red")})
"""Levels as they are shown to people."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result of one check. `remedy` is the next command."""

    level: str
    subject: str
    message: str
    remedy: str = ""

    def to_json(self) -> Json:
        return {"level": self.level, "about": self.subject, "told": self.message, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Setup:
    """What is checked. `problems` are invalid settings; `agent_url` is the coordinator in the agent's settings on this
    machine, empty if the agent searches for it; `may_search` is false if mDNS is disabled."""

    coordinator: CoordinatorClient
    data_dir: Path
    problems: Sequence[str] = ()
    agent_url: str = ""
    may_search: bool = True
    notices: Sequence[str] = ()
    """Settings of ollama-herd that are set and have no effect here, with the reason."""


def doctor(setup: Setup, as_json: bool) -> bool:
    """Whether there is no error."""
    with console.status("checking", spinner="line"):
        findings = list(examine(setup))
    show([one.to_json() for one in findings], as_json, lambda _: _lines(findings))
    return all(one.level != ERROR for one in findings)


def examine(setup: Setup) -> Iterator[DoctorFinding]:
    yield from _settings(setup.problems, setup.notices)
    yield from _this_machine(setup.data_dir)
    known = [engine for engine in discover(herd.engines, Engine, "ENGINE") if not engine.is_generic]
    engines = [(one.title, one.default_port) for one in known if _accepts_connections("127.0.0.1", one.default_port)]
    yield from _local_engines(engines)
    announced = asyncio.run(_announced()) if setup.may_search else []
    coordinator = CoordinatorClient(setup.coordinator.url, REPLY_TIMEOUT_S)
    try:
        state = coordinator.get("/fleet/status")
    except CliError as error:
        yield from when_unreachable(setup, error, announced)
    else:
        yield DoctorFinding(OK, "coordinator", f"answers at {coordinator.url}")
        yield from _network(setup, announced)
        yield from _local_agent(setup, state, bool(engines))
        yield from _fleet(state)
        yield from _health(coordinator)


# --- this machine ---


def _settings(problems: Sequence[str], notices: Sequence[str]) -> Iterator[DoctorFinding]:
    for notice in _by_reason(notices):
        yield DoctorFinding(WARNING, "settings", notice, "nothing to do; the line can be removed")
    for problem in problems:
        yield DoctorFinding(ERROR, "settings", problem, "correct it; list all settings and values with: herd config")


def _by_reason(notices: Sequence[str]) -> Iterator[str]:
    """One line for each reason: an environment file of ollama-herd has dozens of settings without an effect here."""
    names: dict[str, list[str]] = {}
    for notice in notices:
        name, _, reason = notice.partition(": ")
        names.setdefault(reason, []).append(name)
    yield from (f"{', '.join(each)}: {reason}" for reason, each in names.items())


def _this_machine(data_dir: Path) -> Iterator[DoctorFinding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        yield DoctorFinding(ERROR, "Python", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield DoctorFinding(OK, "herd", f"{__version__} ({build_form()}) on Python {version}")
    folder = next((path for path in (data_dir, *data_dir.parents) if path.exists()), data_dir)
    if not os.access(folder, os.W_OK):
        yield DoctorFinding(
            ERROR, "data folder", f"{data_dir} cannot be written", "use another folder: herd --data-dir FOLDER"
        )
        return
    free = shutil.disk_usage(folder).free
    message = f"{data_dir}, {free / 1e9:.1f} GB free"
    if free < DISK_FREE_MIN_BYTES:
        yield DoctorFinding(
            WARNING, "data folder", message, "free some disk space; a full disk means that traces and logs are dropped"
        )
    else:
        yield DoctorFinding(OK, "data folder", message)


def _local_engines(engines: Sequence[tuple[str, int]]) -> Iterator[DoctorFinding]:
    for name, port in engines:
        yield DoctorFinding(OK, "local engine", f"port {port} ({name}) accepts connections")
    if engines:
        return
    remedy = "to add this machine, start Ollama, or use the embedded engine: herd-node --engine embedded"
    if missing := embedded_requirements.missing():
        remedy += f"\ninstall the embedded engine first: {missing}"
    yield DoctorFinding(WARNING, "local engine", "no engine found on its default port", remedy)


def _accepts_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


# --- the coordinator and the network ---


async def _announced() -> list[mdns.FoundCoordinator]:
    """The coordinators that announce themselves on this network."""
    seen: list[mdns.FoundCoordinator] = []
    async with mdns.browse() as found:
        try:
            async with asyncio.timeout(MDNS_SEARCH_S):
                while True:
                    seen.append(await found.get())
        except TimeoutError:
            return seen


def when_unreachable(
    setup: Setup, error: CliError, announced: Sequence[mdns.FoundCoordinator]
) -> Iterator[DoctorFinding]:
    """Why the coordinator cannot be reached, and whether another one announces itself."""
    others = [one for one in announced if one.url != setup.coordinator.url]
    answering = next((one for one in others if _is_coordinator(one.url)), None)
    if answering is not None:
        remedy = (
            f"to use it, run: herd doctor --url {answering.url}\n"
            f"and on this machine: herd-node --router-url {answering.url}"
        )
        yield DoctorFinding(
            ERROR, "coordinator", f"{error.problem}; another coordinator answers at {answering.url}", remedy
        )
        return
    for one in others[:1]:
        remedy = f"a firewall on that machine may block port {_port(one.url)}; allow connections to this port"
        yield DoctorFinding(
            ERROR, "coordinator", f"a coordinator announces itself at {one.url}, but cannot be reached", remedy
        )
    yield DoctorFinding(ERROR, "coordinator", error.problem, error.remedy)
    if setup.may_search and not others and isinstance(error, NotReached):
        url = f"http://HOST:{_port(setup.coordinator.url)}"
        remedy = f"if the network blocks mDNS, name the coordinator: herd-node --router-url {url}"
        yield DoctorFinding(WARNING, "network", "no coordinator is announced by mDNS", remedy)


def _is_coordinator(url: str) -> bool:
    try:
        CoordinatorClient(url, REPLY_TIMEOUT_S).get("/fleet/limits")
    except CliError:
        return False
    return True


def _network(setup: Setup, announced: Sequence[mdns.FoundCoordinator]) -> Iterator[DoctorFinding]:
    """Whether agents on other machines can find and reach a coordinator that runs on this machine."""
    url = urllib.parse.urlsplit(setup.coordinator.url)
    local = [address for address in mdns.addresses() if not address.startswith("127.")]
    if url.hostname not in ("localhost", "127.0.0.1", "::1", *local):
        return
    if local and not _accepts_connections(local[0], _port(setup.coordinator.url)):
        remedy = "to accept other machines, start it with: herd --host 0.0.0.0"
        yield DoctorFinding(WARNING, "network", "the coordinator accepts connections from this machine only", remedy)
    elif setup.may_search and local:
        ours = [one for one in announced if _port(one.url) == url.port]
        if ours:
            yield DoctorFinding(OK, "network", f"agents can find the coordinator by mDNS at {ours[0].url}")
        else:
            remedy = f"on the other machines run: herd-node --router-url http://{local[0]}:{url.port}"
            yield DoctorFinding(WARNING, "network", "the coordinator cannot be found by mDNS", remedy)


def _local_agent(setup: Setup, state: Json, has_engine: bool) -> Iterator[DoctorFinding]:
    """Whether this machine's agent reports, and to which coordinator."""
    if setup.agent_url:
        problem = _wrong_coordinator(setup)
        if problem is not None:
            yield problem
            return
    addresses, name = mdns.addresses(), socket.gethostname().split(".")[0]
    is_reported = any(node["lan_ip"] in addresses or node["node_id"] == name for node in state["nodes"])
    if has_engine and not is_reported:
        remedy = f"add this machine: herd-node --router-url {setup.coordinator.url}"
        yield DoctorFinding(WARNING, "local agent", "an engine runs on this machine, but no agent reports it", remedy)


def _wrong_coordinator(setup: Setup) -> DoctorFinding | None:
    """The problem with the coordinator in this machine's agent settings; None if it is the one being checked."""
    try:
        theirs = coordinator_at(setup.agent_url, REPLY_TIMEOUT_S)
        if theirs.url == setup.coordinator.url:
            return None
        theirs.get("/fleet/limits")
    except CliError as error:
        remedy = f"to report to this coordinator, run: herd-node --router-url {setup.coordinator.url}"
        message = f"FLEET_NODE_ROUTER_URL does not name a coordinator: {error.problem}"
        return DoctorFinding(ERROR, "local agent", message, remedy)
    return DoctorFinding(
        WARNING,
        "local agent",
        f"reports to another coordinator, {theirs.url}",
        f"to check that coordinator, run: herd doctor --url {theirs.url}",
    )


def _port(url: str) -> int:
    return urllib.parse.urlsplit(url).port or 0


# --- the fleet ---


def _fleet(state: Json) -> Iterator[DoctorFinding]:
    if not state["nodes"]:
        yield DoctorFinding(ERROR, "nodes", "no node has reported", "on each machine with an engine run: herd-node")
    for node in state["nodes"]:
        yield from _node(node)
    for model in by_model(state):
        if model["has_drifted"]:
            nodes = ", ".join(copy["node_id"] for copy in model["nodes"])
            yield DoctorFinding(
                WARNING,
                f"model {model['name']}",
                f"has different versions on {nodes}",
                f"on each of these nodes run: ollama pull {model['name']}",
            )
    if (state.get("store") or {}).get("failing_since") is not None:
        yield DoctorFinding(
            ERROR,
            "traces",
            f"cannot be stored: {state['store']['problem']}",
            "free disk space, or use another folder: herd --data-dir FOLDER",
        )


def _health(coordinator: CoordinatorClient) -> Iterator[DoctorFinding]:
    """The coordinator's own health findings, without those checked above."""
    try:
        found = coordinator.get("/dashboard/api/v1/health")["findings"]
    except (CliError, KeyError):
        # An older coordinator, or a key without the scope `read`.
        return
    for one in found:
        if one["check"] not in CHECKED_HERE and not one["snoozed_until"]:
            command = one["fix"]["commands"][0]["command"] if one["fix"]["commands"] else ""
            level = ERROR if one["severity"] == "critical" else WARNING
            yield DoctorFinding(level, "fleet", one["title"], command or one["fix"]["text"])


def _node(node: Json) -> Iterator[DoctorFinding]:
    subject, silence = f"node {node['node_id']}", duration(node["last_heartbeat_s"] * 1000)
    problems: tuple[tuple[Callable[[], bool], DoctorFinding], ...] = (
        (
            lambda: node["status"] == "offline",
            DoctorFinding(
                WARNING, subject, f"no heartbeat for {silence}", "if it should be online, run on it: herd-node"
            ),
        ),
        (
            lambda: not node["reachable"],
            DoctorFinding(
                ERROR,
                subject,
                "sends heartbeats, but refuses connections from the coordinator",
                "in that machine's firewall, allow the coordinator to connect to the engine's port",
            ),
        ),
        (
            lambda: not node["engines"],
            DoctorFinding(
                ERROR, subject, "has no engine", "on that node, start Ollama, or run: herd-node --engine embedded"
            ),
        ),
        (
            lambda: not node.get("models_total", len(node["models"])),
            DoctorFinding(WARNING, subject, "has no model", "on that node run, for example: ollama pull llama3.2:3b"),
        ),
        (
            lambda: node["memory"]["pressure"] == "critical",
            DoctorFinding(ERROR, subject, "is out of memory", "close programs on that node, or use smaller models"),
        ),
        (
            lambda: node["draining"] or node["paused"],
            DoctorFinding(
                WARNING,
                subject,
                f"accepts no requests: {node_state(node)}",
                "no action needed; the node resumes automatically",
            ),
        ),
    )
    found = next((finding for is_present, finding in problems if is_present()), None)
    engines = ", ".join(engine["kind"] for engine in node["engines"])
    yield found or DoctorFinding(OK, subject, f"{node['status']}, {number(len(node['models']), 'model')}, {engines}")
    if node["agent_version"] and node["agent_version"] != __version__:
        yield DoctorFinding(
            WARNING,
            subject,
            f"its agent is version {node['agent_version']}, this is {__version__}",
            "on the machine with the older version, in a current clone run: pipx install --force .",
        )


# --- printing ---


def _lines(findings: Sequence[DoctorFinding]) -> Iterator[Text]:
    for one in findings:
        mark, style = MARKS[one.level]
        yield from wrapped(Text(mark, style), f"{one.subject}: {one.message}", console.width)
        for line in one.remedy.splitlines():
            yield from wrapped(Text(" " * (len(mark) + 2)), line, console.width)
    yield _summary(findings)


def _summary(findings: Sequence[DoctorFinding]) -> Text:
    errors, warnings = (sum(one.level == level for one in findings) for level in (ERROR, WARNING))
    if not errors and not warnings:
        return Text("No problems found.", "green")
    return Text(f"{number(errors, 'error')}, {number(warnings, 'warning')}.", "red" if errors else "yellow")
