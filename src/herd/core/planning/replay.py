"""What recorded choices would have been under other rules, decided again from what was seen then. Knows no database.

Each choice stands alone: that other choices would have left other queues behind is not played through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from herd.core.estimates.demand import probability_within
from herd.core.scheduling.completion_time import (
    OWN_TERMS,
    CompletionTimePolicy,
    CompletionTimeSettings,
    earliest_first,
    reweighted,
)
from herd.core.scheduling.scheduler import SignalPolicy
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Scored
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Request

POLICIES = (CompletionTimePolicy.name, SignalPolicy.name)
FINGERPRINT_CHARS = 12


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """All that a choice depends on besides what is seen: the policy and every weight."""

    policy: str = CompletionTimePolicy.name
    weights: Weights = field(default_factory=Weights)
    times: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)

    @property
    def values(self) -> dict[str, float]:
        """Every weight by its name."""
        return {**asdict(self.weights), **asdict(self.times)}

    @property
    def fingerprint(self) -> str:
        """Equal for equal rules, in any process."""
        told = ",".join([self.policy, *(f"{name}={float(value)!r}" for name, value in sorted(self.values.items()))])
        return hashlib.sha256(told.encode()).hexdigest()[:FINGERPRINT_CHARS]

    def changed(self, policy: str | None, values: Mapping[str, float]) -> DecisionRules:
        """These rules with another policy, if one is named, and other weights. Names that are none of ours change nothing."""
        mine = {name: value for name, value in values.items() if name in _names(self.weights)}
        its = {name: value for name, value in values.items() if name in _names(self.times)}
        return DecisionRules(policy or self.policy, replace(self.weights, **mine), replace(self.times, **its))


def _names(record: Weights | CompletionTimeSettings) -> frozenset[str]:
    return frozenset(one.name for one in fields(record))


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One recorded decision: the candidates that could serve, best first, as they were seen then, and the rules in force.

    `left_out` counts candidates that are not on record. Every candidate has its `candidate`, for points; it has its
    `expected_s` where seconds were estimated.
    """

    request: Request
    model: ModelName
    chosen: NodeId
    scored: Sequence[Scored]
    rules: DecisionRules
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """The same moment under other rules. The seconds are what the estimates of then say of going `after` instead of `before`:
    positive where time is saved, by the request itself and by others; None where one of the two was not estimated."""

    before: NodeId
    after: NodeId
    own_saved_s: float | None = 0.0
    others_saved_s: float | None = 0.0

    @property
    def has_changed(self) -> bool:
        return self.before != self.after


def choose_again(choice: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]) -> list[Scored] | None:
    """The candidates as these rules rank them, best first; None where what they need is not on record."""
    if rules.policy == SignalPolicy.name:
        candidates = [one.candidate for one in choice.scored if one.candidate is not None]
        return SignalPolicy(signals, rules.weights).rank(choice.request, candidates) or None
    estimated = [one for one in choice.scored if one.expected_s]
    if not estimated or (len(estimated) < len(choice.scored) and choice.rules.policy == rules.policy):
        return None
    again = [Scored(one.node_id, one.total, one.terms, one.depth, reweighted(one, rules.times)) for one in estimated]
    return sorted(again, key=earliest_first)


def is_cut_short(choice: RecordedDecision, rules: DecisionRules) -> bool:
    """Whether some candidates could not be asked: then the true choice may have been one of those."""
    is_timed = rules.policy == CompletionTimePolicy.name
    return choice.left_out > 0 or (is_timed and not all(one.expected_s for one in choice.scored))


def judge(choice: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]) -> ReplayedDecision | None:
    """The verdict of these rules on one choice; None where it cannot be decided again."""
    again = choose_again(choice, rules, signals)
    if again is None:
        return None
    after = again[0].node_id
    if after == choice.chosen:
        return ReplayedDecision(choice.chosen, after)
    by_node = {one.node_id: one for one in choice.scored}
    then, now = by_node.get(choice.chosen), by_node[after]
    if then is None or not then.expected_s or not now.expected_s:
        return ReplayedDecision(choice.chosen, after, None, None)
    horizon_s = choice.rules.times.eviction_horizon_s
    return ReplayedDecision(
        choice.chosen, after, _own_s(then) - _own_s(now), _others_s(then, horizon_s) - _others_s(now, horizon_s)
    )


def _own_s(scored: Scored) -> float:
    return sum(scored.expected_s[name] for name in OWN_TERMS)


def _others_s(scored: Scored, horizon_s: float) -> float:
    """What others lose, in plain seconds without any weight."""
    return scored.others_s + sum(probability_within(gap_s, horizon_s) * load_s for gap_s, load_s in scored.evicted)


@dataclass(slots=True)
class ReplayTotals:
    """Of many verdicts: how many there were, how many changed, what that saves by the estimates."""

    choices: int = 0
    changed: int = 0
    unestimated: int = 0
    """Changed, but nobody estimated what it saves."""
    own_saved_s: float = 0.0
    others_saved_s: float = 0.0

    def add(self, verdict: ReplayedDecision) -> None:
        self.choices += 1
        self.changed += verdict.has_changed
        if verdict.own_saved_s is None or verdict.others_saved_s is None:
            self.unestimated += 1
            return
        self.own_saved_s += verdict.own_saved_s
        self.others_saved_s += verdict.others_saved_s


@dataclass(slots=True)
class ModelReplay(ReplayTotals):
    """The same of one model, with its most frequent change: from which node to which, how often."""

    moves: dict[tuple[NodeId, NodeId], int] = field(default_factory=dict)

    def add(self, verdict: ReplayedDecision) -> None:
        ReplayTotals.add(self, verdict)
        if verdict.has_changed:
            move = (verdict.before, verdict.after)
            self.moves[move] = self.moves.get(move, 0) + 1


@dataclass(slots=True)
class Replay:
    """What became of every recorded row. `whole`: choices that were decided again; the others are counted by why not."""

    whole: ReplayTotals = field(default_factory=ReplayTotals)
    models: dict[ModelName, ModelReplay] = field(default_factory=dict)
    nodes: dict[NodeId, list[int]] = field(default_factory=dict)
    """How many choices fell on each node: then, and now."""
    cut_short: int = 0
    """Of the whole: some candidates are not on record."""
    without_node: int = 0
    """Nobody could serve, whatever the rules."""
    undecidable: int = 0
    """What these rules need was not recorded."""
    unreadable: int = 0
    """Rows without candidates, or of a version that kept too little of them."""

    def add(self, choice: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]) -> ReplayedDecision | None:
        verdict = judge(choice, rules, signals)
        if verdict is None:
            self.undecidable += 1
            return None
        self.cut_short += is_cut_short(choice, rules)
        self.whole.add(verdict)
        self.models.setdefault(choice.model, ModelReplay()).add(verdict)
        self.nodes.setdefault(verdict.before, [0, 0])[0] += 1
        self.nodes.setdefault(verdict.after, [0, 0])[1] += 1
        return verdict
