"""Keeps pinned models in memory, and loads the most used models after a start.

Pins are stored in a small file. A pin names a model, and optionally a node; without a node, herd chooses the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from herd.core.state.fleet import GB, Fleet, Liveness, ModelInfo, ModelName, Node, NodeId, canonical
from herd.files import write_atomically

log = logging.getLogger("herd.pins")

PINS_MAX = 64
PINNED_SHARE_MAX = 0.8
"""How much of the memory for models pinned ones may take; the rest is for all other models."""
FILE_MAX_BYTES = 64 * 1024
MEMORY_PER_FILE_SIZE = 1.2
"""Memory of a loaded model, as a multiple of its file size: its context window needs memory too."""
RETRY_S = 60.0
"""Shortest time between two attempts to load a pinned model on the same node."""


@dataclass(frozen=True, slots=True)
class PinSettings:
    models: str = field(
        default="",
        metadata={
            "env": "FLEET_PINNED_MODELS",
            "help": "Models to keep in memory, separated by commas; MODEL@NODE names the node.",
        },
    )
    preload_max: int = field(
        default=3,
        metadata={
            "env": "FLEET_MODEL_PRELOAD_MAX_COUNT",
            "help": "How many of the last week's most used models to load after a start.",
            "min": 0,
            "max": 64,
        },
    )


class PinnedModel(msgspec.Struct, frozen=True):
    """An empty `node_id` means any node."""

    model: str
    node_id: str = ""


class Loader(Protocol):
    """What this module needs of `ModelLoader`."""

    def pin(self, node: Node, model: ModelName) -> None: ...

    def load(self, node: Node, model: ModelName) -> None: ...

    def unload(self, node: Node, model: ModelName) -> None: ...


class PinnedModels:
    def __init__(
        self, settings: PinSettings, folder: Path, fleet: Fleet, loader: Loader, now: Callable[[], float]
    ) -> None:
        self._path = folder / "pins.json"
        self._fleet = fleet
        self._loader = loader
        self._now = now
        self._configured = [
            PinnedModel(canonical(name), node)
            for name, _, node in (one.strip().partition("@") for one in settings.models.split(","))
            if name
        ]
        self._pins: list[PinnedModel] = []
        self._preload_max = settings.preload_max
        self._preload: list[ModelName] = []
        self._last_load_at: dict[tuple[NodeId, ModelName], float] = {}
        self._complete_at = -1
        """The fleet's position in its list of changes when every pinned model was in memory; -1 if one is not."""

    @property
    def pins(self) -> list[PinnedModel]:
        return [*self._configured, *(pin for pin in self._pins if pin not in self._configured)]

    def open(self) -> None:
        """Reads the stored pins. A file that cannot be read is logged and ignored."""
        try:
            with self._path.open("rb") as file:
                self._pins = msgspec.json.decode(file.read(FILE_MAX_BYTES), type=list[PinnedModel])[:PINS_MAX]
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read; only the models in FLEET_PINNED_MODELS are pinned: %s", self._path, error)

    def preload(self, most_used: Sequence[ModelName]) -> None:
        """Notes these models, most used first. Each is loaded once, after nodes have reported, if memory is free."""
        self._preload = list(most_used[: self._preload_max])

    def add(self, pin: PinnedModel) -> None:
        """Raises `OSError` if the file cannot be written, and `OverflowError` beyond `PINS_MAX`."""
        if pin in self.pins:
            return
        if len(self._pins) >= PINS_MAX:
            raise OverflowError(f"the maximum of {PINS_MAX} pinned models is reached; unpin one with: herd unpin MODEL")
        self._write([*self._pins, pin])
        self.load_missing()

    def problem(self, pin: PinnedModel) -> str:
        """Why no node has memory for this pin beside the other pinned models; empty if one has."""
        if pin in self.pins:
            return ""
        fleet_nodes = [node for node in self._fleet if pin.node_id in ("", node.id)]
        copies = [one for node in self._fleet.with_model(ModelName(pin.model)) if (one := _copy(node, pin.model))]
        if not fleet_nodes or not copies:
            return ""
        needed_bytes = max(_memory_bytes(one) for one in copies)
        roomiest = max(fleet_nodes, key=lambda node: (self._room_bytes(node), node.id))
        room_bytes = self._room_bytes(roomiest)
        if needed_bytes <= room_bytes:
            return ""
        total_bytes, pinned = roomiest.report.memory_ceiling_bytes, self._pinned_on(roomiest)
        others = ", ".join(f"{one.name} {_memory_bytes(one) / GB:.1f} GB" for one in pinned) or "none yet"
        return (
            f"{pin.model} needs about {needed_bytes / GB:.1f} GB, and {roomiest.id} has "
            f"{max(0, room_bytes) / GB:.1f} GB left for pinned models: {PINNED_SHARE_MAX:.0%} of "
            f"{total_bytes / GB:.1f} GB for models, minus those pinned there ({others}); pin a smaller "
            'model, unpin another one, or pin it nevertheless: herd pin --force ("force": true)'
        )

    def _room_bytes(self, node: Node) -> int:
        """The memory of a node that pinned models may still take."""
        return int(node.report.memory_ceiling_bytes * PINNED_SHARE_MAX) - sum(map(_memory_bytes, self._pinned_on(node)))

    def _pinned_on(self, node: Node) -> list[ModelInfo]:
        return [one for pin in self.pins if pin.node_id == node.id and (one := _copy(node, pin.model))]

    def remove(self, model: ModelName) -> list[PinnedModel]:
        """Removes and returns all pins of this model except those of FLEET_PINNED_MODELS, and unloads it. Raises
        `OSError`."""
        removed = [pin for pin in self._pins if pin.model == model]
        if removed:
            self._write([pin for pin in self._pins if pin.model != model])
        for pin in removed:
            for node in self._fleet.with_model(model):
                if node.is_loaded(model) and pin.node_id in ("", node.id):
                    self._loader.unload(node, model)
        return removed

    def is_pinned(self, node_id: NodeId, model: ModelName) -> bool:
        return any(pin.model == model and pin.node_id in ("", node_id) for pin in self.pins)

    def missing(self) -> list[PinnedModel]:
        """Pins whose model is not loaded on any of their nodes."""
        return [pin for pin in self.pins if not any(node.is_loaded(ModelName(pin.model)) for node in self._nodes(pin))]

    def load_missing(self) -> None:
        """Loads pinned models that are not in memory. Called after each heartbeat."""
        self._load_most_used()
        if self._complete_at == self._fleet.changes.position:
            return
        at, missing = self._now(), self.missing()
        self._complete_at = -1 if missing else self._fleet.changes.position
        for pin in missing:
            model, nodes = ModelName(pin.model), self._nodes(pin)
            if not nodes or any(model in node.loading_until for node in nodes):
                continue
            node = max(
                nodes, key=lambda one: (one.report.memory_bandwidth_gbps or 0.0, one.free_model_memory_bytes, one.id)
            )
            if at - self._last_load_at.get((node.id, model), -RETRY_S) >= RETRY_S:
                self._last_load_at[node.id, model] = at
                self._loader.pin(node, model)

    def _load_most_used(self) -> None:
        for model in list(self._preload):
            nodes = self._nodes(PinnedModel(model))
            if not nodes:
                continue
            self._preload.remove(model)
            fitting = [
                node
                for node in nodes
                if node.free_model_memory_bytes > node.report.models[model].size_bytes * MEMORY_PER_FILE_SIZE
            ]
            if fitting and not any(node.is_loaded(model) or model in node.loading_until for node in nodes):
                self._loader.load(
                    max(
                        fitting,
                        key=lambda one: (one.report.memory_bandwidth_gbps or 0.0, one.free_model_memory_bytes, one.id),
                    ),
                    model,
                )

    def _nodes(self, pin: PinnedModel) -> list[Node]:
        online = (Liveness.ONLINE, Liveness.DEGRADED)
        named = [self._fleet.node(NodeId(pin.node_id))] if pin.node_id else self._fleet.with_model(ModelName(pin.model))
        return [
            node
            for node in named
            if node is not None
            and ModelName(pin.model) in node.report.models
            and node.liveness in online
            and not node.report.is_paused
        ]

    def _write(self, pins: list[PinnedModel]) -> None:
        write_atomically(self._path, msgspec.json.encode(pins))
        self._pins, self._complete_at = pins, -1


def _copy(node: Node, model: str) -> ModelInfo | None:
    return node.model_info(ModelName(model))


def _memory_bytes(model_info: ModelInfo) -> int:
    """What the model takes in memory: measured if it is loaded, else estimated from its file."""
    loaded = model_info.loaded
    measured_bytes = loaded.size_bytes if loaded is not None else 0
    return measured_bytes or int(model_info.size_bytes * MEMORY_PER_FILE_SIZE)
