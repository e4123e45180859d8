"""`herd replay`: what recorded requests would have met under other rules, from the trace database. Reads; changes nothing."""

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
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, console, folded, show
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
TOLD_WHOLE_S = 0.05
"""Less is nothing that an estimate could know."""
SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
SPAN_SECONDS = (("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0))

MODEL_COLUMNS = (
    Column("model", 9, least=16),
    Column("choices", 7, is_right=True),
    Column("changed", 8, is_right=True),
    Column("saved", 6, is_right=True),
    Column("saved for others", 3, is_right=True),
    Column("mostly", 5, least=14),
)
NODE_COLUMNS = (
    Column("node", 9, least=8),
    Column("chosen then", 7, is_right=True),
    Column("chosen now", 8, is_right=True),
    Column("difference", 6, is_right=True),
)


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What is to be replayed: `policy` None and no `weights` means as it was. `since_s` is how far back."""

    path: Path
    policy: str | None = None
    weights: Mapping[str, float] | None = None
    since_s: float | None = None
    limit: int = ROWS_DEFAULT

    @property
    def is_unchanged(self) -> bool:
        return self.policy is None and not self.weights


def asked(path: Path, policy: str | None, weights: str | None, since: str | None, limit: int) -> ReplayRequest:
    """What was typed, checked. Raises Trouble."""
    if policy is not None and policy not in POLICIES:
        raise CliError(
            f"there is no policy called {policy!r}", f"choose one: --policy {' or --policy '.join(POLICIES)}"
        )
    if not 1 <= limit <= ROWS_MAX:
        raise CliError(
            f"--limit must be 1 to {ROWS_MAX}, not {limit}", f"for example: herd replay --limit {ROWS_DEFAULT}"
        )
    path = path / DATABASE_NAME if path.is_dir() else path
    return ReplayRequest(path, policy, parsed_weights(weights or ""), parsed_span(since) if since else None, limit)


def parsed_span(text: str) -> float:
    """Seconds of "90m", "24h", "7d". Raises Trouble."""
    found = SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise CliError(f"{text!r} is no span of time", "write it like this: --since 24h, or 30m, or 7d")
    return float(found[1]) * dict(SPAN_SECONDS)[found[2]]


def parsed_weights(text: str) -> dict[str, float]:
    """From "harm_weight=0.5,FLEET_SCORE_MODEL_HOT=80"; a weight goes by its own name or its setting's. Raises Trouble."""
    known = weight_names()
    found: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        field_name = known.get(name.strip().lower())
        if field_name is None:
            near = get_close_matches(name.strip().lower(), known, 1, 0.4)
            hint = f"did you mean {known[near[0]]}? " if near else ""
            raise CliError(
                f"there is no weight called {name.strip()!r}",
                f"{hint}all of them: {', '.join(sorted(set(known.values())))}",
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
            "write it like this: --weights harm_weight=0.5,model_hot=80",
        )
    return weight


def weight_names() -> dict[str, str]:
    """Every name that a weight may be called by, in lower case, and its own."""
    known = [
        (one.name, str(one.metadata["env"])) for record in (Weights, CompletionTimeSettings) for one in fields(record)
    ]
    return {alias.lower(): name for name, env in known for alias in (name, env)}


# --- reading ---


def replay(wanted: ReplayRequest, as_json: bool) -> None:
    """Raises Trouble when there is no database, or it cannot be read."""
    done = replayed(wanted, time.time())
    show(as_values(done, wanted), as_json, lambda _: lines(done, wanted, console.width))


def replayed(wanted: ReplayRequest, now: float) -> Replay:
    """Every recorded choice decided again; `now` is unix time. Raises Trouble."""
    if not wanted.path.is_file():
        raise CliError(
            f"there are no traces at {wanted.path}",
            "run this on the coordinator's machine, or say where they are: herd replay --db PATH",
        )
    try:
        with closing(open_for_reading(wanted.path, BUSY_TIMEOUT_S)) as connection:
            return _replayed(connection, wanted, now)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise CliError(f"{wanted.path} cannot be read as traces: {error}", "look closer with: herd doctor") from error


def _replayed(connection: sqlite3.Connection, wanted: ReplayRequest, now: float) -> Replay:
    done, signals = Replay(), discover(herd.core.scheduling.signals, Signal, "SIGNAL")
    known = learned_state.load_rules(connection) if queries.has_rules(connection) else {}
    under: dict[str, DecisionRules] = {
        name: rules.changed(wanted.policy, wanted.weights or {}) for name, rules in known.items()
    }
    since = now - wanted.since_s if wanted.since_s is not None else 0.0
    for request_id, prompt_tokens, column in queries.recorded_decisions(connection, since, wanted.limit):
        try:
            choice = decision_record.to_recorded_decision(request_id, prompt_tokens, column, known)
        except decision_record.UnreadableDecision:
            done.unreadable += 1
            continue
        if choice is None:
            done.without_node += 1
        else:
            done.add(choice, under[choice.rules.fingerprint], signals)
    return done


# --- telling ---


def as_values(done: Replay, wanted: ReplayRequest) -> Json:
    """For programs. Seconds are estimates of the time of each choice: positive where the other rules save time."""
    return {
        "policy": wanted.policy,
        "weights": dict(wanted.weights or {}),
        "is_unchanged": wanted.is_unchanged,
        "choices": done.whole.choices,
        "changed": done.whole.changed,
        "changed_unestimated": done.whole.unestimated,
        "estimated_own_saved_s": done.whole.own_saved_s,
        "estimated_others_saved_s": done.whole.others_saved_s,
        "cut_short": done.cut_short,
        "without_node": done.without_node,
        "undecidable": done.undecidable,
        "unreadable": done.unreadable,
        "models": [
            {
                "model": name,
                "choices": part.choices,
                "changed": part.changed,
                "estimated_own_saved_s": part.own_saved_s,
                "estimated_others_saved_s": part.others_saved_s,
                "moves": [{"from": move[0], "to": move[1], "choices": count} for move, count in _by_count(part.moves)],
            }
            for name, part in _most_changed(done)
        ],
        "nodes": [{"node_id": name, "then": counts[0], "now": counts[1]} for name, counts in _most_moved(done)],
    }


def lines(done: Replay, wanted: ReplayRequest, width: int) -> list[Text]:
    """For people."""
    told = [*folded(Text(), _rules_told(wanted), width), *folded(Text(), _headline(done, wanted), width, "bold")]
    told += [line for sentence in _facts(done) for line in folded(Text("  "), sentence, width)]
    if done.whole.changed:
        told += [line for sentence in _saved(done) for line in folded(Text("  "), sentence, width)]
        models = [one for one in _most_changed(done) if one[1].changed][:MODELS_SHOWN]
        told += [Text(), *table(MODEL_COLUMNS, [_model_row(name, part) for name, part in models], width)]
        nodes = _most_moved(done)[:NODES_SHOWN]
        told += [Text(), *table(NODE_COLUMNS, [_node_row(name, counts) for name, counts in nodes], width)]
    return told


def _rules_told(wanted: ReplayRequest) -> str:
    if wanted.is_unchanged:
        return "Decided again by the rules in force then."
    weights = [f"{name} = {value:g}" for name, value in (wanted.weights or {}).items()]
    return f"Decided again with {', '.join([*([f'the policy {wanted.policy}'] if wanted.policy else []), *weights])}; all else as it was then."


def _headline(done: Replay, wanted: ReplayRequest) -> str:
    whole = done.whole
    if not whole.choices:
        return "No choice on record could be decided again."
    if whole.changed == 0:
        return (
            f"{number(whole.choices, 'choice')}, all the same (100 %)."
            if wanted.is_unchanged
            else f"{number(whole.choices, 'choice')}, none changes."
        )
    share = 100 * whole.changed / whole.choices
    if wanted.is_unchanged:
        return f"{whole.changed} of {number(whole.choices, 'choice')} came out otherwise ({share:.3g} %): a signal or the program has changed since."
    return f"{whole.changed} of {number(whole.choices, 'choice')} would change ({share:.3g} %)."


def _saved(done: Replay) -> Iterable[str]:
    whole = done.whole
    estimated = whole.changed - whole.unestimated
    if estimated:
        own, others = _gain(whole.own_saved_s), _gain(whole.others_saved_s)
        yield f"By the estimates of then: {own} for those who asked, {signed(whole.own_saved_s / estimated)} for each change; {others} for others."
        yield "These are estimates, each choice taken alone; what other queues would have come of it is not played through."
    if whole.unestimated:
        yield f"Of {number(whole.unestimated, 'change')} nobody estimated the seconds."


def _gain(seconds: float) -> str:
    if abs(seconds) < TOLD_WHOLE_S:
        return "nothing gained or lost"
    return f"{duration(abs(seconds) * 1000)} {'saved' if seconds > 0 else 'lost'}"


def signed(seconds: float) -> str:
    """+1.2 s, -34 s, 0 s."""
    if abs(seconds) < TOLD_WHOLE_S / 100:
        return "0 s"
    return f"{'+' if seconds > 0 else '-'}{duration(abs(seconds) * 1000)}"


def _facts(done: Replay) -> Iterable[str]:
    if done.without_node:
        yield f"{number(done.without_node, 'request')} had no node to choose from, whatever the rules."
    if done.cut_short:
        yield f"Of {number(done.cut_short, 'choice')} not every candidate is on record or was estimated; the best of the rest was taken."
    if done.undecidable:
        yield f"{number(done.undecidable, 'choice')} cannot be decided so: what these rules need was not recorded."
    if done.unreadable:
        yield f"{number(done.unreadable, 'row')} of an older version, or without candidates, cannot be decided again."


def _model_row(name: str, part: ModelReplay) -> list[Cell]:
    (before, after), count = _by_count(part.moves)[0]
    mostly = f"{count} from {before} to {after}"
    is_better = part.own_saved_s > 0
    return [
        Cell(clean(name)),
        Cell(str(part.choices)),
        Cell(str(part.changed)),
        Cell(signed(part.own_saved_s), "green" if is_better else "yellow"),
        Cell(signed(part.others_saved_s)),
        Cell(clean(mostly)),
    ]


def _node_row(name: str, counts: Sequence[int]) -> list[Cell]:
    then, now = counts
    return [Cell(clean(name)), Cell(str(then)), Cell(str(now)), Cell(f"{now - then:+d}" if now != then else "0")]


def _most_changed(done: Replay) -> list[tuple[str, ModelReplay]]:
    return sorted(done.models.items(), key=lambda one: (-one[1].changed, one[0]))


def _most_moved(done: Replay) -> list[tuple[str, list[int]]]:
    return sorted(done.nodes.items(), key=lambda one: (-abs(one[1][1] - one[1][0]), one[0]))


def _by_count(moves: Mapping[tuple[NodeId, NodeId], int]) -> list[tuple[tuple[NodeId, NodeId], int]]:
    return sorted(moves.items(), key=lambda one: (-one[1], one[0]))
