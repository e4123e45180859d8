"""Keeps the addresses of all engines of the fleet, so that an answer that lists them costs no walk over the nodes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from urllib.parse import urlsplit


class EngineHosts:
    def __init__(self) -> None:
        self._urls: dict[str, tuple[str, ...]] = {}
        self._hosts: dict[str, frozenset[str]] = {}
        self._nodes_at: dict[str, int] = {}
        """Number of nodes with an engine at this address: two nodes can share one."""
        self._sorted: list[str] = []
        self.version = 0
        """Increases with every change of `all`."""

    def replace(self, node_id: str, urls: tuple[str, ...]) -> None:
        """Takes the URLs of the node's engines from its newest report."""
        if self._urls.get(node_id) == urls:
            return
        self.forget(node_id)
        hosts = frozenset(urlsplit(url).hostname or "" for url in urls)
        self._urls[node_id], self._hosts[node_id] = urls, hosts
        for host in hosts:
            if host not in self._nodes_at:
                insort(self._sorted, host)
                self.version += 1
            self._nodes_at[host] = self._nodes_at.get(host, 0) + 1

    def forget(self, node_id: str) -> None:
        self._urls.pop(node_id, None)
        for host in self._hosts.pop(node_id, ()):
            self._nodes_at[host] -= 1
            if not self._nodes_at[host]:
                del self._nodes_at[host], self._sorted[bisect_left(self._sorted, host)]
                self.version += 1

    @property
    def all(self) -> Sequence[str]:
        """The addresses of all engines, sorted."""
        return self._sorted

    def only_of(self, node_id: str) -> list[str]:
        """The addresses at which no other node has an engine."""
        return [host for host in self._hosts.get(node_id, ()) if self._nodes_at[host] == 1]
