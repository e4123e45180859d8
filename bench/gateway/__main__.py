"""`python3 dev.py bench gateway`: the coordinator as a gateway, beside nginx, sglang-router and nobody at all."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.gateway import gateways, table
from bench.gateway.gateways import Gateway, Place, Start
from bench.gateway.instruments import Tools, compiled, measured, stub
from bench.gateway.machine import Cores, Trouble, cores, facts, pin, usage
from bench.gateway.scenarios import SCENARIOS, Scenario
from bench.gateway.table import Cell

NAMES = ("direct", "nginx", "sglang-router", "herd")
WARMUP_S = 0.4
ROUNDS_MIN = 3

Rounds = dict[str, dict[str, list[Cell]]]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are taken over them (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one cell (default 2)")
    parser.add_argument("--only", default="", help=f"some of {', '.join(NAMES)}, by commas; direct is always there")
    parser.add_argument("--scenarios", default="", help=f"some of {', '.join(s.key for s in SCENARIOS)}, by commas")
    parser.add_argument("--sglang", metavar="PATH", help="the sglang-router program, if it is not in PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured, also per round")
    chosen = parser.parse_args(given)
    if chosen.rounds < 1 or not 0.1 <= chosen.seconds <= 60:
        parser.error("--rounds must be at least 1 and --seconds between 0.1 and 60")
    for option, known in (("only", NAMES), ("scenarios", tuple(s.key for s in SCENARIOS))):
        names = [name for name in getattr(chosen, option).split(",") if name]
        if unknown := set(names) - set(known):
            parser.error(f"--{option}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
        setattr(chosen, option, names or list(known))
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    signal.signal(signal.SIGTERM, _leave)
    try:
        tools, used = compiled(), cores()
        machine = facts()
        pin(used.instruments)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-bench-")))
            folder.chmod(0o755)  # nginx drops its rights
            stub_port = stack.enter_context(stub(tools, used.instruments, folder))
            started = start(stack, chosen, stub_port, used, folder)
            scenarios = [s for s in SCENARIOS if s.key in chosen.scenarios]
            rounds = run(tools, started, scenarios, chosen, folder)
            rss = {g.name: usage(g.pid).rss_bytes for g in started if g.pid is not None}
            books = {g.name: g.books() for g in started if g.name == "herd"}
    except Trouble as error:
        print(f"bench gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    tell(machine, used, chosen, started, rounds, rss, books)
    return 0


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """Ends as Ctrl-C does, so that every process is ended on the way."""
    raise KeyboardInterrupt


def start(stack: ExitStack, chosen: argparse.Namespace, stub_port: int, used: Cores, folder: Path) -> list[Gateway]:
    """Everybody who is wanted and there. All run at once and idle in turn, so that rounds can be interleaved."""
    known: dict[str, Start | None] = {
        "direct": gateways.direct,
        "nginx": gateways.nginx() if "nginx" in chosen.only else None,
        "sglang-router": gateways.sglang(chosen.sglang) if "sglang-router" in chosen.only else None,
        "herd": gateways.herd() if "herd" in chosen.only else None,
    }
    started: list[Gateway] = []
    for name, begin in known.items():
        if begin is None:
            if name in chosen.only:
                print(f"{name} is not installed: left out", flush=True)
            continue
        own = folder / name
        own.mkdir()
        own.chmod(0o777)
        try:
            started.append(stack.enter_context(begin(Place(stub_port, used.gateway, own))))
        except Trouble as error:
            raise Trouble(f"{name}: {error}") from error
    return started


def run(
    tools: Tools, started: Sequence[Gateway], scenarios: Sequence[Scenario], chosen: argparse.Namespace, folder: Path
) -> Rounds:
    """A B C, A B C, A B C: what drifts on the machine meets all alike."""
    rounds: Rounds = {g.name: {s.key: [] for s in scenarios} for g in started}
    for number in range(chosen.rounds):
        print(f"round {number + 1} of {chosen.rounds}", end="", flush=True)
        for scenario in scenarios:
            for gateway in started:
                rounds[gateway.name][scenario.key].append(_cell(tools, gateway, scenario, chosen.seconds, folder))
                print(".", end="", flush=True)
        print(flush=True)
    return rounds


def _cell(tools: Tools, gateway: Gateway, scenario: Scenario, seconds: float, folder: Path) -> Cell:
    cpu_before_s = usage(gateway.pid).cpu_s if gateway.pid is not None else 0.0
    began = time.monotonic()
    reading = measured(tools, scenario.load, gateway.port, seconds, WARMUP_S, folder)
    wall_s = time.monotonic() - began
    cpu_s = usage(gateway.pid).cpu_s - cpu_before_s if gateway.pid is not None else 0.0
    if reading.reason:
        print(f"\n{gateway.name}, {scenario.key}: {reading.reason}")
    return table.cell(reading, scenario.load.connections, cpu_s, wall_s, scenario.is_stream)


def tell(
    machine: Mapping[str, object],
    used: Cores,
    chosen: argparse.Namespace,
    started: Sequence[Gateway],
    rounds: Rounds,
    rss: Mapping[str, int],
    books: Mapping[str, Mapping[str, object]],
) -> None:
    found = table.medians(rounds)
    print(
        f"\n{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, load {machine['load_before']}"
    )
    print(", ".join(f"{g.name} {g.version}".strip() for g in started))
    print(f"medians of {chosen.rounds} rounds of {chosen.seconds:g} s a cell\n\n{table.tables(found, rss)}\n")
    if "herd" in found:
        print("\n".join(table.aims(found, rss)))
        print(f"herd's books: {json.dumps(books['herd'])}")
    for warning in [*_about_the_run(used, chosen), *table.warnings(found), *_about_books(books, rounds)]:
        print(f"warning: {warning}")
    if chosen.json is not None:
        everything = {
            "machine": machine,
            "cores": asdict(used),
            "seconds": chosen.seconds,
            "versions": {g.name: g.version for g in started},
            "rss_bytes": rss,
            "books": books,
            "medians": {name: {key: asdict(c) for key, c in cells.items()} for name, cells in found.items()},
            "rounds": {name: {k: [asdict(c) for c in cs] for k, cs in cells.items()} for name, cells in rounds.items()},
        }
        chosen.json.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")


def _about_the_run(used: Cores, chosen: argparse.Namespace) -> list[str]:
    out = []
    if used.gateway is None:
        out.append("nothing is pinned: there is one core only, so the generator slows the gateway down")
    if chosen.rounds < ROUNDS_MIN:
        out.append(f"fewer than {ROUNDS_MIN} rounds: read the ratios with care")
    return out


def _about_books(books: Mapping[str, Mapping[str, object]], rounds: Rounds) -> list[str]:
    """Whether every whole answer that the generator saw has its row."""
    store, rows = books.get("herd", {}).get("store"), books.get("herd", {}).get("rows")
    if not isinstance(store, dict) or not isinstance(rows, dict):
        return []
    lost = {name: store[name] for name in ("dropped", "unusable", "waiting") if store.get(name)}
    served = sum(int(c.all_answers) for cells in rounds["herd"].values() for c in cells)
    out = [f"herd's store says that it lost rows: {json.dumps(lost)}"] if lost else []
    if rows.get("completed", 0) < served:
        out.append(f"herd gave {served} whole answers and wrote down {rows.get('completed', 0)}")
    return out


if __name__ == "__main__":
    sys.exit(main())
