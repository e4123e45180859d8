"""Orders waiting requests: fair between tenants, then between the members of a tenant, then first come first served.

This is start-time fair queueing (Goyal, Vin and Cheng, 1996), in two levels. Every tenant has a virtual time, which
advances by the cost of each of its requests when it starts. The tenant with the least virtual time is next; a new
tenant starts at the virtual time of the request served last. So a tenant with a thousand waiting requests and a tenant
with one take turns, a tenant with long answers gets fewer turns than one with short answers, and a tenant cannot save
up turns while it is away. If every request costs 1, tenants simply alternate. Within a tenant its members (users, or
apps) share its turns by the same rule: a tenant that invents members gets nothing more.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from heapq import heapify, heappop, heapreplace
from itertools import islice

from herd.core.state.request import RequestId

TENANTS_MAX = 256
"""Most tenants, and most members of each, whose virtual time is stored. If there are more, those whose virtual time is
not above that of a new one are dropped first, then the oldest."""
TURN = 1.0
"""Cost of a request whose duration is unknown."""

_Line = OrderedDict[RequestId, int]
"""The requests of one member in order, each with its arrival number."""


class Shares:
    """The virtual time of each tenant, and of its members."""

    __slots__ = ("members", "now", "used")

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        """Virtual time by tenant; a tenant that is absent is at `now`."""
        self.now = 0.0
        """Virtual time at which a new tenant starts."""
        self.members: dict[str, Shares] = {}
        """The virtual times of the members of each tenant; a tenant in `used` may be absent."""

    def start_of(self, tenant: str) -> float:
        """The virtual time at which the tenant's next request would start."""
        return max(self.used.get(tenant, 0.0), self.now)

    def charge(self, tenant: str, cost: float, member: str = "") -> None:
        """Accounts for a request of this tenant that starts now."""
        self._charge(tenant, cost)
        members = self.members.get(tenant)
        if members is None and member:
            members = self.members[tenant] = Shares()
        if members is not None:
            members._charge(member, cost)

    def correct(self, tenant: str, difference: float, member: str = "") -> None:
        """Accounts for what a request cost more, or less, than it was charged."""
        if tenant in self.used:
            self.used[tenant] += difference
        members = self.members.get(tenant)
        if members is not None and member in members.used:
            members.used[member] += difference

    def _charge(self, tenant: str, cost: float) -> None:
        self.now = self.start_of(tenant)
        self.used.pop(tenant, None)
        if len(self.used) >= TENANTS_MAX:
            self.used = {name: used for name, used in self.used.items() if used > self.now}
        if len(self.used) >= TENANTS_MAX:
            del self.used[next(iter(self.used))]
        self.used[tenant] = self.now + cost
        if len(self.members) > len(self.used):
            self.members = {name: of_name for name, of_name in self.members.items() if name in self.used}

    def __len__(self) -> int:
        return len(self.used)


class FairOrder:
    """Requests that wait for the same thing. Finding the first one costs a step for each tenant, and for each member of
    one tenant, not for each request."""

    __slots__ = ("_by_tenant", "_front_number", "_last_number", "_member_of", "_tenant_of", "shares")

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._by_tenant: dict[str, dict[str, _Line]] = {}
        """The requests of each tenant, by member."""
        self._tenant_of: dict[RequestId, str] = {}
        self._member_of: dict[RequestId, str] = {}
        self._last_number = 0
        self._front_number = 0

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._tenant_of

    def add(self, request_id: RequestId, tenant: str, member: str = "") -> int:
        """Returns its position from 1, if all requests cost the same: after its own member's, and a turn of each other
        member and tenant for each."""
        assert request_id not in self._tenant_of
        lines = self._by_tenant.setdefault(tenant, {})
        requests = lines.setdefault(member, OrderedDict())
        self._last_number += 1
        requests[request_id] = self._last_number
        self._tenant_of[request_id], self._member_of[request_id] = tenant, member
        own = _turns({name: len(line) for name, line in lines.items()}, member, len(requests))
        return _turns({name: _size(others) for name, others in self._by_tenant.items()}, tenant, own)

    def ahead(self, tenant: str, member: str) -> int:
        """How many of the requests would be served before a new one of this member, if all cost the same."""
        lines = self._by_tenant.get(tenant, {})
        sizes = {name: len(line) for name, line in lines.items()}
        own = _ahead(sizes, self.shares.members.get(tenant), member, sizes.get(member, 0))
        of_tenants = {name: _size(others) for name, others in self._by_tenant.items()}
        return _ahead(of_tenants, self.shares, tenant, own)

    def remove(self, request_id: RequestId) -> None:
        """Does nothing if the request is not here."""
        tenant = self._tenant_of.pop(request_id, None)
        if tenant is None:
            return
        lines, member = self._by_tenant[tenant], self._member_of.pop(request_id)
        requests = lines[member]
        del requests[request_id]
        if not requests:
            del lines[member]
        if not lines:
            del self._by_tenant[tenant]

    def move_to_front(self, request_id: RequestId) -> None:
        """Restores the place of a request that was taken out and added again, because it did not get its turn."""
        requests = self._by_tenant[self._tenant_of[request_id]][self._member_of[request_id]]
        self._front_number -= 1
        requests[request_id] = self._front_number
        requests.move_to_end(request_id, last=False)

    def first(self, without: Collection[str] = ()) -> RequestId | None:
        """The next request: of the tenant and the member with the least virtual time; among equal ones, the request
        that waits longest. Members `without` turns are left out."""
        found: RequestId | None = None
        least, oldest, now, used_by = math.inf, math.inf, self.shares.now, self.shares.used.get
        for tenant, lines in self._by_tenant.items():
            start = used_by(tenant, now)
            if start < now:
                start = now
            if start > least:
                continue
            if without:
                lines = {member: line for member, line in lines.items() if member not in without}
                if not lines:
                    continue
            request_id, number = _head(lines, self.shares.members.get(tenant))
            if start < least or number < oldest:
                least, oldest, found = start, float(number), request_id
        return found

    def sequence(self, cost: Callable[[RequestId], float]) -> Iterator[RequestId]:
        """All requests in the order in which they would be served if none were added or removed; `cost` as it will be
        charged."""
        members = self.shares.members
        tenants = {
            tenant: _merged(
                {member: iter(list(line.items())) for member, line in lines.items()}, members.get(tenant), cost
            )
            for tenant, lines in self._by_tenant.items()
        }
        return (request_id for request_id, _ in _merged(tenants, self.shares, cost))


def _head(lines: Mapping[str, _Line], members: Shares | None) -> tuple[RequestId, int]:
    """The next request of a tenant, with its arrival number."""
    if len(lines) == 1:
        return next(iter(next(iter(lines.values())).items()))
    heads = [(_start_of(members, member), *next(iter(line.items()))) for member, line in lines.items()]
    _, request_id, number = min(heads, key=lambda head: (head[0], head[2]))
    return request_id, number


def _start_of(shares: Shares | None, name: str) -> float:
    return shares.start_of(name) if shares is not None else 0.0


def _merged(
    lines: Mapping[str, Iterator[tuple[RequestId, int]]], shares: Shares | None, cost: Callable[[RequestId], float]
) -> Iterator[tuple[RequestId, int]]:
    """The requests of several tenants, or members, in the order in which they would be served."""
    heads = [
        (_start_of(shares, name), number, request_id, name)
        for name, line in lines.items()
        for request_id, number in islice(line, 1)
    ]
    heapify(heads)
    while heads:
        start, number, request_id, name = heads[0]
        yield request_id, number
        following = next(lines[name], None)
        if following is None:
            heappop(heads)
        else:
            heapreplace(heads, (start + cost(request_id), following[1], following[0], name))


def _size(lines: Mapping[str, _Line]) -> int:
    return sum(len(line) for line in lines.values())


def _ahead(sizes: Mapping[str, int], shares: Shares | None, name: str, own: int) -> int:
    """The requests before the one that follows `own` others of its line: each other line has as many turns, and one
    more if its virtual time is not above this one's."""
    start = _start_of(shares, name)
    return own + sum(
        min(size, own + (_start_of(shares, other) <= start)) for other, size in sizes.items() if other != name
    )


def _turns(sizes: Mapping[str, int], name: str, own: int) -> int:
    """The position of the request that is number `own` of its line, if lines of these sizes take turns."""
    return own + sum(min(size, own) for other, size in sizes.items() if other != name)
