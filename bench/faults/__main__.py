"""`python3 dev.py bench faults`: forty clients, every dialect, and faults of every kind against real processes.

Scripted engines answer so that every byte is known beforehand. Afterwards each client's history is compared with the
rows of the store and with the engines' own logs. The exit status is 1 if a promise is broken. `--real` runs real
llama.cpp engines instead (`--real --help`).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.faults.checking import Run, problems, read_attempts, read_rows
from bench.faults.clients import Clients
from bench.faults.fleet import NODES, Fleet, FleetError, running_fleet
from bench.faults.injecting import Injector, Kind
from bench.faults.plot import plot
from bench.faults.real import run as real
from bench.faults.report import report

PROGRESS_S = 20.0
POLL_S = 0.5
LAST_ANSWERS_MAX_S = 240.0
SMOKE_S, SMOKE_EVERY_S = 12.0, 0.8
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "faults.md"
BEGIN, END = "<!-- history: begin -->", "<!-- history: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long everything in a run lasts, in seconds; ranges are the shortest and the longest."""

    answer_s: tuple[float, float]
    lasts_s: tuple[float, float]
    kill_coordinator_every_s: float
    recovery_s: float
    heartbeat_s: float
    load_s: float


FULL = Pace(
    answer_s=(1.0, 60.0),
    lasts_s=(10.0, 22.0),
    kill_coordinator_every_s=100.0,
    recovery_s=6.0,
    heartbeat_s=5.0,
    load_s=12.0,
)
SMOKE = Pace(
    answer_s=(0.5, 4.0), lasts_s=(1.5, 3.0), kill_coordinator_every_s=6.0, recovery_s=1.0, heartbeat_s=1.0, load_s=2.0
)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="duration of the load (default 120)")
    parser.add_argument("--clients", type=int, default=40, help="number of concurrent clients (default 40)")
    parser.add_argument("--every", type=float, default=6.0, metavar="SECONDS", help="time between faults (default 6)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random choices (default 1)")
    parser.add_argument(
        "--only", default="", metavar="KINDS", help="comma-separated words; only faults with one of them"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every history, row, attempt and fault")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="copy the processes' logs")
    parser.add_argument("--write-docs", action="store_true", help=f"write the tables into {DOCUMENT.name}")
    parser.add_argument("--smoke", action="store_true", help="a short run with short answers and four nodes")
    parser.add_argument("--real", action="store_true", help="run real llama.cpp engines instead")
    chosen = parser.parse_args(given)
    if chosen.smoke:
        chosen.seconds, chosen.every, chosen.write_docs = SMOKE_S, SMOKE_EVERY_S, False
    if chosen.seconds <= 0 or chosen.every <= 0 or chosen.clients < 1:
        parser.error("--seconds and --every must be above 0, --clients at least 1")
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if given is None else given
    if "--real" in given:
        return real.main([one for one in given if one != "--real"])
    chosen = arguments(given)
    if sys.platform != "linux":
        print("SKIPPED: bench faults: its nodes have the addresses 127.0.1.1 and following, which only Linux has")
        return 0 if chosen.smoke else 1
    try:
        run = measure(chosen)
    except FleetError as error:
        print(f"PROBLEM: {error}", file=sys.stderr)
        return 1
    broken = problems(run)
    text = report(run, broken, f"{chosen.seconds:g} s, {chosen.clients} clients, seed {chosen.seed}")
    print(text)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(run), default=str, indent=1), "utf-8")
    if chosen.write_docs:
        before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
        DOCUMENT.with_suffix(".svg").write_text(plot(run, broken), "utf-8")
    if not run.histories or not run.faults:
        print("PROBLEM: no request was sent, or no fault was caused", file=sys.stderr)
        return 1
    return 1 if broken else 0


def measure(chosen: argparse.Namespace) -> Run:
    pace = SMOKE if chosen.smoke else FULL
    with running_fleet(NODES, heartbeat_s=pace.heartbeat_s, load_s=pace.load_s, slow_prefill_s=pace.load_s) as fleet:
        clients = Clients(port=fleet.port, count=chosen.clients, seed=chosen.seed, answer_s=pace.answer_s)
        injector = Injector(
            fleet=fleet,
            every_s=chosen.every,
            lasts_s=pace.lasts_s,
            seed=chosen.seed,
            kill_coordinator_every_s=pace.kill_coordinator_every_s,
            recovery_s=pace.recovery_s,
            kinds=_kinds([word for word in chosen.only.split(",") if word]),
        )
        silent: list[tuple[float, str]] = []
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=(fleet, silent, over), daemon=True)
        watching.start()
        clients.start()
        injector.start()
        _progress(chosen.seconds, clients, injector)
        injector.stop()
        stopping = threading.Thread(target=clients.stop, daemon=True)
        stopping.start()
        stopping.join(LAST_ANSWERS_MAX_S)
        over.set()
        watching.join()
        fleet.stop_coordinator()
        if chosen.keep_logs is not None:
            _copy_logs(fleet, chosen.keep_logs)
        return Run(
            histories=list(clients.histories),
            rows=read_rows(fleet.database),
            attempts=read_attempts({node.plan.name: node.log for node in fleet.nodes}),
            faults=injector.faults,
            plans=NODES,
            known_silent=silent,
        )


def _kinds(words: Sequence[str]) -> tuple[Kind, ...]:
    usual = [kind for kind in Kind if kind is not Kind.COORDINATOR_KILLED]
    return tuple(kind for kind in usual if not words or any(word in kind.value for word in words))


def _progress(seconds: float, clients: Clients, injector: Injector) -> None:
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        time.sleep(min(PROGRESS_S, left_s))
        ends = dict(Counter(one.end for one in list(clients.histories)))
        print(f"{max(0.0, left_s):.0f} s left: {ends}, {len(injector.faults)} faults", file=sys.stderr)


def _watch(fleet: Fleet, silent: list[tuple[float, str]], over: threading.Event) -> None:
    """Writes down when the coordinator begins to report a silent engine or a node that is not online."""
    known: set[str] = set()
    while not over.wait(POLL_S):
        status = fleet.get("/fleet/status")
        if status is None:
            continue
        now = {
            node["node_id"]
            for node in status["nodes"]
            if node["status"] != "online" or any(engine["silent_s"] for engine in node["engines"])
        }
        silent += [(time.monotonic(), name) for name in sorted(now - known)]
        known = now


def _copy_logs(fleet: Fleet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in [*fleet.folder.glob("*.log"), *fleet.folder.glob("*.engine"), *fleet.folder.glob("data/logs/*")]:
        (folder / log.name).write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
