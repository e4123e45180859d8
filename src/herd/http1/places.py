"""Decides who may have how many connections, and which one is closed to make room for another.

The last places are for this machine and for paired nodes, so that no other client can keep them out. If there is no
place, a connection that does no work is closed for the new one: first one whose request head is incomplete after
`NEW_S`, then an idle one, then one whose body is incomplete, then a new one; of these, the oldest one of the address
that has the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

from herd.addresses import address_group, is_loopback
from herd.errors import Refusal
from herd.http1.http_settings import HttpSettings

_RESERVED_SHARE_MAX = 10
"""A reserve is at most this fraction (1/10) of all places, however small their number is."""


NEW_S = 1.0
"""A request head normally arrives within this time."""
ROOM_MAX = 64
"""At most this many connections are closed for a new one: those that were refused before still count."""


class Activity(IntEnum):
    """What a connection does. The lower ones are closed first if there is no place; `WORKING` ones are not closed."""

    HALF_OPEN = 0
    IDLE = 1
    SENDING = 2
    NEW = 3
    WORKING = 4


class Connection(Protocol):
    """The calls that the places and `ClientConnections` make on each connection."""

    client_ip: str

    @property
    def unsent_bytes(self) -> int: ...

    def activity(self) -> Activity: ...

    def sweep(self, now: float) -> None:
        """Checks the time limits of the connection's present state."""

    def close_if_idle(self) -> None: ...

    def abort(self) -> None:
        """Closes the connection at once."""


class _Owner(Enum):
    """Who has an address."""

    NODE = "a paired node"
    THIS_MACHINE = "this machine"
    OTHER = "anyone else"


@dataclass(slots=True, eq=False)
class _Group:
    """The connections of one address, oldest first."""

    owner: _Owner = _Owner.OTHER
    members: dict[Connection, None] = field(default_factory=dict)


class Places:
    """The places of one or more listeners."""

    def __init__(self, settings: HttpSettings, is_node: Callable[[str], bool] = lambda _: False) -> None:
        """`is_node`: whether a paired node reports from this address."""
        self._settings = settings
        self._is_node = is_node
        self._groups: dict[str, _Group] = {}
        self._taken = dict.fromkeys(_Owner, 0)
        most = settings.connections_max // _RESERVED_SHARE_MAX
        self._reserved = {
            _Owner.NODE: min(settings.connections_reserved_nodes, most),
            _Owner.THIS_MACHINE: min(settings.connections_reserved_loopback, most),
            _Owner.OTHER: 0,
        }

    def join(self, connection: Connection) -> int:
        """Counts a new connection. Returns by how many a limit is exceeded; 0 or less means that it has a place."""
        ip = connection.client_ip
        group = self._groups.setdefault(address_group(ip), _Group())
        self._set_owner(group, self._owner(ip))
        group.members[connection] = None
        self._taken[group.owner] += 1
        excess = len(group.members) - self._group_max(ip)
        if self._make_room(excess, (group,), connection):
            excess = 0
        total = self._excess(group.owner)
        if total > 0 and self._make_room(total, self._others(), connection):
            total = 0
        return max(excess, total)

    def leave(self, connection: Connection) -> None:
        """Frees the place of a connection, unless it was freed before."""
        name = address_group(connection.client_ip)
        group = self._groups.get(name)
        if group is None or connection not in group.members:
            return
        del group.members[connection]
        self._taken[group.owner] -= 1
        if not group.members:
            del self._groups[name]

    def refusal(self, ip: str) -> Refusal:
        group = self._groups.get(address_group(ip))
        if group is not None and len(group.members) > self._group_max(ip):
            message = f"more than {self._group_max(ip)} connections from {address_group(ip)}"
            return Refusal(429, "too_many_connections", message, retry_after_s=1.0)
        return Refusal(503, "too_many_connections", "too many connections to the coordinator", retry_after_s=1.0)

    def _group_max(self, ip: str) -> int:
        settings = self._settings
        return settings.connections_loopback_max if is_loopback(ip) else settings.connections_per_ip_max

    def _owner(self, ip: str) -> _Owner:
        if is_loopback(ip):
            return _Owner.THIS_MACHINE
        return _Owner.NODE if self._is_node(ip) else _Owner.OTHER

    def _set_owner(self, group: _Group, owner: _Owner) -> None:
        """An address becomes a node's with the node's first report."""
        self._taken[group.owner] -= len(group.members)
        self._taken[owner] += len(group.members)
        group.owner = owner

    def _excess(self, owner: _Owner) -> int:
        """By how many connections the places are exceeded that this owner may have."""
        kept_for = {_Owner.NODE: (), _Owner.THIS_MACHINE: (_Owner.NODE,)}.get(owner, (_Owner.NODE, _Owner.THIS_MACHINE))
        unused = sum(max(0, self._reserved[other] - self._taken[other]) for other in kept_for)
        return sum(self._taken.values()) + unused - self._settings.connections_max

    def _others(self) -> list[_Group]:
        """The addresses without reserved places, those with the most connections first."""
        groups = [group for group in self._groups.values() if group.owner is _Owner.OTHER]
        return sorted(groups, key=lambda group: len(group.members), reverse=True)

    def _make_room(self, count: int, groups: Iterable[_Group], newcomer: Connection) -> bool:
        """Closes the `count` connections of these groups that work least; none of them if there are fewer."""
        if count <= 0 or count > ROOM_MAX:
            return count <= 0
        found: list[tuple[Activity, int, Connection]] = []
        for group in groups:
            for member in group.members:
                activity = member.activity() if member is not newcomer else Activity.WORKING
                if activity is not Activity.WORKING:
                    found.append((activity, len(found), member))
                    if count == 1 and activity is Activity.HALF_OPEN:
                        return self._close([member])
        if len(found) < count:
            return False
        return self._close([member for _, _, member in sorted(found, key=lambda each: each[:2])[:count]])

    def _close(self, connections: Iterable[Connection]) -> bool:
        for connection in connections:
            self.leave(connection)
            connection.abort()
        return True
