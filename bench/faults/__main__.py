"""`dev.py bench faults`: real llama.cpp engines under load while a node is killed, frozen or loses its engine every few seconds.

Exit status 1 when a request was lost that the fleet could have saved: one that failed before its first byte, or a plain text answer
that broke off.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.faults.breaking import Breaker
from bench.faults.load import LENGTHS, QUESTIONS, Load, Result, ask
from herd.cli.demo.fleet import demo_fleet

PORT = 11875
PROGRESS_S = 15.0
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "faults.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two losses")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every request and every loss")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table into {DOCUMENT.name}")
    chosen = parser.parse_args(given)
    if chosen.minutes <= 0 or chosen.every <= 0 or chosen.clients < 1:
        parser.error("--minutes and --every must be above 0, --clients at least 1")
    load, breaker, right = played(chosen)
    text = report(load.results, breaker, right, chosen)
    print(text)
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps({"results": [asdict(one) for one in load.results], "events": breaker.events}, indent=1), "utf-8"
        )
    if chosen.write_docs:
        before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
    return 1 if any(one.end != "whole" for one in load.results) else 0


def played(chosen: argparse.Namespace) -> tuple[Load, Breaker, dict[tuple[str, int], str]]:
    with demo_fleet(PORT) as fleet:
        fleet.start_coordinator()
        fleet.start_nodes()
        url = fleet.coordinator.url
        # What is right: the answers of a fleet that nobody disturbs.
        right = {
            (question, length): ask(url, "ollama", question, length).text
            for question in QUESTIONS
            for length in LENGTHS
        }
        load, breaker = Load(url, chosen.clients, chosen.seed), Breaker(fleet, chosen.every, chosen.seed)
        load.start()
        breaker.start()
        ends_at = time.monotonic() + chosen.minutes * 60
        while (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(PROGRESS_S, left_s))
            ends = Counter(one.end for one in load.results)
            print(f"{left_s:.0f} s left: {dict(ends)}, {len(breaker.events)} losses", file=sys.stderr)
        breaker.stop()
        load.stop()
    return load, breaker, right


def report(
    results: list[Result], breaker: Breaker, right: dict[tuple[str, int], str], chosen: argparse.Namespace
) -> str:
    """Markdown: what was sent and what became of it, per way of asking, and what was done to the nodes."""
    done = Counter(kind for _, kind, _ in breaker.events)
    losses = ", ".join(f"{count} x {kind}" for kind, count in sorted(done.items()))
    lines = [
        f"{chosen.minutes:g} minutes, {chosen.clients} clients, three nodes of one machine, seed {chosen.seed}. A loss every {chosen.every:g} s: {losses}; "
        f"at {breaker.skipped} further turns only one node was answering and was spared.",
        "",
        "| asked by | sent | whole | of these retried | of these continued in mid-stream | with the undisturbed text | refused | broken | lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ways = sorted({one.way for one in results})
    for way, some in [(way, [one for one in results if one.way == way]) for way in ways] + [("**all**", results)]:
        whole = [one for one in some if one.end == "whole"]
        same = sum(one.text == right[one.question, one.length] for one in whole)
        ends = Counter(one.end for one in some)
        lines.append(
            f"| {way} | {len(some)} | {len(whole)} | {sum(one.retries > 0 for one in whole)} | {sum(one.was_continued for one in whole)} | {same} "
            f"| {ends['refused']} | {ends['broken']} | {ends['lost']} |"
        )
    failed = Counter(f"{one.way}, {one.end} ({one.status}): {one.told[:120]}" for one in results if one.end != "whole")
    if failed:
        lines += [
            "",
            "What was not answered whole:",
            "",
            *(f"- {count} x {told}" for told, count in failed.most_common(12)),
        ]
    slow = sorted(one.seconds for one in results)
    if slow:
        lines += [
            "",
            f"Seconds to the whole answer: median {slow[len(slow) // 2]:.1f}, 99 % within {slow[int(len(slow) * 0.99)]:.1f}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
