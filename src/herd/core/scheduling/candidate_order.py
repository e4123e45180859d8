"""Orders the nodes of a model by the least time that they need, so that a search can stop at the best one.

Similar nodes are in a group, whose bound is computed from the group's fastest speeds. A search opens groups in the
order of their bounds, and so looks at a few dozen of a thousand nodes. Nodes that changed since the groups were formed
stay apart, until there are enough of them to form the groups again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from herd.core.estimates.prefix_cache import BLOCK_TOKENS
from herd.core.scheduling.expected_delays import RequestEstimate
from herd.core.scheduling.lower_bounds import ROUNDING, LowerBounds, NodeBound, Window
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.queues import Queues

GROUP_NODES = 24
VALID_S = 2.0
"""How long the bounds of busy nodes hold; then they are computed again. For a longer time they would be lower."""
APART_MAX = 64
"""Nodes that have changed before the groups are formed again."""
ORDERS_MAX = 64
"""Models whose order is stored; the one that was not used for longest is dropped first."""
HOLDERS_LISTED_MAX = 64
"""If at most this many nodes have more of the prompt in their caches than the others, each has a bound of its own."""

Bound: TypeAlias = "tuple[float, int, NodeId]"
"""The least estimate, the queue length and the name: compared like the estimates themselves."""


class Group:
    """Similar nodes, and the fastest values of them all."""

    __slots__ = (
        "beside",
        "beside_left_s",
        "beside_slowdown",
        "first_id",
        "is_idle",
        "kind",
        "load_s",
        "members",
        "prompt_tokens_per_s",
        "step_s",
        "wait_s",
    )

    def __init__(self, members: list[NodeBound]) -> None:
        first = members[0]
        self.members = {one.node_id: one for one in members}
        self.kind = first.kind
        self.is_idle = first.is_idle
        self.first_id = min(self.members)
        self.prompt_tokens_per_s = max(one.prompt_tokens_per_s for one in members)
        self.step_s = min(one.step_s * one.occupation.decode_factor for one in members)
        self.load_s = min(one.load_s for one in members)
        there = [one.occupation for one in members]
        self.wait_s = min(min(one.regular_wait_s, one.irregular_wait_s) for one in there)
        self.beside = min(one.beside for one in there)
        self.beside_left_s = min(sum(one.beside_left_s) / max(1, len(one.beside_left_s)) for one in there)
        self.beside_slowdown = min(one.beside_slowdown for one in there)

    def bound(self, uncached_tokens: float, expected: RequestEstimate, impact_weight: float) -> Bound:
        prefill_s = (uncached_tokens if uncached_tokens > 1.0 else 1.0) / self.prompt_tokens_per_s
        decode_s = expected.output_tokens * self.step_s
        least_s = self.load_s + prefill_s + decode_s
        if self.is_idle:
            return least_s, 0, self.first_id
        overlap_s = min(self.beside_left_s, decode_s) * self.beside_slowdown
        impact_s = self.beside * (prefill_s + overlap_s)
        return (self.wait_s + least_s + impact_weight * impact_s) * ROUNDING, 0, self.first_id


@dataclass(slots=True, eq=False)
class _Prompt:
    """How much of the prompt is to be processed: `least_tokens` on every node outside `holders`."""

    expected: RequestEstimate
    least_tokens: float
    holders: Collection[NodeId] = ()
    """Nodes with more of it in their caches."""
    may_hold: Collection[NodeId] = ()
    """Nodes with its beginning in their caches."""


class CandidateOrder:
    """The nodes that have one model."""

    def __init__(self, model: ModelName, bounds: LowerBounds, fleet: Fleet, queues: Queues) -> None:
        self.model = model
        self._bounds = bounds
        self._fleet = fleet
        self._queues = queues
        self._groups: list[Group] = []
        self._group_of: dict[NodeId, Group] = {}
        self._apart: dict[NodeId, NodeBound] = {}
        self._positions = (0, 0)
        self._epoch = -1
        self._valid = Window(0.0, -math.inf)

    def refresh(self, now: float) -> None:
        """Follows the changes since the last call."""
        in_fleet, in_queues = self._fleet.changes, self._queues.changes
        changed = in_fleet.since(self._positions[0]), in_queues.since(self._positions[1])
        self._positions = in_fleet.position, in_queues.position
        if changed[0] is None or changed[1] is None or self._epoch != self._bounds.epoch:
            self._rebuild(now)
            return
        node_ids = {*changed[0], *changed[1]}
        if not self._valid.begins_at <= now <= self._valid.ends_at:
            node_ids.update(self._busy())
            self._valid = Window(now, now + VALID_S)
        else:
            self._valid = Window(now, self._valid.ends_at)
        for node_id in node_ids:
            self._update(node_id)
        if len(self._apart) > APART_MAX:
            self._regroup()

    def examples(self) -> dict[int, Node]:
        """A node of each kind of copy."""
        found = {one.kind: one.node for one in self._apart.values()}
        for group in self._groups:
            if group.members and group.kind not in found:
                found[group.kind] = next(iter(group.members.values())).node
        return found

    def size(self, left_out: Collection[int]) -> int:
        """The number of nodes that accept requests, without the copies that are left out."""
        grouped = sum(len(group.members) for group in self._groups if group.kind not in left_out)
        return grouped + sum(one.kind not in left_out for one in self._apart.values())

    def lists(self, node_id: NodeId, left_out: Collection[int]) -> bool:
        """Whether the node accepts requests, and its copy is not left out."""
        group = self._group_of.get(node_id)
        one = group.members[node_id] if group is not None else self._apart.get(node_id)
        return one is not None and one.kind not in left_out

    def ascending(self, expected: RequestEstimate, left_out: Collection[int]) -> Iterator[tuple[Bound, Node]]:
        """All nodes that accept requests, in the order of their bounds, except for copies that are left out."""
        prompt, number = self._prompt(expected), count()
        least_tokens = prompt.least_tokens
        heap: list[tuple[Bound, int, Group | NodeBound]] = [
            (group.bound(least_tokens, expected, self._bounds.impact_weight), next(number), group)
            for group in self._groups
            if group.members and group.kind not in left_out
        ]
        one_by_one = [*self._apart.values(), *self._grouped_holders(prompt.holders)]
        heap += [(self._bound(one, prompt), next(number), one) for one in one_by_one if one.kind not in left_out]
        heapq.heapify(heap)
        while heap:
            bound, _, found = heapq.heappop(heap)
            if isinstance(found, NodeBound):
                yield bound, found.node
                continue
            for node_id, one in found.members.items():
                if node_id not in prompt.holders:
                    heapq.heappush(heap, (self._bound(one, prompt), next(number), one))

    def _prompt(self, expected: RequestEstimate) -> _Prompt:
        blocks = expected.request.prefix
        if not blocks:
            return _Prompt(expected, expected.prompt_tokens)
        held_by = self._bounds.forecast.prefixes.holders(self.model)
        shared = held_by.shared_blocks(blocks, HOLDERS_LISTED_MAX)
        holders = held_by.of(blocks[shared]) if shared < len(blocks) else ()
        return _Prompt(expected, expected.prompt_tokens - BLOCK_TOKENS * shared, holders, held_by.of(blocks[0]))

    def _bound(self, one: NodeBound, prompt: _Prompt) -> Bound:
        expected = prompt.expected
        uncached_tokens = expected.prompt_tokens
        if one.is_loaded and one.node_id in prompt.may_hold:
            prefixes = self._bounds.forecast.prefixes
            uncached_tokens -= prefixes.cached_tokens(one.node_id, self.model, expected.request.prefix)
        return one.least_s(uncached_tokens, expected, self._bounds.impact_weight), one.depth, one.node_id

    def _grouped_holders(self, holders: Collection[NodeId]) -> Iterator[NodeBound]:
        for node_id in holders:
            group = self._group_of.get(node_id)
            if group is not None:
                yield group.members[node_id]

    def _update(self, node_id: NodeId) -> None:
        group = self._group_of.pop(node_id, None)
        if group is not None:
            del group.members[node_id]
        self._apart.pop(node_id, None)
        node = self._fleet.node(node_id)
        if node is None or not self._fleet.models.has(node_id, self.model):
            return
        bound = self._bounds.of(node, self.model, self._queues, self._valid)
        if bound is not None:
            self._apart[node_id] = bound

    def _busy(self) -> Iterator[NodeId]:
        for group in self._groups:
            if not group.is_idle:
                yield from group.members
        yield from (node_id for node_id, one in self._apart.items() if not one.is_idle)

    def _rebuild(self, now: float) -> None:
        self._epoch, self._valid = self._bounds.epoch, Window(now, now + VALID_S)
        nodes = self._fleet.with_model(self.model)
        bounds = [self._bounds.of(node, self.model, self._queues, self._valid) for node in nodes]
        self._groups, self._apart = [], {bound.node_id: bound for bound in bounds if bound is not None}
        self._regroup()

    def _regroup(self) -> None:
        bounds = [*self._apart.values(), *(one for group in self._groups for one in group.members.values())]
        bounds.sort(key=lambda one: (one.is_idle, one.usual_s, one.node_id))
        similar: dict[tuple[bool, int], list[NodeBound]] = {}
        for one in bounds:
            similar.setdefault((one.is_idle, one.kind), []).append(one)
        self._apart = {}
        self._groups = [
            Group(members[start : start + GROUP_NODES])
            for members in similar.values()
            for start in range(0, len(members), GROUP_NODES)
        ]
        self._group_of = {node_id: group for group in self._groups for node_id in group.members}


class CandidateOrders:
    """The orders of the models that were requested last."""

    def __init__(self, bounds: LowerBounds, fleet: Fleet, queues: Queues) -> None:
        self._bounds = bounds
        self._fleet = fleet
        self._queues = queues
        self._orders: dict[ModelName, CandidateOrder] = {}

    def of(self, model: ModelName, now: float) -> CandidateOrder:
        """The order of a model's nodes now."""
        order = self._orders.pop(model, None)
        if order is None:
            order = CandidateOrder(model, self._bounds, self._fleet, self._queues)
            if len(self._orders) >= ORDERS_MAX:
                oldest = next(iter(self._orders))
                del self._orders[oldest]
                self._bounds.forecast.prefixes.forget_holders(oldest)
        self._orders[model] = order
        order.refresh(now)
        return order
