"""What the engines on this machine have: found by asking, never by loading. Knows no coordinator.

A hung engine must not hang a heartbeat: it is asked with a short limit, and until it answers again, or is given up, its
last word stands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from herd.agent.http_client import full_url, request
from herd.agent.ollama_environment import OllamaSetup, read_setup
from herd.core.state.fleet import EngineEndpoint, ModelInfo
from herd.engines import Call, Engine, Inventory, Reply

log = logging.getLogger("herd.agent.inventory")

MISSES_MAX = 3
"""After so many missed answers in a row an engine is gone."""
SEARCH_EVERY = 6
"""Heartbeats between two looks for engines that were not there before, while there is one; without one every heartbeat looks."""
SETUP_EVERY = 12
"""Heartbeats between two looks at how Ollama was started."""
DETAILS_A_ROUND = 8
"""Models an engine is asked about one by one in one heartbeat."""
DETAILS_MAX = 1024
"""Models whose details are kept; the oldest is asked about again when it is met again."""
OLLAMA = "ollama"
EMBEDDED = "embedded"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    engine: str = field(
        default=AUTO,
        metadata={
            "env": "FLEET_NODE_ENGINE",
            "help": "Engine to report: auto detects engines, or ollama, openai, llamacpp, vllm, lmstudio, embedded.",
        },
    )
    engine_url: str = field(
        default="", metadata={"env": "FLEET_NODE_ENGINE_URL", "help": "URL of that engine, e.g. http://127.0.0.1:8000."}
    )
    ollama_host: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_OLLAMA_HOST",
            "help": "Address of Ollama, if it is not on port 11434 of this machine.",
        },
    )
    slots: int = field(
        default=0,
        metadata={
            "env": "FLEET_NODE_SLOTS",
            "help": "Number of requests that the engine runs at the same time for each model; 0 asks the engine.",
            "min": 0,
            "max": 4096,
        },
    )
    timeout_s: float = field(
        default=2.0,
        metadata={
            "env": "FLEET_NODE_ENGINE_TIMEOUT",
            "help": "Timeout in seconds for the engine's list of models.",
            "min": 0.01,
            "max": 60.0,
        },
    )


@dataclass(slots=True)
class LocalEngine:
    """One engine found here: where it really listens, and its last word."""

    engine: Engine
    url: str
    last: Inventory | None = None
    misses: int = 0


class Engines:
    """The engines of this machine, as far as they answer."""

    def __init__(
        self, known: Sequence[Engine], settings: EngineSettings, read_setup: Callable[[], OllamaSetup] = read_setup
    ) -> None:
        self._known = {engine.kind: engine for engine in known}
        self._settings = settings
        self._found: dict[str, LocalEngine] = {}
        self._pointed_at: set[str] = set()
        self._rounds = 0
        self._read_setup = read_setup
        self._setup = OllamaSetup()
        self._setup_at = 0
        self._details: OrderedDict[tuple[str, str, str], Reply] = OrderedDict()
        """What was said of each model, by engine, name and digest: asked once."""
        self.failures = 0
        """Answers missed since all engines last answered; goes into the heartbeat."""

    @property
    def problem(self) -> str:
        """What is wrong with the settings, or nothing."""
        wanted = self._settings.engine
        if wanted in (AUTO, EMBEDDED) or wanted in self._known:
            return ""
        return f"there is no engine '{wanted}'; known are {', '.join([AUTO, EMBEDDED, *sorted(self._known)])}"

    def point_at(self, kind: str, url: str) -> None:
        """An engine that we started ourselves, so that it need not be recognised."""
        self._pointed_at.add(url)
        self._found[url] = LocalEngine(self._known[kind], url)

    def forget(self, url: str) -> None:
        self._pointed_at.discard(url)
        self._found.pop(url, None)

    async def look(self) -> list[LocalEngine]:
        """Asks every engine anew; those that answered at least once and not long ago."""
        if not self._found or self._rounds % SEARCH_EVERY == 0:
            await self._search()
        self._rounds += 1
        asked = list(self._found.values())
        missed = sum(await asyncio.gather(*(self._ask(local) for local in asked)))
        self.failures = self.failures + missed if missed else 0
        for local in asked:
            if local.misses >= MISSES_MAX and local.url not in self._pointed_at:
                log.warning("engine gone", extra={"engine": local.engine.kind, "url": local.url})
                self._found.pop(local.url, None)
        answering = [local for local in self._found.values() if local.last is not None]
        if any(local.engine.kind == OLLAMA for local in answering):
            await self._look_at_setup()
        return answering

    def endpoint(self, local: LocalEngine, url: str) -> EngineEndpoint:
        """The engine as the coordinator reaches it, at this url."""
        last = local.last or Inventory("", ())
        models_max = last.models_max
        if models_max is None and local.engine.kind == OLLAMA:
            models_max = self._setup.models_max
        return EngineEndpoint(
            local.engine.kind, url, last.version, self.slots(local), models_max, abilities=local.engine.abilities
        )

    @property
    def store(self) -> Mapping[str, str]:
        """What the environment of this machine's Ollama says of where its models are."""
        return self._setup.store

    def slots(self, local: LocalEngine) -> int:
        """How many requests it really runs at a time: the setting, else its own word, else how it was started."""
        if self._settings.slots:
            return self._settings.slots
        if local.last is not None and local.last.slots:
            return local.last.slots
        told = self._setup.slots if local.engine.kind == OLLAMA else None
        return told or local.engine.slots_default

    # --- looking ---

    def _places(self) -> list[tuple[Engine, str]]:
        """Where to look: what the settings name, else the usual port of every kind."""
        settings = self._settings
        if settings.engine == EMBEDDED:
            return []
        if settings.engine in self._known:
            engine = self._known[settings.engine]
            named = settings.engine_url or (settings.ollama_host if engine.kind == OLLAMA else "")
            return [(engine, full_url(named or "127.0.0.1", engine.default_port))]
        if settings.engine_url:
            return [(engine, full_url(settings.engine_url, engine.default_port)) for engine in self._known.values()]
        ollama = settings.ollama_host or os.environ.get("OLLAMA_HOST", "")
        return [
            (engine, full_url((ollama if engine.kind == OLLAMA else "") or "127.0.0.1", engine.default_port))
            for engine in self._known.values()
            if engine.default_port
        ]

    async def _search(self) -> None:
        places = [(engine, url) for engine, url in self._places() if url not in self._found]
        replies = await asyncio.gather(*(self._call(url, engine.probe()) for engine, url in places))
        is_named = self._settings.engine != AUTO
        for (engine, url), reply in zip(places, replies, strict=True):
            if url not in self._found and (engine.recognises(reply) or (is_named and reply.status)):
                self._found[url] = LocalEngine(engine, url)
                log.info("engine found", extra={"engine": engine.kind, "url": url})

    async def _ask(self, local: LocalEngine) -> bool:
        """Takes stock of one engine; whether it failed to answer."""
        calls = local.engine.inventory_calls()
        replies = tuple(await asyncio.gather(*(self._call(local.url, call) for call in calls)))
        is_whole = all(reply.status for reply in replies)
        if not is_whole and (local.last is not None or not any(reply.status for reply in replies)):
            # Half an answer would let models vanish that are there: the last whole word stands.
            local.misses += 1
            return True
        local.misses = 0
        local.last = await self._detailed(local, local.engine.inventory(replies))
        return False

    async def _detailed(self, local: LocalEngine, found: Inventory) -> Inventory:
        """With what an engine says of single models: a few new ones in each round, so that no round takes long."""
        unknown = [card for card in found.models if self._key(local, card) not in self._details][:DETAILS_A_ROUND]
        asked = [(card, call) for card in unknown if (call := local.engine.details_call(card.name)) is not None]
        replies = await asyncio.gather(*(self._call(local.url, call) for _, call in asked))
        for (card, _), reply in zip(asked, replies, strict=True):
            if reply.status:
                self._details[self._key(local, card)] = reply
        while len(self._details) > DETAILS_MAX:
            self._details.popitem(last=False)
        return dataclasses.replace(found, models=tuple(self._told(local, card) for card in found.models))

    def _told(self, local: LocalEngine, card: ModelInfo) -> ModelInfo:
        details = self._details.get(self._key(local, card))
        return local.engine.with_details(card, details) if details is not None else card

    @staticmethod
    def _key(local: LocalEngine, card: ModelInfo) -> tuple[str, str, str]:
        return local.url, card.name, card.digest

    async def _call(self, url: str, call: Call) -> Reply:
        response = await request(call.method, url + call.path, call.body, self._settings.timeout_s)
        return Reply(response.status, response.body)

    async def _look_at_setup(self) -> None:
        if self._rounds >= self._setup_at:
            self._setup_at = self._rounds + SETUP_EVERY
            self._setup = await asyncio.to_thread(self._read_setup)


def cards_of(local: LocalEngine, endpoint: EngineEndpoint) -> list[ModelInfo]:
    """Its models, under the address by which others reach it."""
    return [dataclasses.replace(card, engine=endpoint) for card in local.last.models] if local.last is not None else []
