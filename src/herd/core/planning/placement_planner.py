"""Plans which models should be in which node's memory, so that the requests take the least time in total.

This is a knapsack problem with diminishing returns. It is filled greedily twice, by seconds saved and by seconds saved
for each byte, and the better result is used (Khuller, Moss, Naor 1999: within a constant factor of the optimum, in
practice a few percent). The wait is estimated as in a queue with random arrivals: rho / (1 - rho) times the service
time, divided by the slots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from herd.core.state.fleet import ModelName, NodeId

PAIRS_MAX = 600
"""Most options that are considered; in larger fleets the models with the least work are left out."""
PARTS = 4
"""The requests of a model are assigned in this number of parts, each to the node that answers soonest."""
WAIT_MAX = 10.0
"""Longest estimated wait, in service times."""
SAVED_MIN_S_PER_S = 1e-6
"""Least gain that counts: a second in eleven days."""

ModelOnNode = tuple[NodeId, ModelName]


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """Requests per second for a model."""

    model: ModelName
    per_s: float


@dataclass(frozen=True, slots=True)
class PlacementOption:
    """A model on a node that has it or could have it: bytes in memory, seconds of a usual request alone, seconds of a
    load."""

    node_id: NodeId
    model: ModelName
    size_bytes: int
    serve_s: float
    load_s: float
    slots: int = 1

    @property
    def model_on_node(self) -> ModelOnNode:
        return self.node_id, self.model


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Memory for the models of a node; `models_max` is the number of models that its engine keeps loaded, None: no
    limit."""

    node_id: NodeId
    memory_bytes: int
    models_max: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """`resident`: the models that should be loaded, with their nodes. `request_s`: seconds of a request of each model
    under this plan, including wait and loads. `total_s_per_s`: their sum over all requests of a second."""

    resident: frozenset[ModelOnNode] = frozenset()
    request_s: Mapping[ModelName, float] = field(default_factory=dict)
    total_s_per_s: float = 0.0


def plan(
    demands: Sequence[ModelDemand], options: Sequence[PlacementOption], capacities: Sequence[NodeCapacity]
) -> PlacementPlan:
    """The better of the two greedy results. Equal inputs give equal plans."""
    found = [_greedy(demands, options, capacities, is_dense) for is_dense in (False, True)]
    return min(found, key=lambda candidate: candidate.total_s_per_s)


def _bounded(
    demands: Sequence[ModelDemand], options: Sequence[PlacementOption]
) -> tuple[list[ModelDemand], list[PlacementOption]]:
    """Removes models without requests, and limits the number of options; models with the most work come first."""
    quickest: dict[ModelName, float] = {}
    for option in options:
        quickest[option.model] = min(quickest.get(option.model, option.serve_s), option.serve_s)
    ranked = sorted(
        (demand for demand in demands if demand.per_s > 0 and demand.model in quickest),
        key=lambda demand: (-demand.per_s * quickest[demand.model], demand.model),
    )
    known = {demand.model for demand in ranked}
    rank = {demand.model: position for position, demand in enumerate(ranked)}
    ordered = sorted(
        (option for option in options if option.model in known),
        key=lambda option: (rank[option.model], option.serve_s, option.node_id),
    )[:PAIRS_MAX]
    kept = {option.model for option in ordered}
    return [demand for demand in ranked if demand.model in kept], ordered


def savings(
    demands: Sequence[ModelDemand],
    options: Sequence[PlacementOption],
    resident: Iterable[ModelOnNode],
    candidates: Sequence[PlacementOption],
) -> list[float]:
    """Seconds saved per second by each candidate alone, if it were loaded too and all other models stayed as they
    are."""
    assignment = Assignment(demands, options)
    assignment.resident = set(resident)
    assignment.assign()
    return [
        assignment.saved_s_per_s(candidate) if assignment.knows(candidate.model) else 0.0 for candidate in candidates
    ]


def _greedy(
    demands: Sequence[ModelDemand],
    options: Sequence[PlacementOption],
    capacities: Sequence[NodeCapacity],
    is_dense: bool,
) -> PlacementPlan:
    """Adds the option that saves most, repeatedly. The saving of an option is computed again only when it is the best
    one in the heap, because with every added option the others save less, or nearly so (Minoux 1978)."""
    assignment = Assignment(demands, options)
    free = {capacity.node_id: capacity.memory_bytes for capacity in capacities}
    models_left = {
        capacity.node_id: capacity.models_max if capacity.models_max is not None else len(assignment.options)
        for capacity in capacities
    }
    heap = [(-math.inf, number, option) for number, option in enumerate(assignment.options) if option.node_id in free]
    evaluated_with: dict[ModelOnNode, int] = {}  # the number of loaded models at the newest evaluation
    while heap:
        worth, number, option = heap[0]
        if option.size_bytes > free[option.node_id] or not models_left[option.node_id]:
            heapq.heappop(heap)
        elif evaluated_with.get(option.model_on_node) != len(assignment.resident):
            saved = assignment.saved_s_per_s(option)
            evaluated_with[option.model_on_node] = len(assignment.resident)
            if saved > SAVED_MIN_S_PER_S:
                heapq.heapreplace(heap, (-saved / max(option.size_bytes, 1) if is_dense else -saved, number, option))
            else:
                heapq.heappop(heap)
        else:
            assert worth < 0
            heapq.heappop(heap)
            assignment.resident.add(option.model_on_node)
            free[option.node_id] -= option.size_bytes
            models_left[option.node_id] -= 1
            assignment.assign()
    return assignment.result()


class Assignment:
    """Assigns the requests to nodes, for a given set of loaded models, and computes how busy each node is."""

    def __init__(self, demands: Sequence[ModelDemand], options: Sequence[PlacementOption]) -> None:
        self.demands, self.options = _bounded(demands, options)
        self.resident: set[ModelOnNode] = set()
        self._options_of: dict[ModelName, list[PlacementOption]] = {}
        for option in self.options:
            self._options_of.setdefault(option.model, []).append(option)
        self._rate = {demand.model: demand.per_s for demand in self.demands}
        self._busy: dict[NodeId, float] = {}
        self._own: dict[ModelName, dict[NodeId, float]] = {}
        self._request_s: dict[ModelName, float] = {}
        self.assign()

    def knows(self, model: ModelName) -> bool:
        return model in self._rate

    def assign(self) -> None:
        """Assigns the requests of each model, the most work first, each part to the node that answers soonest."""
        self._busy.clear()
        for demand in self.demands:
            own, mean_s = self._shared(self._options(demand.model, None), demand.per_s, {})
            for node_id, busy in own.items():
                self._busy[node_id] = self._busy.get(node_id, 0.0) + busy
            self._own[demand.model], self._request_s[demand.model] = own, mean_s

    def saved_s_per_s(self, option: PlacementOption) -> float:
        """Seconds saved per second by the requests of its model, if all other models stayed as they are."""
        rate = self._rate[option.model]
        _, mean_s = self._shared(self._options(option.model, option), rate, self._own[option.model])
        return (self._request_s[option.model] - mean_s) * rate

    def result(self) -> PlacementPlan:
        self.assign()
        total = sum(self._request_s[demand.model] * demand.per_s for demand in self.demands)
        return PlacementPlan(frozenset(self.resident), dict(self._request_s), total)

    def _options(self, model: ModelName, added: PlacementOption | None) -> list[tuple[float, PlacementOption]]:
        """Each option with the seconds of a request alone; `added` counts as loaded."""
        known = self._options_of[model]
        if added is not None and all(option.model_on_node != added.model_on_node for option in known):
            known = [*known, added]
        return [
            (
                option.serve_s
                if option.model_on_node in self.resident
                or (added is not None and option.model_on_node == added.model_on_node)
                else option.serve_s + option.load_s,
                option,
            )
            for option in known
        ]

    def _shared(
        self, options: Sequence[tuple[float, PlacementOption]], per_s: float, without: Mapping[NodeId, float]
    ) -> tuple[dict[NodeId, float], float]:
        """How busy these requests make each node, from 0 to 1, and the mean seconds of a request. `without` is
        subtracted from how busy the nodes are."""
        own: dict[NodeId, float] = {}
        total_s = 0.0
        for _ in range(PARTS):
            best: tuple[float, NodeId, float, int] | None = None
            for alone_s, option in options:
                node_id = option.node_id
                busy = self._busy.get(node_id, 0.0) - without.get(node_id, 0.0) + own.get(node_id, 0.0)
                wait_factor = WAIT_MAX if busy >= 1.0 else min(WAIT_MAX, max(0.0, busy) / (1.0 - busy))
                time_s = alone_s * (1.0 + wait_factor / option.slots)
                if best is None or (time_s, node_id) < best[:2]:
                    best = (time_s, node_id, alone_s, option.slots)
            assert best is not None
            time_s, node_id, alone_s, slots = best
            total_s += time_s / PARTS
            own[node_id] = own.get(node_id, 0.0) + per_s / PARTS * alone_s / slots
        return own, total_s
