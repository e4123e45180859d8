"""Chooses the node that serves a request: filters reject nodes, then a policy ranks the others.

`SignalPolicy` ranks by points of the seven public signals; `CompletionTimePolicy` ranks by expected time. The cost of a
decision grows with the number of nodes that have the model, not with the size of the fleet; and if very many nodes
have it, only those are estimated that may be the best.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Protocol

from herd.core.estimates.latencies import Latencies
from herd.core.scheduling.bounded_search import BoundedPolicy, BoundedSearch, already_tried, first_rejection
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate, Decision, Rejected, Scored
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.liveness import LivenessTracker
from herd.core.state.queues import Queues
from herd.core.state.request import Request

NODES_LISTED_MAX = 32
"""Largest fleet for which a decision lists the nodes without the model."""

BOUNDED_FROM_NODES = 48
"""Number of nodes with a model from which on bounds decide which of them are estimated: for fewer nodes it is not
cheaper."""

MODELS_CACHED_MAX = 256
"""Models whose list of nodes without them is cached."""


class Policy(Protocol):
    """Ranks candidates, best first."""

    @property
    def name(self) -> str: ...

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]: ...


class SignalPolicy:
    """Ranks by points, highest first; then by queue length, then by the node's name, so that equal input gives equal
    output."""

    name: ClassVar[str] = "signals"

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
        return Scored(
            node_id=candidate.node.id, total=sum(terms.values()), terms=terms, depth=depth, candidate=candidate
        )


def best_first(scored: Scored) -> tuple[float, int, str]:
    return -scored.total, scored.depth, scored.node_id


class Scheduler:
    """`decide` reads the fleet, the queues, the latencies and the quarantine; it changes nothing."""

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
        self._filters = tuple(sorted(filters, key=lambda f: (f.is_preference, f.is_soft)))
        self._soft = frozenset(f.name for f in filters if f.is_soft)
        self._preferences = frozenset(f.name for f in filters if f.is_preference)
        self._others: dict[ModelName, tuple[int, list[Rejected]]] = {}
        self._bounded: BoundedSearch | None = None
        if isinstance(policy, BoundedPolicy) and policy.bounds.is_usable:
            self._bounded = BoundedSearch(policy, self._filters, fleet, queues, self._candidate)

    def decide(self, request: Request, model: ModelName, now: float, tried: Collection[NodeId] = ()) -> Decision:
        """The decision for one model. Of very many nodes that could serve only those are listed that were estimated."""
        if self._bounded is not None and len(self.fleet.with_model(model)) >= BOUNDED_FROM_NODES:
            decision = self._bounded.decide(request, model, now, tried) if not request.only_node else None
            if decision is not None:
                return decision
        return self.decide_among_all(request, model, now, tried)

    def decide_among_all(
        self, request: Request, model: ModelName, now: float, tried: Collection[NodeId] = ()
    ) -> Decision:
        """The same decision, with every node listed."""
        passed: list[Candidate] = []
        lesser: list[Candidate] = []
        suspected: list[Candidate] = []
        rejected: list[Rejected] = []
        for node in self.fleet.with_model(model):
            if node.id in tried:
                rejected.append(already_tried(node.id))
                continue
            candidate = self._candidate(node, model, now)
            reason = first_rejection(self._filters, request, candidate)
            if reason is None:
                passed.append(candidate)
                continue
            if reason.filter in self._preferences:
                lesser.append(candidate)
            elif reason.filter in self._soft:
                suspected.append(candidate)
            rejected.append(reason)
        is_panic = not (passed or lesser) and bool(suspected)
        if not passed and (lesser or suspected):
            passed = lesser or [candidate for candidate in suspected if _may_be_tried_anyway(candidate)]
            tried_anyway = {candidate.node.id for candidate in passed}
            rejected = [node for node in rejected if node.node_id not in tried_anyway]
        if len(self.fleet.nodes) <= NODES_LISTED_MAX:
            rejected.extend(self._without(model))
        scored = self.policy.rank(request, passed)
        return Decision(
            model=model,
            policy=self.policy.name,
            chosen=scored[0].node_id if scored else None,
            scored=scored,
            rejected=rejected,
            is_panic=is_panic and bool(scored),
        )

    def may_help(self, node: Node, held: LiveRequest, now: float) -> bool:
        """Whether a changed node may be the reason that a held request finds a place.

        In a small fleet a complete search is as cheap as this check. In a large one, searches for each heartbeat would
        cost more than everything else; what follows from time alone is found by the next sweep.
        """
        if len(self.fleet.nodes) < BOUNDED_FROM_NODES:
            return True
        for model in held.models:
            if node.id in held.tried or not self.fleet.models.has(node.id, model):
                continue
            reason = first_rejection(self._filters, held.request, self._candidate(node, model, now))
            if reason is None or reason.filter in self._soft or reason.filter in self._preferences:
                return True
        return False

    def _candidate(self, node: Node, model: ModelName, now: float) -> Candidate:
        queues = self._queues.of_node(node.id)
        queue = queues.get(model)
        in_flight, pending = (len(queue.in_flight), len(queue.pending)) if queue is not None else (0, 0)
        return Candidate(
            node,
            node.report,
            node.report.models[model],
            model,
            now,
            in_flight,
            pending,
            self._latencies.p75_s(node.id, model),
            self._liveness.quarantined_until(node.id, model),
            queues,
            queue,
            model in node.unloaded_at,
        )

    def _without(self, model: ModelName) -> list[Rejected]:
        """The nodes that do not have the model; cached until the fleet changes."""
        known = self._others.get(model)
        if known is not None and known[0] == self.fleet.version:
            return known[1]
        others = [
            Rejected(node.id, "has_model", "the model is not on this node", is_temporary=False)
            for node in self.fleet
            if model not in node.report.models
        ]
        if len(self._others) >= MODELS_CACHED_MAX:
            self._others.clear()
        self._others[model] = (self.fleet.version, others)
        return others


def _may_be_tried_anyway(candidate: Candidate) -> bool:
    """A suspected node gets one request at a time. A node that refused a connection must have sent a heartbeat since
    then."""
    node = candidate.node
    is_reachable = node.unreachable_until <= candidate.at or node.last_heartbeat_at > node.refused_at
    return not candidate.in_flight and is_reachable
