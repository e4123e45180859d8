"""Replays recorded routing decisions with other rules, from the inputs recorded with each decision.

Each decision is replayed alone: the effect of a different decision on later queues is not simulated.
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
    """The rules of a decision: the policy and every weight."""

    policy: str = CompletionTimePolicy.name
    weights: Weights = field(default_factory=Weights)
    times: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)

    @property
    def values(self) -> dict[str, float]:
        """All weights by name."""
        return {**asdict(self.weights), **asdict(self.times)}

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for equal rules, in any process."""
        text = ",".join([self.policy, *(f"{name}={float(value)!r}" for name, value in sorted(self.values.items()))])
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]

    def changed(self, policy: str | None, values: Mapping[str, float]) -> DecisionRules:
        """These rules with another policy, if one is given, and other weights. Unknown names are ignored."""
        signal_weights = {name: value for name, value in values.items() if name in _names(self.weights)}
        time_weights = {name: value for name, value in values.items() if name in _names(self.times)}
        return DecisionRules(
            policy or self.policy, replace(self.weights, **signal_weights), replace(self.times, **time_weights)
        )


def _names(record: Weights | CompletionTimeSettings) -> frozenset[str]:
    return frozenset(weight.name for weight in fields(record))


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One recorded decision: the candidates that could serve the request, best first, and the rules in force.

    `left_out` counts candidates that were not recorded. Every entry has its `candidate`, to compute points, and
    `expected_s` if its times were estimated.
    """

    request: Request
    model: ModelName
    chosen: NodeId
    scored: Sequence[Scored]
    rules: DecisionRules
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """The result with other rules. The seconds are the difference of the recorded estimates of node `before` and node
    `after`, for the request itself and for other requests: positive if time is saved, None if one of the two was not
    estimated."""

    before: NodeId
    after: NodeId
    own_saved_s: float | None = 0.0
    others_saved_s: float | None = 0.0

    @property
    def has_changed(self) -> bool:
        return self.before != self.after


def rank_again(recorded: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]) -> list[Scored] | None:
    """The candidates ranked with these rules, best first; None if the inputs that they need were not recorded."""
    if rules.policy == SignalPolicy.name:
        candidates = [scored.candidate for scored in recorded.scored if scored.candidate is not None]
        return SignalPolicy(signals, rules.weights).rank(recorded.request, candidates) or None
    estimated = [scored for scored in recorded.scored if scored.expected_s]
    if not estimated or (len(estimated) < len(recorded.scored) and recorded.rules.policy == rules.policy):
        return None
    ranked = [
        Scored(
            node_id=scored.node_id,
            total=scored.total,
            terms=scored.terms,
            depth=scored.depth,
            expected_s=reweighted(scored, rules.times),
        )
        for scored in estimated
    ]
    return sorted(ranked, key=earliest_first)


def is_incomplete(recorded: RecordedDecision, rules: DecisionRules) -> bool:
    """Whether some candidates could not be ranked: one of them might have been chosen."""
    is_timed = rules.policy == CompletionTimePolicy.name
    return recorded.left_out > 0 or (is_timed and not all(scored.expected_s for scored in recorded.scored))


def replay_decision(
    recorded: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]
) -> ReplayedDecision | None:
    """The result of these rules for one decision; None if it cannot be replayed."""
    ranked = rank_again(recorded, rules, signals)
    if ranked is None:
        return None
    after = ranked[0].node_id
    if after == recorded.chosen:
        return ReplayedDecision(recorded.chosen, after)
    by_node = {scored.node_id: scored for scored in recorded.scored}
    original, replayed = by_node.get(recorded.chosen), by_node[after]
    if original is None or not original.expected_s or not replayed.expected_s:
        return ReplayedDecision(recorded.chosen, after, None, None)
    horizon_s = recorded.rules.times.eviction_horizon_s
    return ReplayedDecision(
        recorded.chosen,
        after,
        _own_s(original) - _own_s(replayed),
        _others_s(original, horizon_s) - _others_s(replayed, horizon_s),
    )


def _own_s(scored: Scored) -> float:
    return sum(scored.expected_s[name] for name in OWN_TERMS)


def _others_s(scored: Scored, horizon_s: float) -> float:
    """The delay of other requests, in seconds without weights."""
    return scored.others_s + sum(probability_within(gap_s, horizon_s) * load_s for gap_s, load_s in scored.evicted)


@dataclass(slots=True)
class ReplayTotals:
    """Totals: the number of replayed decisions, how many changed, and the estimated seconds saved."""

    choices: int = 0
    changed: int = 0
    unestimated: int = 0
    """Changed decisions without estimated times."""
    own_saved_s: float = 0.0
    others_saved_s: float = 0.0

    def add(self, replayed: ReplayedDecision) -> None:
        self.choices += 1
        self.changed += replayed.has_changed
        if replayed.own_saved_s is None or replayed.others_saved_s is None:
            self.unestimated += 1
            return
        self.own_saved_s += replayed.own_saved_s
        self.others_saved_s += replayed.others_saved_s


@dataclass(slots=True)
class ModelReplay(ReplayTotals):
    """Totals of one model. `moves`: how often a decision changed from one node to another."""

    moves: dict[tuple[NodeId, NodeId], int] = field(default_factory=dict)

    def add(self, replayed: ReplayedDecision) -> None:
        ReplayTotals.add(self, replayed)
        if replayed.has_changed:
            move = (replayed.before, replayed.after)
            self.moves[move] = self.moves.get(move, 0) + 1


@dataclass(slots=True)
class Replay:
    """The result of a replay. `totals` has the replayed decisions; the others are counted by the reason."""

    totals: ReplayTotals = field(default_factory=ReplayTotals)
    models: dict[ModelName, ModelReplay] = field(default_factory=dict)
    nodes: dict[NodeId, list[int]] = field(default_factory=dict)
    """The number of decisions for each node: recorded, and replayed."""
    incomplete: int = 0
    """Replayed decisions of which some candidates were not recorded."""
    without_node: int = 0
    """No node could serve the request, with any rules."""
    undecidable: int = 0
    """The inputs that these rules need were not recorded."""
    unreadable: int = 0
    """Rows without candidates, or written by an older version with too few inputs."""

    def add(
        self, recorded: RecordedDecision, rules: DecisionRules, signals: Sequence[Signal]
    ) -> ReplayedDecision | None:
        replayed = replay_decision(recorded, rules, signals)
        if replayed is None:
            self.undecidable += 1
            return None
        self.incomplete += is_incomplete(recorded, rules)
        self.totals.add(replayed)
        self.models.setdefault(recorded.model, ModelReplay()).add(replayed)
        self.nodes.setdefault(replayed.before, [0, 0])[0] += 1
        self.nodes.setdefault(replayed.after, [0, 0])[1] += 1
        return replayed
