"""Repeats recorded routing decisions with a different policy or weights and shows the differences (`herd replay`)."""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from rich.text import Text

import herd.core.scheduling.signals
from herd.cli.client import CliError, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, wrapped
from herd.coordinator.storage import learned_state, queries
from herd.coordinator.storage.database import DATABASE_NAME, open_for_reading
from herd.core.planning import decision_record
from herd.core.planning.replay import POLICIES, DecisionRules, ModelReplay, Replay
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.fleet import NodeId
from herd.discover import discover
from herd.text import duration, number

ROWS_DEFAULT = 10_000
ROWS_MAX = 1_000_000
MODELS_SHOWN = 10
NODES_SHOWN = 10
BUSY_TIMEOUT_S = 2.0
SAVED_MIN_S = 0.05
"""Smaller differences are shown as 0, because estimates are not more precise."""
SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
SPAN_SECONDS = (("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0))

MODEL_COLUMNS = (
    Column("model", 9, min_width=16),
    Column("decisions", 7, is_right=True),
    Column("changed", 8, is_right=True),
    Column("saved", 6, is_right=True),
    Column("saved for others", 3, is_right=True),
    Column("main change", 5, min_width=14),
)
NODE_COLUMNS = (
    Column("node", 9, min_width=8),
    Column("before", 7, is_right=True),
    Column("after", 8, is_right=True),
    Column("difference", 6, is_right=True),
)


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay. `policy` None and no `weights` repeat the original rules. `since_s` is how far back to go."""

    path: Path
    policy: str | None = None
    weights: Mapping[str, float] | None = None
    since_s: float | None = None
    limit: int = ROWS_DEFAULT

    @property
    def is_unchanged(self) -> bool:
        return self.policy is None and not self.weights


def parse_options(path: Path, policy: str | None, weights: str | None, since: str | None, limit: int) -> ReplayRequest:
    """The checked command line options. Raises CliError."""
    if policy is not None and policy not in POLICIES:
        raise CliError(f"unknown policy {policy!r}", f"use one of these: --policy {' or --policy '.join(POLICIES)}")
    if not 1 <= limit <= ROWS_MAX:
        raise CliError(
            f"--limit must be from 1 to {ROWS_MAX}, not {limit}", f"for example: herd replay --limit {ROWS_DEFAULT}"
        )
    path = path / DATABASE_NAME if path.is_dir() else path
    return ReplayRequest(path, policy, parse_weights(weights or ""), parse_span(since) if since else None, limit)


def parse_span(text: str) -> float:
    """Seconds of "90m", "24h", "7d". Raises CliError."""
    found = SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise CliError(f"{text!r} is not a duration", "use this form: --since 24h, or 30m, or 7d")
    return float(found[1]) * dict(SPAN_SECONDS)[found[2]]


def parse_weights(text: str) -> dict[str, float]:
    """Weights from "harm_weight=0.5,FLEET_SCORE_MODEL_HOT=80", by name or by setting. Raises CliError."""
    known = weight_names()
    found: dict[str, float] = {}
    for part in filter(None, (weight.strip() for weight in text.split(","))):
        name, _, value = part.partition("=")
        field_name = known.get(name.strip().lower())
        if field_name is None:
            near = get_close_matches(name.strip().lower(), known, 1, 0.4)
            hint = f"did you mean {known[near[0]]}? " if near else ""
            raise CliError(
                f"unknown weight {name.strip()!r}", f"{hint}available weights: {', '.join(sorted(set(known.values())))}"
            )
        found[field_name] = _finite(name, value)
    return found


def _finite(name: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise CliError(
            f"the weight of {name.strip()} must be a number, not {value.strip()!r}",
            "use this form: --weights harm_weight=0.5,model_hot=80",
        )
    return weight


def weight_names() -> dict[str, str]:
    """The field of each weight by its possible names (field and setting), in lower case."""
    known = [
        (weight.name, str(weight.metadata["env"]))
        for record in (Weights, CompletionTimeSettings)
        for weight in fields(record)
    ]
    return {alias.lower(): name for name, env in known for alias in (name, env)}


# --- reading ---


def replay(options: ReplayRequest, as_json: bool) -> None:
    """Replays and prints. Raises CliError if there is no database or it cannot be read."""
    result = compute_replay(options, time.time())
    show(to_json(result, options), as_json, lambda _: lines(result, options, console.width))


def compute_replay(options: ReplayRequest, now: float) -> Replay:
    """Decides every recorded request again; `now` is Unix time. Raises CliError."""
    if not options.path.is_file():
        raise CliError(
            f"there is no trace database at {options.path}",
            "run this on the coordinator's machine, or give the path: herd replay --db PATH",
        )
    try:
        with closing(open_for_reading(options.path, BUSY_TIMEOUT_S)) as connection:
            return _compute_replay(connection, options, now)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise CliError(
            f"{options.path} cannot be read as a trace database: {error}", "for details run: herd doctor"
        ) from error


def _compute_replay(connection: sqlite3.Connection, options: ReplayRequest, now: float) -> Replay:
    result, signals = Replay(), discover(herd.core.scheduling.signals, Signal, "SIGNAL")
    recorded_rules = learned_state.load_rules(connection) if queries.has_rules(connection) else {}
    changed_rules: dict[str, DecisionRules] = {
        fingerprint: rules.changed(options.policy, options.weights or {})
        for fingerprint, rules in recorded_rules.items()
    }
    since = now - options.since_s if options.since_s is not None else 0.0
    for request_id, prompt_tokens, column in queries.recorded_decisions(connection, since, options.limit):
        try:
            decision = decision_record.to_recorded_decision(request_id, prompt_tokens, column, recorded_rules)
        except decision_record.UnreadableDecision:
            result.unreadable += 1
            continue
        if decision is None:
            result.without_node += 1
        else:
            result.add(decision, changed_rules[decision.rules.fingerprint], signals)
    return result


# --- printing ---


def to_json(result: Replay, options: ReplayRequest) -> Json:
    """The result for programs. Seconds are estimates from the time of each decision; positive means time saved."""
    return {
        "policy": options.policy,
        "weights": dict(options.weights or {}),
        "is_unchanged": options.is_unchanged,
        "choices": result.totals.choices,
        "changed": result.totals.changed,
        "changed_unestimated": result.totals.unestimated,
        "estimated_own_saved_s": result.totals.own_saved_s,
        "estimated_others_saved_s": result.totals.others_saved_s,
        "cut_short": result.incomplete,
        "without_node": result.without_node,
        "undecidable": result.undecidable,
        "unreadable": result.unreadable,
        "models": [
            {
                "model": name,
                "choices": part.choices,
                "changed": part.changed,
                "estimated_own_saved_s": part.own_saved_s,
                "estimated_others_saved_s": part.others_saved_s,
                "moves": [{"from": move[0], "to": move[1], "choices": count} for move, count in _by_count(part.moves)],
            }
            for name, part in _most_changed(result)
        ],
        "nodes": [{"node_id": name, "then": counts[0], "now": counts[1]} for name, counts in _most_moved(result)],
    }


def lines(result: Replay, options: ReplayRequest, width: int) -> list[Text]:
    """The result for people."""
    shown = [
        *wrapped(Text(), _describe_rules(options), width),
        *wrapped(Text(), _headline(result, options), width, "bold"),
    ]
    shown += [line for sentence in _facts(result) for line in wrapped(Text("  "), sentence, width)]
    if result.totals.changed:
        shown += [line for sentence in _saved(result) for line in wrapped(Text("  "), sentence, width)]
        models = [(name, part) for name, part in _most_changed(result) if part.changed][:MODELS_SHOWN]
        shown += [Text(), *table(MODEL_COLUMNS, [_model_row(name, part) for name, part in models], width)]
        nodes = _most_moved(result)[:NODES_SHOWN]
        shown += [Text(), *table(NODE_COLUMNS, [_node_row(name, counts) for name, counts in nodes], width)]
    return shown


def _describe_rules(options: ReplayRequest) -> str:
    if options.is_unchanged:
        return "Replayed with the original policy and weights."
    weights = [f"{name} = {value:g}" for name, value in (options.weights or {}).items()]
    changes = [*([f"policy {options.policy}"] if options.policy else []), *weights]
    return f"Replayed with {', '.join(changes)}; everything else as recorded."


def _headline(result: Replay, options: ReplayRequest) -> str:
    totals = result.totals
    if not totals.choices:
        return "No recorded decision could be replayed."
    if totals.changed == 0:
        return (
            f"{number(totals.choices, 'decision')}, all identical (100 %)."
            if options.is_unchanged
            else f"{number(totals.choices, 'decision')}, none would change."
        )
    share = 100 * totals.changed / totals.choices
    if options.is_unchanged:
        return (
            f"{totals.changed} of {number(totals.choices, 'decision')} differ ({share:.3g} %): "
            "a signal or the program has changed since they were recorded."
        )
    return f"{totals.changed} of {number(totals.choices, 'decision')} would change ({share:.3g} %)."


def _saved(result: Replay) -> Iterable[str]:
    totals = result.totals
    estimated = totals.changed - totals.unestimated
    if estimated:
        own, others = _gain(totals.own_saved_s), _gain(totals.others_saved_s)
        per_change = signed(totals.own_saved_s / estimated)
        yield f"Estimated: {own} for the changed requests ({per_change} for each change), {others} for other requests."
        yield "The estimates are from the time of each decision; the effect on later queues is not simulated."
    if totals.unestimated:
        yield f"{number(totals.unestimated, 'change')} without an estimate."


def _gain(seconds: float) -> str:
    if abs(seconds) < SAVED_MIN_S:
        return "no time saved or lost"
    return f"{duration(abs(seconds) * 1000)} {'saved' if seconds > 0 else 'lost'}"


def signed(seconds: float) -> str:
    """+1.2 s, -34 s, 0 s."""
    if abs(seconds) < SAVED_MIN_S / 100:
        return "0 s"
    return f"{'+' if seconds > 0 else '-'}{duration(abs(seconds) * 1000)}"


def _facts(result: Replay) -> Iterable[str]:
    if result.without_node:
        yield f"{number(result.without_node, 'request')} had no available node, with any policy."
    if result.incomplete:
        yield (
            f"{number(result.incomplete, 'decision')} with candidates that were not recorded or not estimated; "
            "the best recorded candidate was used."
        )
    if result.undecidable:
        decisions = number(result.undecidable, "decision")
        yield f"{decisions} cannot be replayed: the trace lacks values that this policy needs."
    if result.unreadable:
        yield f"{number(result.unreadable, 'row')} from an older version, or without candidates, cannot be replayed."


def _model_row(name: str, part: ModelReplay) -> list[Cell]:
    (before, after), count = _by_count(part.moves)[0]
    main_change = f"{count} from {before} to {after}"
    is_better = part.own_saved_s > 0
    return [
        Cell(printable(name)),
        Cell(str(part.choices)),
        Cell(str(part.changed)),
        Cell(signed(part.own_saved_s), "green" if is_better else "yellow"),
        Cell(signed(part.others_saved_s)),
        Cell(printable(main_change)),
    ]


def _node_row(name: str, counts: Sequence[int]) -> list[Cell]:
    before, after = counts
    return [
        Cell(printable(name)),
        Cell(str(before)),
        Cell(str(after)),
        Cell(f"{after - before:+d}" if after != before else "0"),
    ]


def _most_changed(result: Replay) -> list[tuple[str, ModelReplay]]:
    return sorted(result.models.items(), key=lambda item: (-item[1].changed, item[0]))


def _most_moved(result: Replay) -> list[tuple[str, list[int]]]:
    return sorted(result.nodes.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))


def _by_count(moves: Mapping[tuple[NodeId, NodeId], int]) -> list[tuple[tuple[NodeId, NodeId], int]]:
    return sorted(moves.items(), key=lambda item: (-item[1], item[0]))
