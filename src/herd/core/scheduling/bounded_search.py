"""Finds the best of very many nodes without estimating all of them.

The choice is the one of a search through all nodes: a node is left out only if its lower bound is above the estimate of
a node that was found, or if a filter rejects every copy of the model like its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, TypeAlias

from herd.core.scheduling.candidate_order import Bound, CandidateOrder, CandidateOrders
from herd.core.scheduling.expected_delays import RequestEstimate
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.lower_bounds import LowerBounds
from herd.core.state.decision import Candidate, Decision, Rejected, Scored
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.queues import Queues
from herd.core.state.request import Request

REJECTED_MAX = 256
"""Nodes that are rejected one after the other before a search gives up; then a search through all nodes is as cheap."""

CandidateOf: TypeAlias = "Callable[[Node, ModelName, float], Candidate]"


class BoundedPolicy(ABC):
    """A policy that chooses the smallest estimate, and knows bounds of its estimates."""

    name: ClassVar[str]
    bounds: LowerBounds

    @abstractmethod
    def request_estimate(self, request: Request, model: ModelName, now: float) -> RequestEstimate: ...

    @abstractmethod
    def estimate(self, expected: RequestEstimate, candidate: Candidate) -> Scored: ...


class BoundedSearch:
    def __init__(
        self, policy: BoundedPolicy, filters: Sequence[Filter], fleet: Fleet, queues: Queues, candidate_of: CandidateOf
    ) -> None:
        self._policy = policy
        self._fleet = fleet
        self._of_nodes = tuple(found for found in filters if not found.is_by_copy)
        self._of_copies = tuple(found for found in filters if found.is_by_copy)
        self._orders = CandidateOrders(policy.bounds, fleet, queues)
        self._candidate_of = candidate_of

    def decide(self, request: Request, model: ModelName, now: float, tried: Collection[NodeId]) -> Decision | None:
        """The decision of a complete search; None if it must be made by one, because no good node was found."""
        expected = self._policy.request_estimate(request, model, now)
        order = self._orders.of(model, now)
        left_out, rejected = self._rejected_copies(order, request, now)
        rejected = [*_tried_nodes(tried, self._fleet, model), *(one for one in rejected if one.node_id not in tried)]
        scored: list[Scored] = []
        best: Bound | None = None
        seen, unseen_tried = 0, {node_id for node_id in tried if order.lists(node_id, left_out)}
        for bound, node in order.ascending(expected, left_out):
            if best is not None and bound > best:
                break
            if node.id in tried:
                unseen_tried.discard(node.id)
                seen += 1
                continue
            seen += 1
            candidate = self._candidate_of(node, model, now)
            reason = first_rejection(self._of_nodes, request, candidate)
            if reason is not None:
                rejected.append(reason)
                if not scored and len(rejected) > REJECTED_MAX:
                    return None
                continue
            found = self._policy.estimate(expected, candidate)
            scored.append(found)
            at = found.expected_s["total"], found.depth, found.node_id
            best = at if best is None or at < best else best
        if not scored:
            return None
        scored.sort(key=lambda one: (one.expected_s["total"], one.depth, one.node_id))
        pruned = order.size(left_out) - seen - len(unseen_tried)
        unlisted = len(self._fleet.with_model(model)) - len(scored) - len(rejected) - pruned
        return Decision(
            model=model,
            policy=self._policy.name,
            chosen=scored[0].node_id,
            scored=scored,
            rejected=rejected,
            pruned=pruned,
            unlisted=unlisted,
        )

    def _rejected_copies(
        self, order: CandidateOrder, request: Request, now: float
    ) -> tuple[frozenset[int], list[Rejected]]:
        """The kinds of copies that a filter rejects, each with a node as an example."""
        found: dict[int, Rejected] = {}
        for kind, node in order.examples().items():
            reason = first_rejection(self._of_copies, request, self._candidate_of(node, order.model, now))
            if reason is not None:
                found[kind] = reason
        return frozenset(found), list(found.values())


def first_rejection(filters: Sequence[Filter], request: Request, candidate: Candidate) -> Rejected | None:
    """The reason of the first filter that rejects the node."""
    for found in filters:
        reason = found.rejection_reason(request, candidate)
        if reason is not None:
            return Rejected(candidate.node.id, found.name, reason, found.is_temporary)
    return None


def already_tried(node_id: NodeId) -> Rejected:
    return Rejected(node_id, "tried", "an earlier attempt of this request failed on this node", is_temporary=False)


def _tried_nodes(tried: Collection[NodeId], fleet: Fleet, model: ModelName) -> list[Rejected]:
    return [already_tried(node_id) for node_id in tried if fleet.models.has(node_id, model)]
