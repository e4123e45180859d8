"""Estimates which models are in a node's memory and how much memory they take, before a heartbeat shows it.

A load that this coordinator causes evicts other models, and the reports show it only some seconds later: by the report
alone, the next request would go to a model that is just being evicted. The memory footprint of a model is learned too:
it is the weights on disk plus the context windows of all slots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId

PAIRS_MAX = 4096
WINDOW_DEFAULT_TOKENS = 4096
SHARE_MAX = 0.95
"""A footprint measured on another node counts at most as this share of the node's memory: engines adapt to less
memory."""


class Residency:
    def __init__(self) -> None:
        self._footprints = BoundedDict[tuple[NodeId, ModelName], int](PAIRS_MAX)
        self._size_ratios = BoundedDict[ModelName, float](PAIRS_MAX)
        """By model: bytes in memory divided by bytes on disk, from the newest report of any node."""
        self._used_at: OrderedDict[tuple[NodeId, ModelName], float] = OrderedDict()
        self._evicting: dict[NodeId, dict[ModelName, ModelName]] = {}
        """By node: each model that is being evicted, and the model that evicts it."""

    def is_loaded(self, node: Node, model: ModelName) -> bool:
        """Whether the model is loaded: it was reported, and no load of this coordinator has evicted it since."""
        if model not in node.loaded or model in node.loading_until:
            return False
        evicting = self._evicting.get(node.id)
        return evicting is None or model not in evicting

    def is_changing(self, node: Node) -> bool:
        """Whether a load or an eviction that this coordinator has caused is not confirmed by a heartbeat yet."""
        return bool(node.loading_until) or node.id in self._evicting

    def footprint_bytes(self, node: Node, model_info: ModelInfo, model: ModelName) -> int:
        """Expected memory: as measured on this node; else as on other nodes; else weights and a usual context window
        for each slot."""
        if model_info.loaded is not None:
            return model_info.loaded.size_bytes or model_info.size_bytes
        known = self._footprints.get((node.id, model))
        if known is not None:
            return known
        size_ratio = self._size_ratios.get(model)
        if size_ratio is None:
            kv_bytes = (model_info.kv_bytes_per_token or 0) * WINDOW_DEFAULT_TOKENS * model_info.engine.slots
            expected_bytes = model_info.size_bytes + kv_bytes
        else:
            expected_bytes = int(model_info.size_bytes * size_ratio)
        return max(model_info.size_bytes, min(expected_bytes, int(SHARE_MAX * node.report.memory_ceiling_bytes)))

    def free_memory_bytes(self, node: Node) -> int:
        """Free memory, after the loads and evictions that this coordinator has caused."""
        free = node.free_model_memory_bytes
        for model in node.loading_until:
            model_info = node.report.models.get(model)
            if model_info is not None:
                free -= self.footprint_bytes(node, model_info, model)
        for model in self._evicting.get(node.id, ()):
            loaded = node.loaded.get(model)
            free += loaded.size_bytes if loaded is not None else 0
        return free

    def residents(self, node: Node) -> list[ModelName]:
        """Models that a load could evict, the least recently used first."""
        evicting = self._evicting.get(node.id, ())
        here = [model for model, loaded in node.loaded.items() if model not in evicting and not loaded.is_other_name]
        here += [model for model in node.loading_until if model not in node.loaded]
        here.sort(key=lambda model: (self._used_at.get((node.id, model), 0.0), model))
        return here

    def is_engine_full(self, node: Node, model_info: ModelInfo) -> bool:
        """Whether the engine has loaded its maximum number of models."""
        models_max = model_info.engine.models_max
        if models_max is None:
            return False
        evicting = sum(model in node.loaded for model in self._evicting.get(node.id, ()))
        there = sum(not loaded.is_other_name for loaded in node.loaded.values())
        return there - evicting + len(node.loading_until) >= models_max

    def resident_bytes(self, node: Node, model: ModelName) -> int:
        """Memory that evicting the model frees: as reported, or as expected for a model that is being loaded."""
        loaded = node.loaded.get(model)
        return loaded.size_bytes if loaded is not None else self.footprint_bytes(node, node.report.models[model], model)

    # --- reported by the forecast ---

    def record_use(self, node: Node, model: ModelName, now: float) -> None:
        key = (node.id, model)
        self._used_at[key] = now
        self._used_at.move_to_end(key)
        if len(self._used_at) > PAIRS_MAX:
            self._used_at.popitem(last=False)

    def record_load(self, node: Node, model: ModelName, busy: Container[ModelName]) -> None:
        """A request makes the engine load this model, which evicts idle models until it fits. Call this before the
        model is added to `node.loading_until`."""
        model_info = node.report.models[model]
        evicting = self._evicting.setdefault(node.id, {})
        evicting.pop(model, None)
        missing = self.footprint_bytes(node, model_info, model) - self.free_memory_bytes(node)
        for victim in self.residents(node):
            if missing <= 0 and not self.is_engine_full(node, model_info):
                break
            if victim in busy or victim == model:
                continue
            missing -= self.resident_bytes(node, victim)
            evicting[victim] = model
            node.loading_until.pop(victim, None)
        if not evicting:
            del self._evicting[node.id]

    def apply_heartbeat(self, node: Node) -> None:
        """Learns memory footprints, and forgets evictions that the report shows already."""
        for model, loaded in node.loaded.items():
            if not loaded.size_bytes:
                continue
            key = (node.id, model)
            self._footprints[key] = loaded.size_bytes
            self._footprints.move_to_end(key)
            on_disk = node.report.models[model].size_bytes
            if on_disk:
                self._size_ratios[model] = loaded.size_bytes / on_disk
        evicting = self._evicting.get(node.id)
        if evicting is not None:
            for victim in [v for v, cause in evicting.items() if cause not in node.loading_until]:
                del evicting[victim]
            if not evicting:
                del self._evicting[node.id]

    def forget(self, node_id: NodeId) -> None:
        self._evicting.pop(node_id, None)
