"""Whose turn it is among those who wait for the same: fair between tenants, first come first served within one. Knows no node.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): every tenant has a virtual time, moved on by what each of its requests
costs when it starts; the tenant that is least far is next, and who comes new begins where the one served last began. So
a tenant with a thousand waiting requests and one with a single one take turns, a tenant of long answers gets fewer turns
than one of short ones, and nobody saves up turns by being away. Plain turns are the case in which everything costs one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heapreplace

from herd.core.state.request import RequestId

TENANTS_MAX = 256
"""Tenants whose use is remembered; beyond it those that are no further than a newcomer are forgotten, then the oldest."""
TURN = 1.0
"""What a request costs of which no duration is known."""


class Shares:
    """How far each tenant is, in virtual time."""

    __slots__ = ("now", "used")

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        """Up to where each tenant is; who is not in it is where a newcomer is."""
        self.now = 0.0
        """Where a newcomer begins."""

    def start_of(self, tenant: str) -> float:
        """When its next request would begin."""
        return max(self.used.get(tenant, 0.0), self.now)

    def charge(self, tenant: str, cost: float) -> None:
        """One of its requests starts now."""
        self.now = self.start_of(tenant)
        self.used.pop(tenant, None)
        if len(self.used) >= TENANTS_MAX:
            self.used = {one: used for one, used in self.used.items() if used > self.now}
        if len(self.used) >= TENANTS_MAX:
            del self.used[next(iter(self.used))]
        self.used[tenant] = self.now + cost

    def __len__(self) -> int:
        return len(self.used)


class FairLine:
    """Requests that wait for the same thing. Asking who is first costs a look at each tenant, not at each request."""

    __slots__ = ("_before_all", "_lanes", "_numbers", "_tenant_of", "shares")

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._lanes: dict[str, OrderedDict[RequestId, int]] = {}
        self._tenant_of: dict[RequestId, str] = {}
        self._numbers = 0
        self._before_all = 0

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._tenant_of

    def add(self, request_id: RequestId, tenant: str) -> int:
        """Its position from 1, if all requests were equally long: those of its own tenant before it, and a turn of each other for each."""
        assert request_id not in self._tenant_of
        lane = self._lanes.setdefault(tenant, OrderedDict())
        self._numbers += 1
        lane[request_id] = self._numbers
        self._tenant_of[request_id] = tenant
        own = len(lane)
        return own + sum(min(len(other), own) for name, other in self._lanes.items() if name != tenant)

    def remove(self, request_id: RequestId) -> None:
        """Nothing happens if it is not there."""
        tenant = self._tenant_of.pop(request_id, None)
        if tenant is None:
            return
        lane = self._lanes[tenant]
        del lane[request_id]
        if not lane:
            del self._lanes[tenant]

    def move_to_front(self, request_id: RequestId) -> None:
        """It was first before it was taken out and put in again: it did not get its turn, so it keeps its place."""
        lane = self._lanes[self._tenant_of[request_id]]
        self._before_all -= 1
        lane[request_id] = self._before_all
        lane.move_to_end(request_id, last=False)

    def first(self) -> RequestId | None:
        """Who is next: of the tenant that is least far; among equals, who waits longest."""
        found: OrderedDict[RequestId, int] | None = None
        least, oldest, now, used_by = math.inf, math.inf, self.shares.now, self.shares.used.get
        for tenant, lane in self._lanes.items():
            start = used_by(tenant, now)
            if start < now:
                start = now
            if start > least:
                continue
            number = next(iter(lane.values()))
            if start < least or number < oldest:
                least, oldest, found = start, number, lane
        return next(iter(found)) if found is not None else None

    def order(self, cost: Callable[[RequestId], float]) -> Iterator[RequestId]:
        """All of them in the order in which they would be served if nobody came or left; `cost` as it will be charged."""
        heads = self._heads()
        heapify(heads)
        lanes = {tenant: iter(list(lane.items())[1:]) for tenant, lane in self._lanes.items()}
        while heads:
            start, _, request_id = heads[0]
            yield request_id
            following = next(lanes[self._tenant_of[request_id]], None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (start + cost(request_id), following[1], following[0]))

    def _heads(self) -> list[tuple[float, int, RequestId]]:
        start_of = self.shares.start_of
        return [(start_of(tenant), _number(lane), next(iter(lane))) for tenant, lane in self._lanes.items()]


def _number(lane: OrderedDict[RequestId, int]) -> int:
    """Who came first has the smallest."""
    return next(iter(lane.values()))
