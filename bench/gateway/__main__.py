"""`python3 dev.py bench gateway`: compares the coordinator as a gateway with nginx, sglang-router and no gateway."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.gateway import gateways, instructions, stages, table
from bench.gateway.gateways import Assignment, Gateway, Start
from bench.gateway.instruments import Tools, compiled, compiler, measured, stub
from bench.gateway.machine import BenchmarkError, Cores, cores, facts, pin, usage
from bench.gateway.probe import probe
from bench.gateway.scenarios import CHUNK_KEYS, CHUNK_SCENARIOS, SCENARIOS, SMOKE_KEYS, Scenario
from bench.gateway.table import Cell

NAMES = ("direct", "nginx", "sglang-router", "herd")
WARMUP_S = 0.4
ROUNDS_MIN = 3
SMOKE_SECONDS = 0.5

Rounds = dict[str, dict[str, list[Cell]]]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a run measured: cells by round, resident memory, and the traces that herd stored."""

    machine: Mapping[str, object]
    cores: Cores
    gateways: Sequence[Gateway]
    rounds: Rounds
    rss_bytes: Mapping[str, int]
    stored: Mapping[str, object]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the table shows medians (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of one cell (default 2)")
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(NAMES)}; direct is always included")
    parser.add_argument("--scenarios", default="", help=f"comma-separated: {', '.join(s.key for s in SCENARIOS)}")
    parser.add_argument("--sglang", metavar="PATH", help="the sglang-router program, if it is not in PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measured values, also those of each round")
    parser.add_argument(
        "--smoke", action="store_true", help="check every path in a few seconds; exit status 1 on an error"
    )
    parser.add_argument(
        "--stages", action="store_true", help="measure only how long each stage of a request takes in herd"
    )
    parser.add_argument(
        "--chunks",
        action="store_true",
        help="measure only the CPU time of herd for each chunk of passed and translated streams",
    )
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count the instructions of requests and chunks; exit status 1 if one needs more than the stored figure",
    )
    parser.add_argument("--record", action="store_true", help="with --instructions: store the figures of this Python")
    chosen = parser.parse_args(given)
    if chosen.rounds < 1 or not 0.1 <= chosen.seconds <= 60:
        parser.error("--rounds must be at least 1 and --seconds between 0.1 and 60")
    keys = [s.key for s in SCENARIOS]
    for option, known, usual in (("only", NAMES, NAMES), ("scenarios", (*keys, *CHUNK_KEYS), keys)):
        names = [name for name in getattr(chosen, option).split(",") if name]
        if unknown := set(names) - set(known):
            parser.error(f"--{option}: unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
        setattr(chosen, option, names or list(usual))
    if chosen.chunks:
        chosen.only, chosen.scenarios = ["herd"], list(CHUNK_KEYS)
    if chosen.smoke:
        chosen.rounds, chosen.seconds, chosen.scenarios, chosen.json = 1, SMOKE_SECONDS, list(SMOKE_KEYS), None
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    signal.signal(signal.SIGTERM, _interrupt)
    if chosen.smoke and (compiler() is None or sys.platform != "linux"):
        print("SKIPPED: the gateway benchmark needs Linux and a C compiler (cc, gcc or clang)")
        return 0
    try:
        if chosen.instructions:
            return instructions.measure(chosen.record)
        if chosen.stages:
            return stages.measure_stages(chosen.smoke)
        result = measure(chosen)
    except BenchmarkError as error:
        print(f"bench gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if chosen.smoke:
        return print_smoke(result)
    print_report(result, chosen)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(as_json(result, chosen), indent=1) + "\n", "utf-8")
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Ends as Ctrl-C does, so that every started process is ended too."""
    raise KeyboardInterrupt


def measure(chosen: argparse.Namespace) -> Result:
    tools, used = compiled(), cores()
    machine = facts()
    pin(used.instruments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-bench-")))
        folder.chmod(0o755)  # nginx gives up its rights and must still read it
        stub_port = stack.enter_context(stub(tools, used.instruments, folder))
        started = start(stack, chosen, stub_port, used, folder)
        scenarios = [s for s in (*SCENARIOS, *CHUNK_SCENARIOS) if s.key in chosen.scenarios]
        rounds = run(tools, started, scenarios, chosen, folder)
        rss_bytes = {g.name: usage(g.pid).rss_bytes for g in started if g.pid is not None}
        stored = next((g.stored_traces() for g in started if g.name == "herd"), {})
    return Result(machine, used, started, rounds, rss_bytes, stored)


def start(stack: ExitStack, chosen: argparse.Namespace, stub_port: int, used: Cores, folder: Path) -> list[Gateway]:
    """Starts all chosen gateways that are installed. All run, but only one is busy, so that rounds can interleave."""
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
                print(f"SKIPPED: {name} is not installed", flush=True)
            continue
        own = folder / name
        own.mkdir()
        own.chmod(0o777)
        try:
            started.append(stack.enter_context(begin(Assignment(stub_port, used.gateway, own))))
        except BenchmarkError as error:
            raise BenchmarkError(f"{name}: {error}") from error
    return started


def run(
    tools: Tools, started: Sequence[Gateway], scenarios: Sequence[Scenario], chosen: argparse.Namespace, folder: Path
) -> Rounds:
    """Interleaves the gateways, so that a change of the machine's speed affects all of them."""
    served = {g.name: [_with_lines(g, s) for s in scenarios if s.path in g.paths] for g in started}
    rounds: Rounds = {name: {s.key: [] for s in some} for name, some in served.items()}
    for number in range(chosen.rounds):
        print(f"round {number + 1} of {chosen.rounds}", end="", flush=True)
        for key in (scenario.key for scenario in scenarios):
            for gateway in started:
                for scenario in (one for one in served[gateway.name] if one.key == key):
                    rounds[gateway.name][key].append(_cell(tools, gateway, scenario, chosen.seconds, folder))
                    print(".", end="", flush=True)
        print(flush=True)
    return rounds


def _with_lines(gateway: Gateway, scenario: Scenario) -> Scenario:
    """Checks one answer, and requires of all later streams the same number of lines."""
    try:
        answer = probe(gateway.port, scenario)
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{gateway.name}: {scenario.key}: no answer: {error!r}") from error
    except BenchmarkError as error:
        raise BenchmarkError(f"{gateway.name}: {error}") from error
    return replace(scenario, load=replace(scenario.load, lines=answer.lines)) if scenario.is_stream else scenario


def _cell(tools: Tools, gateway: Gateway, scenario: Scenario, seconds: float, folder: Path) -> Cell:
    cpu_before_s = usage(gateway.pid).cpu_s if gateway.pid is not None else 0.0
    began = time.monotonic()
    reading = measured(tools, scenario.load, gateway.port, seconds, WARMUP_S, folder)
    wall_s = time.monotonic() - began
    cpu_s = usage(gateway.pid).cpu_s - cpu_before_s if gateway.pid is not None else 0.0
    if reading.reason:
        print(f"\n{gateway.name}, {scenario.key}: {reading.reason}")
    return table.cell(reading, scenario.load, cpu_s, wall_s)


def print_smoke(result: Result) -> int:
    """Exit status 1 if a cell has no correct answer, if an answer was incorrect, or if herd lost a trace."""
    problems = lost_traces(result)
    for name, cells in table.medians(result.rounds).items():
        for key, cell in cells.items():
            if cell.errors or not cell.all_answers:
                problems.append(f"{name}, {key}: {cell.all_answers:.0f} correct answers, {cell.errors:.0f} errors")
            print(f"{name}, {key}: {cell.all_answers:.0f} correct answers")
    print("\n".join(f"PROBLEM {problem}" for problem in problems) or "every path answers correctly")
    return 1 if problems else 0


def print_report(result: Result, chosen: argparse.Namespace) -> None:
    machine, found = result.machine, table.medians(result.rounds)
    system = f"{machine['system']}, Python {machine['python']}, load {machine['load_before']}"
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {system}")
    print(", ".join(f"{g.name} {g.version}".strip() for g in result.gateways))
    print(f"medians of {chosen.rounds} rounds of {chosen.seconds:g} s a cell\n")
    if chosen.chunks:
        print(table.chunk_table(result.rounds["herd"]))
        return
    print(f"{table.tables(found, result.rss_bytes)}\n")
    if "herd" in found:
        print("\n".join(table.goals(found, result.rss_bytes)))
        print(f"traces that herd stored: {json.dumps(result.stored)}")
    for warning in [*_about_the_run(result.cores, chosen), *table.warnings(found), *lost_traces(result)]:
        print(f"warning: {warning}")


def as_json(result: Result, chosen: argparse.Namespace) -> dict[str, object]:
    found, rounds = table.medians(result.rounds), result.rounds
    return {
        "machine": result.machine,
        "cores": asdict(result.cores),
        "seconds": chosen.seconds,
        "versions": {g.name: g.version for g in result.gateways},
        "rss_bytes": result.rss_bytes,
        "stored": result.stored,
        "medians": {name: {key: asdict(c) for key, c in cells.items()} for name, cells in found.items()},
        "rounds": {name: {k: [asdict(c) for c in cs] for k, cs in cells.items()} for name, cells in rounds.items()},
    }


def _about_the_run(used: Cores, chosen: argparse.Namespace) -> list[str]:
    out = []
    if used.gateway is None:
        out.append("there is only one core, so the load generator slows the gateway down")
    if chosen.rounds < ROUNDS_MIN:
        out.append(f"fewer than {ROUNDS_MIN} rounds: the ratios are not reliable")
    return out


def lost_traces(result: Result) -> list[str]:
    """Checks that herd stored a trace of every correct answer that the load generator saw."""
    store, rows = result.stored.get("store"), result.stored.get("rows")
    if not isinstance(store, dict) or not isinstance(rows, dict):
        return []
    lost = {name: store[name] for name in ("dropped", "unusable", "waiting") if store.get(name)}
    served = sum(int(c.all_answers) for cells in result.rounds["herd"].values() for c in cells)
    out = [f"herd's store reports lost rows: {json.dumps(lost)}"] if lost else []
    if rows.get("completed", 0) < served:
        out.append(f"herd answered {served} requests and stored {rows.get('completed', 0)} traces")
    return out


if __name__ == "__main__":
    sys.exit(main())
