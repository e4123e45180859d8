"""A node: its engine, the heartbeats of its agent, and what can happen to the machine."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from herd.core.state.fleet import GB, EngineEndpoint, Loaded, Memory, ModelInfo, NodeId, Report, canonical
from sim.boundary.coordinator import engines
from sim.boundary.engine import SimEngine
from sim.boundary.network import Peer, Splitting
from sim.boundary.schedule import MODELS, Behavior, BehaviorChange
from sim.boundary.virtual_time import Clock

BEAT_S = 5.0
VERSIONS = {"ollama": "0.32.15", "vllm": "0.11.0"}


class SimNode:
    """One machine. Its engine is reached at `host`."""

    def __init__(self, clock: Clock, name: str, number: int, kind: str, slots: int, rng: Random) -> None:
        self.name, self.host, self.kind, self.slots = name, f"10.0.0.{number}", kind, slots
        self.boot = 1
        self.is_alive = self.is_there = True
        self.frozen_at: float | None = None
        self.is_draining = self.is_paused = False
        self.heartbeats = "fine"
        self.splitting = Splitting(rng=rng)
        self.engine = SimEngine(clock, kind, lambda: self.frozen_at is not None)
        self._clock = clock

    def report(self) -> Report:
        """The heartbeat of the agent, which also sees whether the engine is frozen."""
        frozen_s = self._clock.now - self.frozen_at if self.frozen_at is not None else 0.0
        endpoint = EngineEndpoint(
            kind=self.kind,
            url=f"http://{self.host}:8080",
            version=VERSIONS.get(self.kind, ""),
            slots=self.slots,
            abilities=engines()[self.kind].abilities,
            silent_s=frozen_s if frozen_s >= BEAT_S else 0.0,
        )
        models = [
            ModelInfo(
                name=model,
                engine=endpoint,
                size_bytes=1 * GB,
                digest=f"sha256:{model}",
                capabilities=frozenset(("completion",)),
                lacks=frozenset(("thinking",)),
                loaded=Loaded(1 * GB, 8192),
            )
            for model in MODELS
        ]
        return Report(
            node_id=NodeId(self.name),
            boot_id=f"{self.name}-{self.boot}",
            memory=Memory(total_bytes=32 * GB, used_bytes=4 * GB, available_bytes=28 * GB),
            models={canonical(model.name): model for model in models},
            engines=(endpoint,),
            draining=self.is_draining,
            paused=self.is_paused,
        )

    @property
    def beats(self) -> bool:
        return self.is_alive and self.is_there

    @property
    def accepts(self) -> bool:
        """Whether its system accepts a connection; a frozen engine's system does."""
        return self.is_alive and self.is_there and self.engine.behavior.behavior is not Behavior.REFUSES

    @property
    def answers_connects(self) -> bool:
        return self.is_there and self.engine.behavior.behavior is not Behavior.DROPS

    def change(self, what: str) -> None:
        if what == "dies" and self.is_alive and self.is_there:
            self.is_alive, self.frozen_at = False, None
            self.engine.stop(Peer.reset)
        elif what == "vanishes" and self.is_there:
            self.engine.stop(Peer.vanish)
            self.is_there = False
        elif what == "returns" and not (self.is_alive and self.is_there):
            self.return_with(Behavior.NORMAL)
        elif what == "freezes" and self.is_alive and self.frozen_at is None:
            self.frozen_at = self._clock.now
        elif what == "thaws":
            self.thaw()
        elif what == "drains":
            self.is_draining = True
        elif what == "pauses":
            self.is_paused = not self.is_paused
        elif what == "splits":
            self.splitting.share = 0.5

    def return_with(self, behavior: Behavior) -> None:
        """The machine starts again."""
        self.is_alive = self.is_there = True
        self.is_draining = self.is_paused = False
        self.boot += 1
        self.engine.behavior = replace(self.engine.behavior, behavior=behavior)

    def thaw(self) -> None:
        if self.frozen_at is not None:
            self.frozen_at = None
            self.engine.thaw()

    def behave(self, change: BehaviorChange) -> None:
        self.engine.behavior = change

    def heal(self) -> None:
        """No fault any more, except in answers that have begun."""
        self.thaw()
        if not self.beats:
            self.return_with(Behavior.NORMAL)
        self.engine.behavior = replace(self.engine.behavior, behavior=Behavior.NORMAL)
        self.heartbeats, self.is_draining, self.is_paused, self.splitting.share = "fine", False, False, 0.0
