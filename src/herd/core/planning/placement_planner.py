"""Which models should be in which node's memory: the set that saves the most seconds of what is really asked. Moves nothing.

Choosing a set under memory limits whose members share the work is a knapsack with diminishing returns; it is filled greedily twice,
by seconds saved and by seconds saved for each byte, and the better of the two is taken (Khuller, Moss, Naor 1999: a constant
factor from the best, and in practice a few percent). Waiting is taken as that of one line with random arrivals, rho / (1 - rho)
times the service, shared between slots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from herd.core.state.fleet import ModelName, NodeId

PAIRS_MAX = 600
"""Homes looked at; the models that make the least work are left out of larger fleets."""
PARTS = 4
"""A model's requests are shared out in so many parts, each to where it is answered soonest."""
WAIT_MAX = 10.0
"""Services waited for at most: beyond, the number says only "far too much"."""
SAVED_MIN_S_PER_S = 1e-6
"""A second in eleven days is no reason to move anything."""

ModelOnNode = tuple[NodeId, ModelName]


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """How often a model is asked for, requests a second."""

    model: ModelName
    per_s: float


@dataclass(frozen=True, slots=True)
class PlacementOption:
    """A model on a node that has it, or could: bytes in memory, seconds of a usual request alone, seconds of a load."""

    node_id: NodeId
    model: ModelName
    size_bytes: int
    serve_s: float
    load_s: float
    slots: int = 1

    @property
    def place(self) -> ModelOnNode:
        return self.node_id, self.model


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What a node's models may take together; `models_max` is how many its engine keeps, None for any."""

    node_id: NodeId
    memory_bytes: int
    models_max: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """`resident`: what should be in memory where. `request_s`: what a request of each model takes then, with its share of waiting
    and loads; `total_s_per_s` is their sum over all that is asked in a second."""

    resident: frozenset[ModelOnNode] = frozenset()
    request_s: Mapping[ModelName, float] = field(default_factory=dict)
    total_s_per_s: float = 0.0


def plan(
    wants: Sequence[ModelDemand], homes: Sequence[PlacementOption], rooms: Sequence[NodeCapacity]
) -> PlacementPlan:
    """The better of the two greedy choices. Equal inputs give equal plans."""
    wants, homes = _bounded(wants, homes)
    found = [_filled(wants, homes, rooms, is_dense) for is_dense in (False, True)]
    return min(found, key=lambda one: one.total_s_per_s)


def as_it_is(
    wants: Sequence[ModelDemand], homes: Sequence[PlacementOption], resident: Iterable[ModelOnNode]
) -> PlacementPlan:
    """What the same requests take when this is in memory."""
    wants, homes = _bounded(wants, homes)
    work = _Work(wants, homes)
    work.resident = {place for place in resident if place in {home.place for home in homes}}
    return work.outcome()


def _bounded(
    wants: Sequence[ModelDemand], homes: Sequence[PlacementOption]
) -> tuple[list[ModelDemand], list[PlacementOption]]:
    """Without what nobody asks for, and as much of the rest as can be looked at: what makes the most work first."""
    quickest: dict[ModelName, float] = {}
    for home in homes:
        quickest[home.model] = min(quickest.get(home.model, home.serve_s), home.serve_s)
    ranked = sorted(
        (want for want in wants if want.per_s > 0 and want.model in quickest),
        key=lambda one: (-one.per_s * quickest[one.model], one.model),
    )
    known = {want.model for want in ranked}
    place = {want.model: at for at, want in enumerate(ranked)}
    ordered = sorted(
        (home for home in homes if home.model in known),
        key=lambda home: (place[home.model], home.serve_s, home.node_id),
    )[:PAIRS_MAX]
    kept = {home.model for home in ordered}
    return [want for want in ranked if want.model in kept], ordered


def savings(
    wants: Sequence[ModelDemand],
    homes: Sequence[PlacementOption],
    resident: Iterable[ModelOnNode],
    candidates: Sequence[PlacementOption],
) -> list[float]:
    """Seconds saved in a second by each candidate alone, were it in memory too and everybody else stayed where they are."""
    wants, homes = _bounded(wants, homes)
    work = _Work(wants, homes)
    work.resident = set(resident)
    work.share_out()
    return [work.saved_s_per_s(candidate) if work.knows(candidate.model) else 0.0 for candidate in candidates]


def _filled(
    wants: Sequence[ModelDemand], homes: Sequence[PlacementOption], rooms: Sequence[NodeCapacity], is_dense: bool
) -> PlacementPlan:
    """What saves most comes first. What a home saves is reckoned anew only when it is the first in line: with every other that is
    added it saves less, or nearly so (Minoux 1978)."""
    work, free = _Work(wants, homes), {room.node_id: room.memory_bytes for room in rooms}
    left = {room.node_id: room.models_max if room.models_max is not None else len(homes) for room in rooms}
    line = [(-math.inf, number, home) for number, home in enumerate(homes) if home.node_id in free]
    fresh: dict[ModelOnNode, int] = {}
    while line:
        worth, number, home = line[0]
        if home.size_bytes > free[home.node_id] or not left[home.node_id]:
            heapq.heappop(line)
        elif fresh.get(home.place) != len(work.resident):
            saved = work.saved_s_per_s(home)
            fresh[home.place] = len(work.resident)
            if saved > SAVED_MIN_S_PER_S:
                heapq.heapreplace(line, (-saved / max(home.size_bytes, 1) if is_dense else -saved, number, home))
            else:
                heapq.heappop(line)
        else:
            assert worth < 0
            heapq.heappop(line)
            work.resident.add(home.place)
            free[home.node_id] -= home.size_bytes
            left[home.node_id] -= 1
            work.share_out()
    return work.outcome()


class _Work:
    """Who answers what, given what is in memory, and how busy that makes each node."""

    def __init__(self, wants: Sequence[ModelDemand], homes: Sequence[PlacementOption]) -> None:
        self.wants = wants
        self.resident: set[ModelOnNode] = set()
        self._homes: dict[ModelName, list[PlacementOption]] = {}
        for home in homes:
            self._homes.setdefault(home.model, []).append(home)
        self._rate = {want.model: want.per_s for want in wants}
        self._busy: dict[NodeId, float] = {}
        self._own: dict[ModelName, dict[NodeId, float]] = {}
        self._request_s: dict[ModelName, float] = {}
        self.share_out()

    def knows(self, model: ModelName) -> bool:
        return model in self._rate

    def share_out(self) -> None:
        """Every model's requests, the most work first, each part to where it is answered soonest."""
        self._busy.clear()
        for want in self.wants:
            own, mean_s = self._shared(self._options(want.model, None), want.per_s, {})
            for node_id, busy in own.items():
                self._busy[node_id] = self._busy.get(node_id, 0.0) + busy
            self._own[want.model], self._request_s[want.model] = own, mean_s

    def saved_s_per_s(self, home: PlacementOption) -> float:
        """What its model's requests would gain, everybody else staying where they are."""
        rate = self._rate[home.model]
        _, mean_s = self._shared(self._options(home.model, home), rate, self._own[home.model])
        return (self._request_s[home.model] - mean_s) * rate

    def outcome(self) -> PlacementPlan:
        self.share_out()
        total = sum(self._request_s[want.model] * want.per_s for want in self.wants)
        return PlacementPlan(frozenset(self.resident), dict(self._request_s), total)

    def _options(self, model: ModelName, added: PlacementOption | None) -> list[tuple[float, PlacementOption]]:
        """The seconds of a request alone, and where: with what is added as if it were in memory."""
        known = self._homes[model]
        if added is not None and all(home.place != added.place for home in known):
            known = [*known, added]
        return [
            (
                home.serve_s
                if home.place in self.resident or (added is not None and home.place == added.place)
                else home.serve_s + home.load_s,
                home,
            )
            for home in known
        ]

    def _shared(
        self, options: Sequence[tuple[float, PlacementOption]], per_s: float, without: Mapping[NodeId, float]
    ) -> tuple[dict[NodeId, float], float]:
        """How busy this makes each node, 0 idle and 1 full, and the mean seconds of a request. `without`: what is not to be counted of
        how busy they are."""
        own: dict[NodeId, float] = {}
        total_s = 0.0
        for _ in range(PARTS):
            best: tuple[float, NodeId, float, int] | None = None
            for alone_s, home in options:
                node_id = home.node_id
                busy = self._busy.get(node_id, 0.0) - without.get(node_id, 0.0) + own.get(node_id, 0.0)
                waits = WAIT_MAX if busy >= 1.0 else min(WAIT_MAX, max(0.0, busy) / (1.0 - busy))
                took_s = alone_s * (1.0 + waits / home.slots)
                if best is None or (took_s, node_id) < best[:2]:
                    best = (took_s, node_id, alone_s, home.slots)
            assert best is not None
            took_s, node_id, alone_s, slots = best
            total_s += took_s / PARTS
            own[node_id] = own.get(node_id, 0.0) + per_s / PARTS * alone_s / slots
        return own, total_s
