"""Counts the instructions of requests and chunks under callgrind: other load on the machine does not change them.

`python3 dev.py bench gateway --instructions` compares them with the stored figures (instructions.json). It fails if one
has grown by more than `GROWTH_MAX`. Only the thread of the event loop is counted: not the thread that writes traces to
the database, and not the kernel.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.gateway.instruments import HERE, compiler, shared_library
from bench.gateway.machine import BenchmarkError
from bench.gateway.offline import Fleet, run
from bench.gateway.offline_answers import CASES
from herd.build_form import PURE, build_form

STORED = HERE / "instructions.json"
GROWTH_MAX = 0.03
TIME_MAX_S = 900.0
REQUESTS, STREAMS = 20, 6
"""How many whole answers, and how many streams of each length, are counted."""
WARMUP = 12
"""In the first requests Python still adapts its bytecode."""
CHUNKS = {1: (64, 128), 10: (64, 384)}
"""Two lengths of streams by the number of chunks in a read: the difference is what the further chunks cost."""
Figures = dict[str, int]
"""Instructions by what was counted, in the order of the table."""


def measure(is_recording: bool) -> int:
    """Counts, prints the table, and compares or stores the figures. Returns the exit status."""
    lacking = _lacking()
    if lacking:
        print(f"SKIPPED: INSTRUCTIONS ARE NOT COUNTED: {lacking}")
        return 0
    stored = _stored()
    if _build() not in stored and not is_recording:
        print(
            f"SKIPPED: INSTRUCTIONS ARE NOT COMPARED: there are no figures for {_build()}; add --record to store them"
        )
    counted = count()
    before = stored.get(_build(), {})
    print(table(counted, before))
    if is_recording:
        STORED.write_text(json.dumps({**stored, _build(): counted}, indent=1, sort_keys=True) + "\n", "utf-8")
        return 0
    grown = grown_figures(counted, before)
    for line in grown:
        print(f"PROBLEM {line}")
    return 1 if grown else 0


def grown_figures(counted: Figures, before: Figures) -> list[str]:
    """One line for each figure that is over its limit. Figures that are not stored are not compared."""
    limits = {name: number * (1 + GROWTH_MAX) for name, number in before.items()}
    return [
        f"{name}: {counted[name]} instructions, {counted[name] / before[name] - 1:+.1%}: more than {GROWTH_MAX:+.0%}"
        for name, limit in limits.items()
        if counted.get(name, 0) > limit
    ]


def table(counted: Figures, before: Figures) -> str:
    rows = [f"| {'thousand instructions':34} | {'now':>7} | {'stored':>7} | change |"]
    rows.append(f"|{'-' * 36}|{'-' * 9}|{'-' * 9}|{'-' * 8}|")
    for name, number in counted.items():
        was = before.get(name)
        old, change = (f"{was / 1000:.1f}", f"{number / was - 1:+.1%}") if was else ("", "")
        rows.append(f"| {name:34} | {number / 1000:7.1f} | {old:>7} | {change:>6} |")
    return "\n".join(rows)


def _lacking() -> str:
    if sys.platform != "linux":
        return "callgrind is only used on Linux"
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    return "" if compiler() is not None else "no C compiler was found"


def _build() -> str:
    """Every build of Python needs other numbers of instructions for the same work, and so does each form of herd.

    So does each level of the C compiler: CI compiles without optimization, to save time.
    """
    python = f"Python {platform.python_version()}, {platform.python_compiler()}, {platform.machine()}"
    level = os.environ.get("HERD_COMPILE_LEVEL", "2")
    return python if build_form() == PURE else f"{python}, {build_form()}, level {level}"


def _stored() -> dict[str, Figures]:
    return dict(json.loads(STORED.read_text("utf-8"))) if STORED.exists() else {}


# --- counting ---


def count() -> Figures:
    """Runs this file under callgrind and reads what it has counted. Raises `BenchmarkError`."""
    library = shared_library("marks.c")
    with tempfile.TemporaryDirectory(prefix="herd-callgrind-") as folder:
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
        argv = [*tool, f"--callgrind-out-file={folder}/out", sys.executable, "-m", "bench.gateway.instructions"]
        env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
        env = {name: value for name, value in env.items() if not name.startswith("FLEET_")}
        done = subprocess.run(
            [*argv, str(library)], env=env, capture_output=True, text=True, timeout=TIME_MAX_S, check=False
        )
        totals = dict(read_totals(Path(folder)))
    if done.returncode or not totals:
        lines = (done.stderr.strip().splitlines() or ["no reason given"])[-3:]
        raise BenchmarkError(f"valgrind did not run herd: {' | '.join(lines)}")
    return _figures(totals)


def read_totals(folder: Path) -> Iterator[tuple[str, int]]:
    """The name and the instructions of every part, from the dumps of the first thread."""
    for path in folder.glob("out.*-01"):
        text = path.read_text("utf-8", "replace")
        name, total = (
            re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.M),
            re.search(r"^(?:totals|summary): (\d+)", text, re.M),
        )
        if name is not None and total is not None:
            yield name[1], int(total[1])


def _figures(totals: Mapping[str, int]) -> Figures:
    found: Figures = {}
    for case in CASES:
        if case.whole:
            found[f"{case.key}, whole answer"] = totals[case.key] // REQUESTS
    for case in CASES:
        chunks = CHUNKS[1][0]
        found[f"{case.key}, stream of {chunks}"] = totals[f"{case.key} {chunks} 1"] // STREAMS
    for case in CASES:
        for per_read, lengths in CHUNKS.items():
            short, long = (totals[f"{case.key} {chunks} {per_read}"] for chunks in lengths)
            name = f"{case.key}, chunk of {per_read}"
            found[name] = (long - short) // (STREAMS * (lengths[1] - lengths[0]))
    return found


# --- the counted process ---


async def counted_requests(fleet: Fleet, marks: ctypes.CDLL) -> None:
    for case in CASES:
        for stream in (True, False) if case.whole else (True,):
            await fleet.check(case, stream)
        if case.whole:
            fleet.prepare(case, False)
            await fleet.send(case, WARMUP, False)
            marks.count_from_here()
            await fleet.send(case, REQUESTS, False)
            marks.count_until_here(case.key.encode())
        for per_read, lengths in CHUNKS.items():
            fleet.prepare(case, True, lengths[1], per_read)  # what is prepared at its first use is not counted
            await fleet.send(case, WARMUP, True)
            for chunks in lengths:
                fleet.prepare(case, True, chunks, per_read)
                marks.count_from_here()
                await fleet.send(case, STREAMS, True)
                marks.count_until_here(f"{case.key} {chunks} {per_read}".encode())


def main() -> None:
    marks = ctypes.CDLL(sys.argv[1])
    gc.disable()  # when a collection runs depends on everything that ran before
    run(lambda fleet: counted_requests(fleet, marks))


if __name__ == "__main__":
    main()
