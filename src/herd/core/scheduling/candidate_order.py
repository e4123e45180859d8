"""Orders the nodes of a model by the least time that they need, so that a search can stop at the best one.

Similar nodes are in a group, whose bound is computed from the group's fastest speeds. A search opens groups in the
order of their bounds, and so looks at a few dozen of a thousand nodes. A node that changes moves to the group of those
that are like it now. Bounds follow the clock: only nodes that changed are bounded again.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import TypeAlias

from herd.core.estimates.prefix_cache import BLOCK_TOKENS
from herd.core.scheduling.expected_delays import RequestEstimate
from herd.core.scheduling.lower_bounds import (
    ROUNDING,
    Likeness,
    LowerBounds,
    NodeBound,
    least_left,
    left_s,
    mean_overlap_s,
)
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.queues import Queues

GROUP_NODES = 24
"""A group that has become twice as large is divided, and one of less than a quarter is joined to the next."""
SMALL_SHARE = 4
ORDERS_MAX = 64
"""Models whose order is stored; the one that was not used for longest is dropped first."""
HOLDERS_LISTED_MAX = 64
"""If at most this many nodes have more of the prompt in their caches than the others, each has a bound of its own."""

Bound: TypeAlias = "tuple[float, int, NodeId]"
"""The least estimate, the queue length and the name: compared like the estimates themselves."""


class Group:
    """Similar nodes, and the fastest values of them all. Those of nodes that have left count until it is `worn`."""

    __slots__ = (
        "_beside",
        "_first",
        "_first_id",
        "_irregular_wait_s",
        "_is_full",
        "_is_idle",
        "_left",
        "_load_s",
        "_pending_s",
        "_prompt_tokens_per_s",
        "_slowdown",
        "_step_s",
        "_streams",
        "from_s",
        "kind",
        "members",
    )

    def __init__(self, members: list[NodeBound], from_s: float) -> None:
        self.from_s = from_s
        self.kind, self._is_idle, self._is_full, _ = members[0].likeness
        self.members = {one.node_id: one for one in members}
        self.renew()

    def renew(self) -> None:
        """Computes the fastest values again, from the nodes that are still members."""
        members = list(self.members.values())
        there = [one.occupation for one in members]
        self._left = 0
        self._first_id = min(self.members)
        self._prompt_tokens_per_s = max(one.prompt_tokens_per_s for one in members)
        self._step_s = min(one.step_s * one.occupation.decode_factor for one in members)
        self._load_s = min(one.load_s for one in members)
        self._first = least_left([one.first for one in there])
        self._irregular_wait_s = min(one.irregular_wait_s for one in there)
        self._pending_s = min(one.pending_s for one in there)
        self._beside = min(one.beside for one in there)
        self._slowdown = min(one.beside_slowdown for one in there)
        # The streams of each node are sorted by their end, so that the first of all ends first, and so on.
        self._streams = tuple(least_left(lefts) for lefts in zip(*(one.streams for one in there), strict=True))

    @property
    def is_worn(self) -> bool:
        return self._left * 2 > len(self.members) > 0

    def add(self, one: NodeBound) -> None:
        self.members[one.node_id] = one
        there = one.occupation
        self._first_id = min(self._first_id, one.node_id)
        self.from_s = min(self.from_s, one.usual_s)
        self._prompt_tokens_per_s = max(self._prompt_tokens_per_s, one.prompt_tokens_per_s)
        self._step_s = min(self._step_s, one.step_s * there.decode_factor)
        self._load_s = min(self._load_s, one.load_s)
        self._first = least_left([self._first, there.first])
        self._irregular_wait_s = min(self._irregular_wait_s, there.irregular_wait_s)
        self._pending_s = min(self._pending_s, there.pending_s)
        self._beside = min(self._beside, there.beside)
        self._slowdown = min(self._slowdown, there.beside_slowdown)
        both = zip(self._streams, there.streams, strict=True)
        self._streams = tuple(least_left([ours, its]) for ours, its in both)

    def remove(self, node_id: NodeId) -> None:
        del self.members[node_id]
        self._left += 1

    def bound(self, uncached_tokens: float, expected: RequestEstimate, impact_weight: float) -> Bound:
        prefill_s = (uncached_tokens if uncached_tokens > 1.0 else 1.0) / self._prompt_tokens_per_s
        decode_s = expected.output_tokens * self._step_s
        least_s = self._load_s + prefill_s + decode_s
        if self._is_idle:
            return least_s, 0, self._first_id
        if self._beside:
            overlap_s = mean_overlap_s(self._streams, decode_s, expected.at)
            least_s += impact_weight * self._beside * (prefill_s + overlap_s * self._slowdown)
        if self._is_full:
            regular_s = left_s(self._first, expected.at)
            least_s += expected.irregularity * self._irregular_wait_s + (1.0 - expected.irregularity) * regular_s
            least_s += 0.0 if expected.request.user else self._pending_s
        return least_s * ROUNDING, 0, self._first_id


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
        self._groups: dict[Likeness, list[Group]] = {}
        """Groups of like nodes, those of the fastest nodes first."""
        self._group_of: dict[NodeId, Group] = {}
        self._sizes = Counter[int]()
        """The number of nodes with each kind of copy."""
        self._changes = fleet.changes, queues.changes, bounds.forecast.utilization.forgotten
        self._positions: tuple[int, ...] = ()
        self._epoch = -1
        self._at = -math.inf

    def refresh(self, now: float) -> None:
        """Follows the changes since the last call."""
        positions = tuple(changes.position for changes in self._changes)
        if self._epoch != self._bounds.epoch or now < self._at:
            self._rebuild(now)
        elif positions != self._positions:
            of_each = [log.since(at) for log, at in zip(self._changes, self._positions, strict=True)]
            node_ids = dict.fromkeys(chain.from_iterable(ids for ids in of_each if ids is not None))
            if None in of_each or len(node_ids) * 2 > len(self._group_of):
                self._rebuild(now)
            else:
                for node_id in node_ids:
                    self._update(node_id, now)
        self._positions, self._at = positions, now

    def examples(self) -> dict[int, Node]:
        """A node of each kind of copy."""
        return {groups[0].kind: next(iter(groups[0].members.values())).node for groups in self._groups.values()}

    def size(self, left_out: Collection[int]) -> int:
        """The number of nodes that accept requests, without the copies that are left out."""
        return len(self._group_of) - sum(self._sizes[kind] for kind in left_out)

    def lists(self, node_id: NodeId, left_out: Collection[int]) -> bool:
        """Whether the node accepts requests, and its copy is not left out."""
        group = self._group_of.get(node_id)
        return group is not None and group.kind not in left_out

    def ascending(self, expected: RequestEstimate, left_out: Collection[int]) -> Iterator[tuple[Bound, Node]]:
        """All nodes that accept requests, in the order of their bounds, except for copies that are left out."""
        prompt, number, weight = self._prompt(expected), count(), self._bounds.impact_weight
        heap: list[tuple[Bound, int, Group | NodeBound]] = [
            (group.bound(prompt.least_tokens, expected, weight), next(number), group)
            for (kind, *_), groups in self._groups.items()
            if kind not in left_out
            for group in groups
        ]
        one_by_one = self._grouped_holders(prompt.holders)
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

    def _update(self, node_id: NodeId, now: float) -> None:
        group = self._group_of.pop(node_id, None)
        if group is not None:
            self._leave(group, node_id)
        node = self._fleet.node(node_id)
        if node is None or not self._fleet.models.has(node_id, self.model):
            return
        bound = self._bounds.of(node, self.model, self._queues, now)
        if bound is not None:
            self._sizes[bound.kind] += 1
            self._join(bound)

    def _leave(self, group: Group, node_id: NodeId) -> None:
        like = group.members[node_id].likeness
        group.remove(node_id)
        self._sizes[group.kind] -= 1
        groups = self._groups[like]
        is_small = len(group.members) * SMALL_SHARE < GROUP_NODES and len(groups) > 1
        if group.members and not is_small:
            if group.is_worn:
                group.renew()
            return
        groups.remove(group)
        for one in group.members.values():
            self._join(one)
        if not groups:
            del self._groups[like]

    def _join(self, one: NodeBound) -> None:
        groups = self._groups.setdefault(one.likeness, [])
        at = max(0, bisect_right(groups, one.usual_s, key=lambda group: group.from_s) - 1)
        if groups:
            groups[at].add(one)
        else:
            groups.append(Group([one], one.usual_s))
        self._group_of[one.node_id] = groups[at]
        if len(groups[at].members) >= 2 * GROUP_NODES:
            self._divide(groups, at)

    def _divide(self, groups: list[Group], at: int) -> None:
        members = sorted(groups[at].members.values(), key=_by_time)
        lower, upper = members[: len(members) // 2], members[len(members) // 2 :]
        groups[at : at + 1] = [Group(lower, groups[at].from_s), Group(upper, upper[0].usual_s)]
        self._group_of.update((node_id, group) for group in groups[at : at + 2] for node_id in group.members)

    def _rebuild(self, now: float) -> None:
        self._epoch = self._bounds.epoch
        nodes = self._fleet.with_model(self.model)
        bounds = [self._bounds.of(node, self.model, self._queues, now) for node in nodes]
        alike: dict[Likeness, list[NodeBound]] = {}
        for one in sorted((bound for bound in bounds if bound is not None), key=_by_time):
            alike.setdefault(one.likeness, []).append(one)
        self._groups = {
            like: [
                Group(members[start : start + GROUP_NODES], members[start].usual_s)
                for start in range(0, len(members), GROUP_NODES)
            ]
            for like, members in alike.items()
        }
        every = [group for groups in self._groups.values() for group in groups]
        self._group_of = {node_id: group for group in every for node_id in group.members}
        self._sizes = Counter(bound.kind for bound in bounds if bound is not None)


def _by_time(one: NodeBound) -> tuple[float, NodeId]:
    return one.usual_s, one.node_id


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
