"""`python3 dev.py bench faults --real`: real llama.cpp engines answer requests while their nodes are killed or frozen.

The exit status is 1 if the fleet lost a request that it could have saved: one that failed before its first byte, or a
plain text answer that ended early.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.faults.real.breaking import Breaker
from bench.faults.real.load import LENGTHS, QUESTIONS, Load, Result, ask
from herd.agent.embedded import EmbeddedSettings, EngineUnavailable, model_path
from herd.cli.demo.fleet import demo_fleet

PORT = 11875
PROGRESS_S = 15.0
SMOKE_S = 10.0
SMOKE_EVERY_S = 3.0
SMOKE_QUESTIONS = 2
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "faults.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = (
    "| API | sent | complete | of these retried | of these continued on another node | with the expected text "
    "| refused | broken | lost |"
)
ERROR_LINES = 12

Texts = dict[tuple[str, int], str]
"""The expected text by question and length."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run sent and did."""

    load: Load
    breaker: Breaker
    expected: Texts


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench faults --real", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="duration of the load (default 5)")
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="time between two faults (default 5)"
    )
    parser.add_argument("--clients", type=int, default=4, help="number of concurrent clients (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random choices (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every request and every fault")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table into {DOCUMENT.name}")
    parser.add_argument(
        "--smoke", action="store_true", help="check with a few requests and faults that no request is lost"
    )
    chosen = parser.parse_args(given)
    if chosen.minutes <= 0 or chosen.every <= 0 or chosen.clients < 1:
        parser.error("--minutes and --every must be above 0, --clients at least 1")
    chosen.questions, chosen.lengths = QUESTIONS, LENGTHS
    if chosen.smoke:
        chosen.minutes, chosen.every, chosen.json, chosen.write_docs = SMOKE_S / 60, SMOKE_EVERY_S, None, False
        chosen.questions, chosen.lengths = QUESTIONS[:SMOKE_QUESTIONS], LENGTHS[:1]
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    try:
        model_path(EmbeddedSettings())
    except EngineUnavailable as missing:
        print(f"SKIPPED: bench faults --real: {missing}" if chosen.smoke else missing)
        return 0 if chosen.smoke else 1
    run = measure(chosen)
    text = report(run, chosen)
    print(text)
    results = run.load.results
    if chosen.json is not None:
        everything = {"results": [asdict(one) for one in results], "events": run.breaker.events}
        chosen.json.write_text(json.dumps(everything, indent=1), "utf-8")
    if chosen.write_docs:
        before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
    if not results or not run.breaker.events:
        print("PROBLEM: no request was sent, or no fault was caused", file=sys.stderr)
        return 1
    return 1 if any(one.end != "complete" for one in results) else 0


def measure(chosen: argparse.Namespace) -> Run:
    with demo_fleet(PORT) as fleet:
        fleet.start_coordinator()
        fleet.start_nodes()
        url = fleet.coordinator.url
        # The answers of a fleet without faults are the expected ones.
        texts = {(q, length): ask(url, "ollama", q, length).text for q in chosen.questions for length in chosen.lengths}
        load = Load(
            url=url, clients=chosen.clients, seed=chosen.seed, questions=chosen.questions, lengths=chosen.lengths
        )
        breaker = Breaker(fleet=fleet, every_s=chosen.every, seed=chosen.seed)
        load.start()
        breaker.start()
        ends_at = time.monotonic() + chosen.minutes * 60
        while (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(PROGRESS_S, left_s))
            ends = Counter(one.end for one in load.results)
            print(f"{left_s:.0f} s left: {dict(ends)}, {len(breaker.events)} faults", file=sys.stderr)
        breaker.stop()
        load.stop()
    return Run(load, breaker, texts)


def report(run: Run, chosen: argparse.Namespace) -> str:
    """Markdown: the requests and their results by API, and the faults."""
    results, breaker = run.load.results, run.breaker
    faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(Counter(k for _, k, _ in breaker.events).items()))
    apis = sorted({one.api for one in results})
    groups = [(api, [one for one in results if one.api == api]) for api in apis] + [("**all**", results)]
    lines = [
        f"{chosen.minutes:g} minutes, {chosen.clients} clients, three nodes on one machine, seed {chosen.seed}. "
        f"One fault every {chosen.every:g} s: {faults}; {breaker.skipped} times none, because only one node answered.",
        "",
        HEAD,
        "|" + "---|" * 9,
        *(_row(api, some, run.expected) for api, some in groups),
        *_errors(results),
    ]
    slow = sorted(one.seconds for one in results)
    if slow:
        p50, p99 = slow[len(slow) // 2], slow[int(len(slow) * 0.99)]
        lines += ["", f"Seconds to the complete answer: p50 {p50:.1f}, p99 {p99:.1f}."]
    if known := sorted(breaker.detected_s):
        p50, p99 = known[len(known) // 2], known[int(len(known) * 0.99)]
        found = f"{len(known)} of {len(known) + breaker.undetected}"
        lines += ["", f"Frozen engines detected: {found}; seconds until then: p50 {p50:.1f}, p99 {p99:.1f}."]
    return "\n".join(lines)


def _row(api: str, some: Sequence[Result], expected: Texts) -> str:
    complete = [one for one in some if one.end == "complete"]
    same = sum(one.text == expected[one.question, one.length] for one in complete)
    retried, continued = sum(one.retries > 0 for one in complete), sum(one.was_continued for one in complete)
    ends = Counter(one.end for one in some)
    counts = [len(some), len(complete), retried, continued, same, ends["refused"], ends["broken"], ends["lost"]]
    return " | ".join([f"| {api}", *map(str, counts)]) + " |"


def _errors(results: Sequence[Result]) -> list[str]:
    failed = [one for one in results if one.end != "complete"]
    counted = Counter(f"{one.api}, {one.end} ({one.status}): {one.error[:120]}" for one in failed)
    lines = [f"- {count} x {error}" for error, count in counted.most_common(ERROR_LINES)]
    return ["", "Requests without a complete answer:", "", *lines] if lines else []


if __name__ == "__main__":
    sys.exit(main())
