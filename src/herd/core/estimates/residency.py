"""Which models are in a node's memory, and how much they take, as far as our own dispatches tell before heartbeats do. Chooses nobody.

A load that we caused throws something out, and for some seconds no report says so: whoever believed the report would
send the next request to a model that is just leaving. What a model takes in memory is learnt too: its weights on disk
are only part of it, the windows of all slots are the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId

PAIRS_MAX = 4096
WINDOW_DEFAULT_TOKENS = 4096
SHARE_MAX = 0.95
"""A footprint seen elsewhere is believed at most up to this share of the node's own memory: engines make do with less."""


class Residency:
    def __init__(self) -> None:
        self._footprints = BoundedDict[tuple[NodeId, ModelName], int](PAIRS_MAX)
        self._surplus = BoundedDict[ModelName, float](PAIRS_MAX)
        """By model: bytes in memory over bytes on disk, as last seen anywhere."""
        self._used_at: OrderedDict[tuple[NodeId, ModelName], float] = OrderedDict()
        self._leaving: dict[NodeId, dict[ModelName, ModelName]] = {}
        """By node: who is being thrown out, and by whom."""

    def is_loaded(self, node: Node, model: ModelName) -> bool:
        """Whether a request would find it in memory: reported, and not thrown out since by a load of ours."""
        if model not in node.loaded or model in node.loading_until:
            return False
        leaving = self._leaving.get(node.id)
        return leaving is None or model not in leaving

    def footprint_bytes(self, node: Node, card: ModelInfo, model: ModelName) -> int:
        """What it will take: as it took here before; else as elsewhere; else weights and a common window per slot."""
        if card.loaded is not None:
            return card.loaded.size_bytes or card.size_bytes
        known = self._footprints.get((node.id, model))
        if known is not None:
            return known
        surplus = self._surplus.get(model)
        if surplus is None:
            kv_bytes = (card.kv_bytes_per_token or 0) * WINDOW_DEFAULT_TOKENS * card.engine.slots
            wanted = card.size_bytes + kv_bytes
        else:
            wanted = int(card.size_bytes * surplus)
        return max(card.size_bytes, min(wanted, int(SHARE_MAX * node.report.memory_ceiling_bytes)))

    def room_bytes(self, node: Node) -> int:
        """Memory that nothing occupies, with what our own loads are taking and giving back already counted."""
        room = node.room_bytes
        for model in node.loading_until:
            card = node.report.models.get(model)
            if card is not None:
                room -= self.footprint_bytes(node, card, model)
        for model in self._leaving.get(node.id, ()):
            loaded = node.loaded.get(model)
            room += loaded.size_bytes if loaded is not None else 0
        return room

    def residents(self, node: Node) -> list[ModelName]:
        """Models in memory that a load could throw out, the one not used for longest first."""
        leaving = self._leaving.get(node.id, ())
        here = [model for model, loaded in node.loaded.items() if model not in leaving and not loaded.is_other_name]
        here += [model for model in node.loading_until if model not in node.loaded]
        here.sort(key=lambda model: (self._used_at.get((node.id, model), 0.0), model))
        return here

    def has_models_max(self, node: Node, card: ModelInfo) -> bool:
        """Whether the engine has as many models as it takes."""
        most = card.engine.models_max
        if most is None:
            return False
        leaving = sum(model in node.loaded for model in self._leaving.get(node.id, ()))
        there = sum(not loaded.is_other_name for loaded in node.loaded.values())
        return there - leaving + len(node.loading_until) >= most

    def resident_bytes(self, node: Node, model: ModelName) -> int:
        """What would be free without it: as reported, or as expected of a load of ours."""
        loaded = node.loaded.get(model)
        return loaded.size_bytes if loaded is not None else self.footprint_bytes(node, node.report.models[model], model)

    # --- told by the forecast ---

    def used(self, node: Node, model: ModelName, at: float) -> None:
        key = (node.id, model)
        self._used_at[key] = at
        self._used_at.move_to_end(key)
        if len(self._used_at) > PAIRS_MAX:
            self._used_at.popitem(last=False)

    def load_started(self, node: Node, model: ModelName, busy: Container[ModelName]) -> None:
        """A request of ours makes the engine load this: idle models leave, as many as must. Call before it is listed in
        `node.loading_until`."""
        card = node.report.models[model]
        leaving = self._leaving.setdefault(node.id, {})
        leaving.pop(model, None)
        missing = self.footprint_bytes(node, card, model) - self.room_bytes(node)
        for victim in self.residents(node):
            if missing <= 0 and not self.has_models_max(node, card):
                break
            if victim in busy or victim == model:
                continue
            missing -= self.resident_bytes(node, victim)
            leaving[victim] = model
            node.loading_until.pop(victim, None)
        if not leaving:
            del self._leaving[node.id]

    def apply_heartbeat(self, node: Node) -> None:
        """A report: what was loading is there, so the report tells also who went for it."""
        for model, loaded in node.loaded.items():
            if not loaded.size_bytes:
                continue
            key = (node.id, model)
            self._footprints[key] = loaded.size_bytes
            self._footprints.move_to_end(key)
            on_disk = node.report.models[model].size_bytes
            if on_disk:
                self._surplus[model] = loaded.size_bytes / on_disk
        leaving = self._leaving.get(node.id)
        if leaving is not None:
            for victim in [v for v, cause in leaving.items() if cause not in node.loading_until]:
                del leaving[victim]
            if not leaving:
                del self._leaving[node.id]

    def forget(self, node_id: NodeId) -> None:
        self._leaving.pop(node_id, None)
