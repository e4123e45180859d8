"""`python3 dev.py bench scale`: what heartbeats, pages, decisions and queries cost the coordinator of a large fleet.

A coordinator process gets the heartbeats of many pretended nodes; its CPU time is measured by the system. The decisions
are measured in this process, with the coordinator's own core. The exit status is 1 if a goal is missed; `--smoke` does
not judge times.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import herd
from bench.scale import database
from bench.scale.decisions import decision_ms
from bench.scale.nodes import bodies, send
from herd.cli.demo.fleet import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks" / "scale.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
BEGIN_PAGES, END_PAGES = "<!-- queries: begin -->", "<!-- queries: end -->"
START_MAX_S = 60.0
HEARTBEAT_EVERY_S = 5.0
PAGES = (
    "/fleet/status",
    "/fleet/status?detail=full",
    "/fleet/status?node=node-0000",
    "/dashboard/api/overview",
    "/dashboard/api/model-management",
    "/dashboard/api/health",
    "/api/tags",
    "/v1/models",
)
CANDIDATES = (1, 100, 1000)
GOAL_MS = 0.3
BUSY_NODES, BUSY_REQUESTS, USERS = 1000, 1000, 20
NODES, SMOKE_NODES = 1000, 60
PAGE_REPEATS = 15


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure: `value` and its goal have the unit in the name."""

    name: str
    value: float
    goal: float | None

    @property
    def is_missed(self) -> bool:
        return self.goal is not None and self.value > self.goal


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help=f"number of pretended nodes (default {NODES})")
    parser.add_argument("--models", type=int, default=10, help="models on each node (default 10)")
    parser.add_argument("--rounds", type=int, default=5, help="heartbeats of each node (default 5)")
    parser.add_argument("--rows", type=int, default=database.ROWS, help=f"trace rows (default {database.ROWS:,})")
    parser.add_argument("--only", choices=("fleet", "database"), help="measure only one part")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table into {DOCUMENT.name}")
    parser.add_argument("--smoke", action="store_true", help=f"check with {SMOKE_NODES} nodes that the benchmark works")
    chosen = parser.parse_args(given)
    if min(chosen.nodes, chosen.models, chosen.rounds, chosen.rows) < 1:
        parser.error("--nodes, --models, --rounds and --rows must be at least 1")
    if chosen.smoke:
        chosen.nodes, chosen.rounds, chosen.rows, chosen.write_docs = SMOKE_NODES, 2, database.SMOKE_ROWS, False
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    problems: list[str] = []
    if chosen.only != "database":
        found = [*measure_process(chosen), *measure_decisions(chosen)]
        publish(table(found), BEGIN, END, chosen.write_docs)
        problems += [f"{one.name}: {one.value:.3f}, goal {one.goal:g}" for one in found if one.is_missed]
    if chosen.only != "fleet":
        pages = database.measure_pages(chosen.rows)
        publish(database.table(pages), BEGIN_PAGES, END_PAGES, chosen.write_docs)
        problems += [f"{one.page}: {one.cpu_p99:.0f} ms, goal {database.GOAL_MS:g}" for one in pages if one.is_missed]
    # A smoke run shares its machine with other tests, so its times prove nothing.
    for problem in () if chosen.smoke else problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 1 if problems and not chosen.smoke else 0


def publish(text: str, begin: str, end: str, is_written: bool) -> None:
    """Prints a table, and writes it between its two marks in the document."""
    print(text)
    if is_written:
        before, _, rest = DOCUMENT.read_text("utf-8").partition(begin)
        DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")


def table(found: Sequence[Measured]) -> str:
    lines = ["| figure | measured | goal |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.value:.2f} | {'' if one.goal is None else f'{one.goal:g}'} |" for one in found]
    return "\n".join(lines)


def measure_decisions(chosen: argparse.Namespace) -> list[Measured]:
    counts = [count for count in CANDIDATES if count <= chosen.nodes]
    found = [
        Measured(f"CPU of a request, ms, {count:,} nodes with the model", decision_ms(count, chosen.models), GOAL_MS)
        for count in counts
    ]
    if chosen.nodes >= BUSY_NODES:
        name = f"CPU of a request, ms, {BUSY_NODES:,} nodes with the model and {BUSY_REQUESTS:,} requests running"
        found.append(Measured(name, decision_ms(BUSY_NODES, chosen.models, BUSY_REQUESTS), GOAL_MS))
        of_users_ms = decision_ms(BUSY_NODES, chosen.models, BUSY_REQUESTS, USERS)
        found.append(Measured(f"{name} of {USERS} users", of_users_ms, GOAL_MS))
    return found


def measure_process(chosen: argparse.Namespace) -> list[Measured]:
    heartbeats = bodies(chosen.nodes, chosen.models)
    with tempfile.TemporaryDirectory(prefix="herd-scale-") as folder, coordinator(Path(folder)) as (process, port):
        refused = [status for status in send(port, heartbeats) if status != 200]
        if refused:
            raise SystemExit(f"{len(refused)} heartbeats were refused, the first with status {refused[0]}")
        used_s = _cpu_s(process)
        began_at = time.monotonic()
        for _ in range(chosen.rounds):
            list(send(port, heartbeats))
        own_s = idle_cpu_s(process) * (time.monotonic() - began_at)
        each_ms = max(0.0, _cpu_s(process) - used_s - own_s) * 1000.0 / (chosen.rounds * chosen.nodes)
        share = each_ms / 1000.0 * chosen.nodes / HEARTBEAT_EVERY_S * 100.0
        found = [
            Measured("CPU of one heartbeat, ms", each_ms, 0.25),
            Measured(f"share of a core for {chosen.nodes:,} nodes, %", share, 5.0),
        ]
        for page in PAGES:
            found.append(measured_page(process, port, page))
        tag = Asked(port, "/fleet/status").tag
        found.append(measured_page(process, port, "/fleet/status", tag))
    return found


def measured_page(process: psutil.Process, port: int, path: str, tag: str = "") -> Measured:
    """The coordinator's CPU time of one page; with `tag`, of the answer that it has not changed."""
    used_s = _cpu_s(process)
    asked = [Asked(port, path, tag) for _ in range(PAGE_REPEATS)]
    each_s = (_cpu_s(process) - used_s) / PAGE_REPEATS
    what = "unchanged" if tag else f"{asked[0].size_bytes / 1000:,.0f} kB"
    return Measured(f"CPU of `GET {path}`, ms ({what})", each_s * 1000.0, 100.0)


def idle_cpu_s(process: psutil.Process) -> float:
    """CPU seconds per second that the coordinator uses between heartbeats, such as for its sweeps."""
    used_s, began_at = _cpu_s(process), time.monotonic()
    time.sleep(2.0)
    return (_cpu_s(process) - used_s) / (time.monotonic() - began_at)


class Asked:
    """One page: its size and its tag."""

    def __init__(self, port: int, path: str, tag: str = "") -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)) as connection:
            connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
            response = connection.getresponse()
            self.size_bytes = len(response.read())
            self.tag = response.getheader("ETag") or ""
            if response.status != (304 if tag else 200):
                raise SystemExit(f"GET {path} was answered with status {response.status}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A coordinator with default settings, open to unpaired nodes."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    sources = str(Path(herd.__file__).parents[1])
    own = {"FLEET_MDNS": "false", "FLEET_OPEN": "true", "FLEET_ENV_FILE": os.devnull, "PYTHONPATH": sources}
    argv = [sys.executable, "-m", "herd", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, "--data-dir", str(folder / "data")], stdout=log, stderr=log, env={**inherited, **own}
        )
    try:
        _await_answer(port, process)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(30.0)


def _await_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_MAX_S
    while True:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)) as connection:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the coordinator did not start")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
