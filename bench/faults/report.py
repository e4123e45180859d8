"""Writes the report of a run: requests by dialect, faults, detection, and every broken promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.faults.apis import APIS
from bench.faults.checking import Problem, Run, by_coordinator, detections, is_thought_cut_later, moves, quantile
from bench.faults.clients import History

HEAD = (
    "| API | sent | complete | retried | continued | refused | broken | lost | ended by the coordinator's kill "
    "| left by the client | wrong text |"
)
DETAILS_MAX = 40


def report(run: Run, broken: Sequence[Problem], title: str) -> str:
    """Markdown."""
    wrong = {id(problem.history) for problem in broken if problem.promise == "the right text"}
    groups = [(api.title, [one for one in run.histories if one.api == api]) for api in APIS]
    lines = [f"{title}. {_faults(run)}", "", HEAD, "|" + "---|" * 11]
    lines += [_row(run, name, some, wrong) for name, some in [*groups, ("**all**", run.histories)]]
    lines += ["", *_promises(run, broken), "", *_detection(run)]
    lines += [f"- {problem.promise}: {_about(problem)}" for problem in broken[:DETAILS_MAX]]
    return "\n".join(lines)


def _faults(run: Run) -> str:
    counts = sorted(Counter(fault.kind.value for fault in run.faults).items())
    return "Faults: " + ", ".join(f"{count} x {kind}" for kind, count in counts) + "."


def _row(run: Run, name: str, some: Sequence[History], wrong: set[int]) -> str:
    killed = [one for one in some if one.end not in ("complete", "left") and by_coordinator(run, one)]
    others = Counter(one.end for one in some if one not in killed)
    complete = [one for one in some if one.end == "complete"]
    counts = [
        len(some),
        len(complete),
        sum(one.retries > 0 for one in complete),
        sum(one.read.is_continued for one in complete),
        others["refused"],
        others["broken"],
        others["lost"] + others[""],
        len(killed),
        others["left"],
        sum(id(one) in wrong for one in some),
    ]
    return f"| {name} | " + " | ".join(map(str, counts)) + " |"


def _promises(run: Run, broken: Sequence[Problem]) -> list[str]:
    counts = Counter(problem.promise for problem in broken)
    rows = Counter(row.status for row in run.rows)
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(rows.items()))
    lines = [f"{len(run.rows)} rows: {statuses}."]
    if later := sum(is_thought_cut_later(one) for one in run.histories):
        lines.append(f"{later} streams were cut in the text after their thinking, which no node can continue.")
    if not counts:
        return [*lines, "No promise is broken."]
    return [*lines, "Broken promises: " + ", ".join(f"{count} x {promise}" for promise, count in counts.items()) + "."]


def _detection(run: Run) -> list[str]:
    lines = ["| silent fault | hit requests | noticed | p50 | p99 | max |", "|" + "---|" * 6]
    everything: list[float] = []
    total = 0
    for kind, times in sorted(detections(run).items(), key=lambda item: item[0].value):
        known = sorted(time for time in times if time is not None)
        everything, total = everything + known, total + len(times)
        lines.append(f"| {kind.value} | {len(times)} | {len(known)} | {_quantiles(known)} |")
    lines.append(f"| **all** | {total} | {len(everything)} | {_quantiles(sorted(everything))} |")
    moved = moves(run)
    silences = sorted(max(one.silences_s) for one in run.histories if one.end == "complete")
    return [
        *lines,
        "",
        "Seconds until the requests on a silent node continued, there or elsewhere: "
        f"{len(moved[True])} streamed: {_words(sorted(moved[True]))}; "
        f"{len(moved[False])} whole: {_words(sorted(moved[False]))}.",
        f"Longest wait for a byte in each complete answer, seconds: {_words(silences)}.",
        "",
    ]


def _quantiles(ordered: Sequence[float]) -> str:
    return " | ".join(
        f"{value:.1f}" for value in (quantile(ordered, 0.5), quantile(ordered, 0.99), quantile(ordered, 1))
    )


def _words(ordered: Sequence[float]) -> str:
    return f"p50 {quantile(ordered, 0.5):.1f}, p99 {quantile(ordered, 0.99):.1f}, max {quantile(ordered, 1):.1f}"


def _about(problem: Problem) -> str:
    one = problem.history
    if one is None:
        return problem.detail
    lasted_s = one.ended_at - one.sent_at
    return (
        f"{one.tag} ({one.request_id}), {one.api.title}, {one.answer.kind.value}, {one.end} ({one.status}) after "
        f"{lasted_s:.1f} s, began on {one.node or '-'}: {problem.detail[:200]}"
    )
