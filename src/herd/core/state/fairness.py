"""Orders waiting requests: fair between tenants, first come first served within a tenant.

This is start-time fair queueing (Goyal, Vin and Cheng, 1996). Every tenant has a virtual time, which advances by the
cost of each of its requests when it starts. The tenant with the least virtual time is next; a new tenant starts at the
virtual time of the request served last. So a tenant with a thousand waiting requests and a tenant with one take turns,
a tenant with long answers gets fewer turns than one with short answers, and a tenant cannot save up turns while it is
away. If every request costs 1, tenants simply alternate.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heapreplace

from herd.core.state.request import RequestId

TENANTS_MAX = 256
"""Most tenants whose virtual time is stored. If there are more, tenants whose virtual time is not above that of a new
tenant are dropped first, then the oldest."""
TURN = 1.0
"""Cost of a request whose duration is unknown."""


class Shares:
    """The virtual time of each tenant."""

    __slots__ = ("now", "used")

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        """Virtual time by tenant; a tenant that is absent is at `now`."""
        self.now = 0.0
        """Virtual time at which a new tenant starts."""

    def start_of(self, tenant: str) -> float:
        """The virtual time at which the tenant's next request would start."""
        return max(self.used.get(tenant, 0.0), self.now)

    def charge(self, tenant: str, cost: float) -> None:
        """Accounts for a request of this tenant that starts now."""
        self.now = self.start_of(tenant)
        self.used.pop(tenant, None)
        if len(self.used) >= TENANTS_MAX:
            self.used = {name: used for name, used in self.used.items() if used > self.now}
        if len(self.used) >= TENANTS_MAX:
            del self.used[next(iter(self.used))]
        self.used[tenant] = self.now + cost

    def __len__(self) -> int:
        return len(self.used)


class FairOrder:
    """Requests that wait for the same thing. Finding the first one costs a step for each tenant, not for each
    request."""

    __slots__ = ("_by_tenant", "_front_number", "_last_number", "_tenant_of", "shares")

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._by_tenant: dict[str, OrderedDict[RequestId, int]] = {}
        """The requests of each tenant in order, each with its arrival number."""
        self._tenant_of: dict[RequestId, str] = {}
        self._last_number = 0
        self._front_number = 0

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._tenant_of

    def add(self, request_id: RequestId, tenant: str) -> int:
        """Returns its position from 1, if all requests cost the same: after its own tenant's, and a turn of each other
        tenant for each."""
        assert request_id not in self._tenant_of
        requests = self._by_tenant.setdefault(tenant, OrderedDict())
        self._last_number += 1
        requests[request_id] = self._last_number
        self._tenant_of[request_id] = tenant
        own = len(requests)
        return own + sum(min(len(other), own) for name, other in self._by_tenant.items() if name != tenant)

    def remove(self, request_id: RequestId) -> None:
        """Does nothing if the request is not here."""
        tenant = self._tenant_of.pop(request_id, None)
        if tenant is None:
            return
        requests = self._by_tenant[tenant]
        del requests[request_id]
        if not requests:
            del self._by_tenant[tenant]

    def move_to_front(self, request_id: RequestId) -> None:
        """Restores the place of a request that was taken out and added again, because it did not get its turn."""
        requests = self._by_tenant[self._tenant_of[request_id]]
        self._front_number -= 1
        requests[request_id] = self._front_number
        requests.move_to_end(request_id, last=False)

    def first(self) -> RequestId | None:
        """The next request: of the tenant with the least virtual time; among equal tenants, the one that waits
        longest."""
        found: OrderedDict[RequestId, int] | None = None
        least, oldest, now, used_by = math.inf, math.inf, self.shares.now, self.shares.used.get
        for tenant, requests in self._by_tenant.items():
            start = used_by(tenant, now)
            if start < now:
                start = now
            if start > least:
                continue
            number = next(iter(requests.values()))
            if start < least or number < oldest:
                least, oldest, found = start, number, requests
        return next(iter(found)) if found is not None else None

    def sequence(self, cost: Callable[[RequestId], float]) -> Iterator[RequestId]:
        """All requests in the order in which they would be served if none were added or removed; `cost` as it will be
        charged."""
        heads = self._heads()
        heapify(heads)
        rest = {tenant: iter(list(requests.items())[1:]) for tenant, requests in self._by_tenant.items()}
        while heads:
            start, _, request_id = heads[0]
            yield request_id
            following = next(rest[self._tenant_of[request_id]], None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (start + cost(request_id), following[1], following[0]))

    def _heads(self) -> list[tuple[float, int, RequestId]]:
        start_of = self.shares.start_of
        return [
            (start_of(tenant), next(iter(requests.values())), next(iter(requests)))
            for tenant, requests in self._by_tenant.items()
        ]
