"""Tests when pinned models are loaded: a check follows each heartbeat, and must notice every change that matters."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from builders import World, a_capacity, a_model_info, a_report, a_world
from herd.coordinator.models.pinned_models import RETRY_S, PinnedModel, PinnedModels, PinSettings
from herd.core.state.events import ModelsChanged, NodeLeft, Ticked
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId, canonical


@dataclass
class Loads:
    """What would be loaded, as "model@node"."""

    pinned: list[str] = field(default_factory=list)

    def pin(self, node: Node, model: ModelName) -> None:
        self.pinned.append(f"{model}@{node.id}")

    def load(self, node: Node, model: ModelName) -> None: ...

    def unload(self, node: Node, model: ModelName) -> None: ...


def a_pinned_world(folder: Path, *pins: str) -> tuple[World, PinnedModels, Loads]:
    """The nodes "a" and "b" have the model "m", which is in memory on "a"; the slower "b" is never preferred."""
    world, loads = a_world(), Loads()
    world.receives(
        a_report("a", [a_model_info("m", loaded=True)], memory_bandwidth_gbps=800.0),
        a_report("b", [a_model_info("m")], memory_bandwidth_gbps=100.0),
    )
    settings = PinSettings(models=",".join(pins))
    return world, PinnedModels(settings, folder, world.dispatcher.fleet, loads, lambda: world.now), loads


def test_a_pinned_model_is_loaded_again_after_each_change_that_took_it_out_of_memory(tmp_path: Path) -> None:
    world, pins, loads = a_pinned_world(tmp_path, "m")
    pins.load_missing()
    assert loads.pinned == []
    world.receives(a_report("a", [a_model_info("m")], memory_bandwidth_gbps=800.0))
    pins.load_missing()
    assert loads.pinned == ["m:latest@a"]
    world.receives(a_report("a", [a_model_info("m", loaded=True)], memory_bandwidth_gbps=800.0))
    pins.load_missing()
    world.now += RETRY_S
    world.feed(ModelsChanged(world.now, NodeId("a"), {canonical("m"): a_model_info("m")}))
    pins.load_missing()
    assert loads.pinned == ["m:latest@a"] * 2


def test_a_pinned_model_is_loaded_elsewhere_if_its_node_pauses_leaves_or_is_lost(tmp_path: Path) -> None:
    for how in ("paused", "left", "lost"):
        folder = tmp_path / how
        folder.mkdir()
        world, pins, loads = a_pinned_world(folder, "m")
        pins.load_missing()
        if how == "paused":
            busy = [a_model_info("m", loaded=True)]
            world.receives(a_report("a", busy, memory_bandwidth_gbps=800.0, capacity=a_capacity(paused=True)))
        elif how == "left":
            world.feed(NodeLeft(world.now, NodeId("a")))
        else:
            for _ in range(60):
                world.now += 1.0
                world.feed(Ticked(world.now))
                world.receives(a_report("b", [a_model_info("m")], memory_bandwidth_gbps=100.0))
        pins.load_missing()
        assert loads.pinned == ["m:latest@b"], how


def test_a_new_pin_is_looked_at_although_no_node_changed(tmp_path: Path) -> None:
    _, pins, loads = a_pinned_world(tmp_path, "m")
    pins.load_missing()
    pins.add(PinnedModel("m:latest", "b"))
    assert loads.pinned == ["m:latest@b"]
    assert pins.missing() == [PinnedModel("m:latest", "b")]


def test_heartbeats_that_repeat_the_last_one_do_not_walk_over_the_nodes(tmp_path: Path) -> None:
    """1,000 nodes send 200 heartbeats in a second."""
    world, pins, _ = a_pinned_world(tmp_path, "m")
    pins.load_missing()
    report = world.dispatcher.fleet.nodes[NodeId("b")].report
    with patch.object(Fleet, "with_model", side_effect=AssertionError):
        world.dispatcher.fleet.apply_heartbeat(report, world.now)
        pins.load_missing()
