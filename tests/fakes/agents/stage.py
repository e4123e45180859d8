"""Runs agents on the scripted task, against an engine of each kind itself and through a coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from fakes.agents.install import Agents
from fakes.agents.outside import Outside
from fakes.agents.programs import Agent, Ask, Ended, Place
from fakes.fleet import Fleet, running_fleet
from fakes.scripted.engines import Answered
from fakes.scripted.process import EngineProcess
from fakes.scripted.server import MODEL
from fakes.scripted.task import Task

BEAT_EVERY_S = 3.0


@contextmanager
def beating(fleet: Fleet) -> Iterator[None]:
    """Sends heartbeats, because an agent may run longer than a node may be silent."""
    is_over = Event()

    def beat() -> None:
        while not is_over.wait(BEAT_EVERY_S):
            fleet.beat()

    thread = Thread(target=beat, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@dataclass(frozen=True)
class Played:
    """One run of an agent on the task."""

    ended: Ended
    task: Task
    requests: list[Answered]
    """What the engine was asked during the run."""
    reloads: int
    """How often the engine loaded its model again during the run."""
    outside: list[str]
    """Attempts to leave this machine."""


@dataclass
class Stage:
    """Engines of every kind, each alone and behind a coordinator of its own; started on first use."""

    agents: Agents
    folder: Path
    stack: ExitStack
    engines: dict[tuple[str, bool], EngineProcess] = field(default_factory=dict)
    fleets: dict[str, Fleet] = field(default_factory=dict)
    runs: int = 0

    def engine(self, kind: str, is_direct: bool) -> EngineProcess:
        key = (kind, is_direct)
        if key not in self.engines:
            # An agent's prompt does not fit into Ollama's default window: alone Ollama needs a setting, with herd not.
            made = EngineProcess(kind, 65_536) if is_direct else EngineProcess(kind)
            self.engines[key] = self.stack.enter_context(made)
        return self.engines[key]

    def fleet(self, kind: str) -> Fleet:
        if kind not in self.fleets:
            self.fleets[kind] = self.stack.enter_context(running_fleet({"alpha": self.engine(kind, False)}))
            self.stack.enter_context(beating(self.fleets[kind]))
        return self.fleets[kind]

    def direct(self, agent: Agent, kind: str) -> Played:
        engine = self.engine(kind, True)
        return self.play(agent, engine, engine.url)

    def through_herd(self, agent: Agent, kind: str) -> Played:
        return self.play(agent, self.engine(kind, False), self.fleet(kind).url)

    def play(self, agent: Agent, engine: EngineProcess, url: str) -> Played:
        self.runs += 1
        task = Task(self.folder / f"task {self.runs}")
        task.prepare()
        asked, loaded = len(engine.answered()), engine.reloads
        with Outside() as outside:
            place = Place(self.agents, self.folder / f"home-{self.runs}", outside)
            ended = agent(place, Ask(url, MODEL, task.prompt, task.folder))
            return Played(ended, task, engine.answered()[asked:], engine.reloads - loaded, outside.asked)
