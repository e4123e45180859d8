"""Assigns a unique name to each reporting node if two nodes claim the same id.

A cloned disk image has a cloned node id. After a restart the boot id is new and the node id the same, which is not a
conflict: the old boot never reports again. Two machines that both report are distinguished by their boot ids, and the
second one gets the name `id-2` until it stops.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd.core.state.fleet import NodeId

SILENT_AFTER_S = 15.0
"""A name is free if its owner sent no heartbeat for this time."""
SAME_ID_MAX = 64
REPLACED_MAX = 1024
"""Replaced boots that are remembered."""

_AT_ADDRESS = "at "


def boot_id_at(source_ip: str) -> str:
    """The boot id of an agent that sends none: two cloned machines then differ by address."""
    return f"{_AT_ADDRESS}{source_ip}"


def is_by_address(boot_id: str) -> bool:
    """Whether the agent sends no boot id, as those of ollama-herd."""
    return boot_id.startswith(_AT_ADDRESS)


@dataclass(slots=True)
class _Owner:
    boot_id: str
    source_ip: str
    last_heartbeat_at: float


class NodeNames:
    def __init__(self) -> None:
        self._owners: dict[NodeId, _Owner] = {}
        self._replaced: dict[tuple[NodeId, str], None] = {}

    def assign(self, claimed: NodeId, boot_id: str, source_ip: str, now: float) -> NodeId:
        """The name of the heartbeat's sender; the same sender always gets the same name."""
        if self._owned_by(claimed, boot_id):
            self._owners[claimed] = _Owner(boot_id, source_ip, now)
            return claimed
        names = [claimed, *(NodeId(f"{claimed}-{n}") for n in range(2, SAME_ID_MAX))]
        current = next((name for name in names if self._owned_by(name, boot_id)), None)
        name = current or next((name for name in names if self._is_free(name, boot_id, source_ip, now)), names[-1])
        owner = self._owners.get(name)
        if owner is not None and owner.boot_id != boot_id:
            self._remember_replaced(name, owner.boot_id)
        self._owners[name] = _Owner(boot_id, source_ip, now)
        return name

    def release(self, name: NodeId) -> None:
        self._owners.pop(name, None)

    def _owned_by(self, name: NodeId, boot_id: str) -> bool:
        owner = self._owners.get(name)
        return owner is not None and owner.boot_id == boot_id

    def _is_free(self, name: NodeId, boot_id: str, source_ip: str, now: float) -> bool:
        owner = self._owners.get(name)
        if owner is None or now - owner.last_heartbeat_at > SILENT_AFTER_S:
            return True
        # A restart on the same machine gets its name back at once. But a replaced boot that still reports was not
        # restarted: two processes share this machine and this name.
        return owner.source_ip == source_ip and (name, boot_id) not in self._replaced

    def _remember_replaced(self, name: NodeId, boot_id: str) -> None:
        self._replaced[(name, boot_id)] = None
        while len(self._replaced) > REPLACED_MAX:
            del self._replaced[next(iter(self._replaced))]
