"""Filter, score, pick: which node serves a request. Knows nothing of what is done with the choice, and changes nothing.

The policy is a seam: it ranks the candidates that passed the filters. `SignalPolicy` gives points by the seven
public signals; others may rank by expected time. Cost follows the nodes that have the model, not the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias

from herd.core.estimates.latencies import Latencies
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate, Decision, Rejected, Scored
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.liveness import LivenessTracker
from herd.core.state.queues import Queues
from herd.core.state.request import Request

Check: TypeAlias = Callable[[Request, Candidate], "str | None"]

OTHERS_NAMED_MAX = 32
"""Nodes without the model are named in a decision only while the fleet is this small."""

MODELS_REMEMBERED_MAX = 256
"""Models for which the list of nodes without them is kept."""


class Policy(Protocol):
    """Ranks candidates, best first."""

    name: str

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]: ...


class SignalPolicy:
    """Points by signals, highest first; then the shorter queue, then the node's name, so that equal input gives equal output."""

    name = "signals"

    def __init__(self, signals: Sequence[Signal], weights: Weights) -> None:
        self.weights = weights
        self._signals = tuple((signal.name, signal.points) for signal in signals)

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked = [self.score(request, candidate) for candidate in candidates]
        if len(ranked) > 1:
            ranked.sort(key=best_first)
        return ranked

    def score(self, request: Request, candidate: Candidate) -> Scored:
        weights = self.weights
        terms = {name: points(request, candidate, weights) for name, points in self._signals}
        depth = candidate.in_flight + candidate.pending
        return Scored(candidate.node.id, sum(terms.values()), terms, depth, candidate=candidate)


def best_first(scored: Scored) -> tuple[float, int, str]:
    return -scored.total, scored.depth, scored.node_id


class Scheduler:
    """`decide` reads the fleet, the queues, what took how long and who is watched; it returns every candidate with its fate."""

    def __init__(
        self,
        fleet: Fleet,
        queues: Queues,
        latencies: Latencies,
        liveness: LivenessTracker,
        filters: Sequence[Filter],
        policy: Policy,
    ) -> None:
        self.fleet = fleet
        self.policy = policy
        self._queues = queues
        self._latencies = latencies
        self._liveness = liveness
        self._checks = tuple((f.name, f.check) for f in sorted(filters, key=lambda f: f.is_soft))
        self._soft = frozenset(f.name for f in filters if f.is_soft)
        self._others: dict[ModelName, tuple[int, list[Rejected]]] = {}

    def decide(self, request: Request, model: ModelName, at: float, tried: Collection[NodeId] = ()) -> Decision:
        passed: list[Candidate] = []
        suspected: list[Candidate] = []
        rejected: list[Rejected] = []
        for node in self.fleet.with_model(model):
            if node.id in tried:
                rejected.append(Rejected(node.id, "tried", "failed this request before"))
                continue
            candidate = self._candidate(node, model, at)
            reason = _first_reason(self._checks, request, candidate)
            if reason is None:
                passed.append(candidate)
                continue
            if reason.filter in self._soft:
                suspected.append(candidate)
            rejected.append(reason)
        is_panic = not passed and bool(suspected)
        if is_panic:
            passed = [one for one in suspected if _may_be_tried(one)]
            tried_anyway = {one.node.id for one in passed}
            rejected = [one for one in rejected if one.node_id not in tried_anyway]
        if len(self.fleet.nodes) <= OTHERS_NAMED_MAX:
            rejected.extend(self._without(model))
        scored = self.policy.rank(request, passed)
        return Decision(
            model, self.policy.name, scored[0].node_id if scored else None, scored, rejected, is_panic and bool(scored)
        )

    def _candidate(self, node: Node, model: ModelName, at: float) -> Candidate:
        queues = self._queues.of_node(node.id)
        queue = queues.get(model)
        in_flight, pending = (len(queue.in_flight), len(queue.pending)) if queue is not None else (0, 0)
        return Candidate(
            node,
            node.report,
            node.report.models[model],
            model,
            at,
            in_flight,
            pending,
            self._latencies.p75_s(node.id, model),
            self._liveness.quarantined_until(node.id, model),
            queues,
            queue,
            model in node.loaded_until,
        )

    def _without(self, model: ModelName) -> list[Rejected]:
        """The nodes that do not have it; the same until the fleet changes."""
        known = self._others.get(model)
        if known is not None and known[0] == self.fleet.version:
            return known[1]
        others = [
            Rejected(node.id, "has_model", "does not have it") for node in self.fleet if model not in node.report.models
        ]
        if len(self._others) >= MODELS_REMEMBERED_MAX:
            self._others.clear()
        self._others[model] = (self.fleet.version, others)
        return others


def _first_reason(filters: Sequence[tuple[str, Check]], request: Request, candidate: Candidate) -> Rejected | None:
    for name, check in filters:
        reason = check(request, candidate)
        if reason is not None:
            return Rejected(candidate.node.id, name, reason)
    return None


def _may_be_tried(candidate: Candidate) -> bool:
    """Nobody else is left: a suspected node gets one request at a time, and one that refuses connections only when it has been
    heard since it did."""
    node = candidate.node
    is_reachable = node.unreachable_until <= candidate.at or node.last_heartbeat_at > node.refused_at
    return not candidate.in_flight and is_reachable
