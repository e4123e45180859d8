"""Writes the addresses of a node's peers, which every answer to a heartbeat contains, without listing them again."""

from __future__ import annotations

import msgspec

from herd.core.state.nodes.engine_hosts import EngineHosts


class PeersText:
    """The JSON text of all addresses is built once for each change; of each answer only the node's own are left out."""

    def __init__(self, hosts: EngineHosts, peers_max: int) -> None:
        self._hosts = hosts
        self._peers_max = peers_max
        self._version = -1
        self._all = b""

    def of_others(self, node_id: str) -> msgspec.Raw:
        """A JSON array of the addresses, sorted, at which another node has an engine; at most `peers_max`."""
        hosts = self._hosts
        if hosts.version != self._version:
            self._version = hosts.version
            self._all = b"".join(_element(host) for host in hosts.all[: self._peers_max])
        listed = self._all
        for host in hosts.only_of(node_id):
            listed = listed.replace(_element(host), b"", 1)
        return msgspec.Raw(b"[" + listed[:-1] + b"]")


def _element(host: str) -> bytes:
    """It begins with a quote, which no other address contains: so it is found only where it is an element."""
    return msgspec.json.encode(host) + b","
