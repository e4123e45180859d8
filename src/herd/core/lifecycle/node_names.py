"""Which name a reporting node goes by when two claim the same one. Knows nothing of what they report.

A cloned disk image brings a cloned node id. A restart brings a new boot id under the same name, which is no clash:
the old boot never reports again. Two machines that both report are told apart by their boots, and the second goes
by `id-2`, stable for as long as it lives.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd.core.state.fleet import NodeId

SILENT_AFTER_S = 15.0
"""A name whose owner was silent this long is free."""
TWINS_MAX = 64
REPLACED_MAX = 1024
"""Boots remembered as replaced."""


@dataclass(slots=True)
class _Owner:
    boot_id: str
    source_ip: str
    last_heartbeat_at: float


class NodeNames:
    def __init__(self) -> None:
        self._owners: dict[NodeId, _Owner] = {}
        self._replaced: dict[tuple[NodeId, str], None] = {}

    def assign(self, claimed: NodeId, boot_id: str, source_ip: str, at: float) -> NodeId:
        """The name for this heartbeat's sender; the same sender gets the same name again."""
        names = [claimed, *(NodeId(f"{claimed}-{n}") for n in range(2, TWINS_MAX))]
        mine = next((name for name in names if self._owned_by(name, boot_id)), None)
        name = mine or next((name for name in names if self._is_free(name, boot_id, source_ip, at)), names[-1])
        owner = self._owners.get(name)
        if owner is not None and owner.boot_id != boot_id:
            self._remember_replaced(name, owner.boot_id)
        self._owners[name] = _Owner(boot_id, source_ip, at)
        return name

    def release(self, name: NodeId) -> None:
        self._owners.pop(name, None)

    def _owned_by(self, name: NodeId, boot_id: str) -> bool:
        owner = self._owners.get(name)
        return owner is not None and owner.boot_id == boot_id

    def _is_free(self, name: NodeId, boot_id: str, source_ip: str, at: float) -> bool:
        owner = self._owners.get(name)
        if owner is None or at - owner.last_heartbeat_at > SILENT_AFTER_S:
            return True
        # A restart on the same machine takes its name back at once. But a boot that was replaced and yet goes on
        # reporting was no restart: two processes share that machine and that name.
        return owner.source_ip == source_ip and (name, boot_id) not in self._replaced

    def _remember_replaced(self, name: NodeId, boot_id: str) -> None:
        self._replaced[(name, boot_id)] = None
        while len(self._replaced) > REPLACED_MAX:
            del self._replaced[next(iter(self._replaced))]
