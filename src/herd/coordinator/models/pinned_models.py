"""Which models are to be in memory, and where: pins, kept in a small file, and after a start what is used most. Chooses no node for a request.

A pin names a model, and a node or none: without one it is held wherever it is loaded first, on the node that is best for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from herd.core.state.fleet import Fleet, Liveness, ModelName, Node, NodeId, canonical
from herd.files import write_atomically

log = logging.getLogger("herd.pins")

PINS_MAX = 64
FILE_MAX_BYTES = 64 * 1024
ROOM_FACTOR = 1.2
"""A model takes more than its file: its window."""
AGAIN_S = 60.0
"""A model that did not come into memory is not ordered there again before this."""


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
    """`node_id` empty: any node."""

    model: str
    node_id: str = ""


class Loader(Protocol):
    """Who has it done."""

    def keep(self, node: Node, model: ModelName, is_kept: bool) -> None:
        """Into memory to stay, or out of it."""

    def load(self, node: Node, model: ModelName) -> None:
        """Into memory for a while."""


class PinnedModels:
    def __init__(
        self, settings: PinSettings, folder: Path, fleet: Fleet, keeper: Loader, now: Callable[[], float]
    ) -> None:
        self._path = folder / "pins.json"
        self._fleet = fleet
        self._keeper = keeper
        self._now = now
        self._fixed = [
            PinnedModel(canonical(name), node)
            for name, _, node in (one.strip().partition("@") for one in settings.models.split(","))
            if name
        ]
        self._pins: list[PinnedModel] = []
        self._preload_max = settings.preload_max
        self._preload: list[ModelName] = []
        self._ordered_at: dict[tuple[NodeId, ModelName], float] = {}

    @property
    def pins(self) -> list[PinnedModel]:
        return [*self._fixed, *(pin for pin in self._pins if pin not in self._fixed)]

    def open(self) -> None:
        """What was pinned before. A file that cannot be read pins nothing and says so."""
        try:
            with self._path.open("rb") as file:
                self._pins = msgspec.json.decode(file.read(FILE_MAX_BYTES), type=list[PinnedModel])[:PINS_MAX]
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read; nothing is pinned but what FLEET_PINNED_MODELS says: %s", self._path, error)

    def preload(self, most_used: Sequence[ModelName]) -> None:
        """After a start: these, the most used first, are loaded once, as far as there is room that nothing else has taken."""
        self._preload = list(most_used[: self._preload_max])

    def add(self, pin: PinnedModel) -> None:
        """Raises `OSError` where it cannot be kept, and `OverflowError` beyond `PINS_MAX`."""
        if pin in self.pins:
            return
        if len(self._pins) >= PINS_MAX:
            raise OverflowError(f"{PINS_MAX} models are pinned already; let one go with: herd unpin MODEL")
        self._write([*self._pins, pin])
        self.look()

    def remove(self, model: ModelName) -> list[PinnedModel]:
        """Every pin of this model that was not set by the environment; where it was in memory it may go now. Raises `OSError`."""
        gone = [pin for pin in self._pins if pin.model == model]
        if gone:
            self._write([pin for pin in self._pins if pin.model != model])
        for pin in gone:
            for node in self._fleet.with_model(model):
                if node.is_loaded(model) and pin.node_id in ("", node.id):
                    self._keeper.keep(node, model, False)
        return gone

    def is_pinned(self, node_id: NodeId, model: ModelName) -> bool:
        return any(pin.model == model and pin.node_id in ("", node_id) for pin in self.pins)

    def missing(self) -> list[PinnedModel]:
        """Pins whose model is in no memory where it should be."""
        return [pin for pin in self.pins if not any(node.is_loaded(ModelName(pin.model)) for node in self._nodes(pin))]

    def look(self) -> None:
        """After each heartbeat: orders what is not in memory, once a while."""
        at = self._now()
        self._load_most_used()
        for pin in self.missing():
            model, nodes = ModelName(pin.model), self._nodes(pin)
            if not nodes or any(model in node.loading_until for node in nodes):
                continue
            node = max(nodes, key=lambda one: (one.report.memory_bandwidth_gbps or 0.0, one.room_bytes, one.id))
            if at - self._ordered_at.get((node.id, model), -AGAIN_S) >= AGAIN_S:
                self._ordered_at[node.id, model] = at
                self._keeper.keep(node, model, True)

    def _load_most_used(self) -> None:
        for model in list(self._preload):
            nodes = self._nodes(PinnedModel(model))
            if not nodes:
                continue
            self._preload.remove(model)
            fit = [node for node in nodes if node.room_bytes > node.report.models[model].size_bytes * ROOM_FACTOR]
            if fit and not any(node.is_loaded(model) or model in node.loading_until for node in nodes):
                self._keeper.load(
                    max(fit, key=lambda one: (one.report.memory_bandwidth_gbps or 0.0, one.room_bytes, one.id)), model
                )

    def _nodes(self, pin: PinnedModel) -> list[Node]:
        there = (Liveness.ONLINE, Liveness.DEGRADED)
        return [
            node
            for node in self._fleet.with_model(ModelName(pin.model))
            if node.liveness in there
            and not node.report.paused
            and not node.report.draining
            and pin.node_id in ("", node.id)
        ]

    def _write(self, pins: list[PinnedModel]) -> None:
        write_atomically(self._path, msgspec.json.encode(pins))
        self._pins = pins
