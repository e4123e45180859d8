"""What the engines on this machine have: found by asking, never by loading. Knows no coordinator.

A hung engine must not hang a heartbeat: it is asked with a short limit, and until it answers again its last word stands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from herd.agent.http_client import request
from herd.core.fleet import EngineFace, ModelCard
from herd.engines import Call, Engine, Inventory, Reply

log = logging.getLogger("herd.agent.inventory")

MISSES_MAX = 3
"""After so many missed answers in a row an engine is gone."""
SEARCH_EVERY = 6
"""Heartbeats between two looks for engines that were not there before."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    engine: str = field(
        default="auto",
        metadata={"env": "FLEET_NODE_ENGINE", "help": "Engine to report: auto finds them, or a kind (ollama, openai, llamacpp, vllm, lmstudio, embedded)."},
    )  # fmt: skip
    engine_url: str = field(
        default="", metadata={"env": "FLEET_NODE_ENGINE_URL", "help": "Where that engine answers, e.g. http://127.0.0.1:8000."}
    )
    ollama_host: str = field(
        default="", metadata={"env": "FLEET_NODE_OLLAMA_HOST", "help": "Where Ollama answers, if not on port 11434 of this machine."}
    )
    slots: int = field(
        default=0,
        metadata={"env": "FLEET_NODE_SLOTS", "help": "Requests the engine runs at the same time per model; 0 asks it.", "min": 0, "max": 4096},
    )  # fmt: skip
    timeout_s: float = field(
        default=2.0, metadata={"env": "FLEET_NODE_ENGINE_TIMEOUT", "help": "Seconds an engine may take to say what it has."}
    )


@dataclass(slots=True)
class Local:
    """One engine found here: where it really listens, and its last word."""

    engine: Engine
    url: str
    last: Inventory | None = None
    misses: int = 0


class Engines:
    """The engines of this machine, as far as they answer."""

    def __init__(self, known: Sequence[Engine], settings: EngineSettings) -> None:
        self._known = {engine.kind: engine for engine in known}
        self._settings = settings
        self._found: dict[str, Local] = {}
        self._rounds = 0
        self.failures = 0
        """Answers missed in all; goes into the heartbeat."""

    def point_at(self, kind: str, url: str) -> None:
        """An engine that is known to be there, found or not."""
        self._found[url] = Local(self._known[kind], url)

    def forget(self, url: str) -> None:
        self._found.pop(url, None)

    async def look(self) -> list[Local]:
        """Asks every engine anew; those that answered at least once and not long ago."""
        if self._rounds % SEARCH_EVERY == 0:
            await self._search()
        self._rounds += 1
        await asyncio.gather(*(self._ask(local) for local in self._found.values()))
        for url in [url for url, local in self._found.items() if self._is_gone(local)]:
            log.info("engine gone", extra={"url": url})
            del self._found[url]
        return [local for local in self._found.values() if local.last is not None]

    def _is_gone(self, local: Local) -> bool:
        return local.misses >= MISSES_MAX and local.url not in self._pointed_at

    @property
    def _pointed_at(self) -> set[str]:
        return {url for _, url in self._places()}

    def _places(self) -> list[tuple[Engine, str]]:
        """Where to look: what the settings name, else the usual port of every kind."""
        settings = self._settings
        if settings.engine == "embedded":
            return []
        if settings.engine != "auto" and settings.engine in self._known:
            engine = self._known[settings.engine]
            return [(engine, _url(settings.engine_url or f"127.0.0.1:{engine.default_port}"))]
        ollama = settings.ollama_host or os.environ.get("OLLAMA_HOST", "")
        usual = [(e, _url(f"127.0.0.1:{e.default_port}")) for e in self._known.values() if e.default_port]
        if not ollama or "ollama" not in self._known:
            return usual
        named = (self._known["ollama"], _url(ollama, self._known["ollama"].default_port))
        return [named, *((engine, url) for engine, url in usual if engine.kind != "ollama")]

    async def _search(self) -> None:
        places = [(engine, url) for engine, url in self._places() if url not in self._found]
        replies = await asyncio.gather(*(self._call(url, engine.probe()) for engine, url in places))
        named = self._settings.engine != "auto"
        for (engine, url), reply in zip(places, replies, strict=True):
            if (named and reply.status) or (url not in self._found and engine.recognises(reply)):
                self._found[url] = Local(engine, url)
                log.info("engine found", extra={"engine": engine.kind, "url": url})

    async def _ask(self, local: Local) -> None:
        calls = local.engine.inventory_calls()
        replies = tuple(await asyncio.gather(*(self._call(local.url, call) for call in calls)))
        if not any(reply.status for reply in replies):
            local.misses += 1
            self.failures += 1
            return
        local.misses = 0
        local.last = local.engine.inventory(replies)

    async def _call(self, url: str, call: Call) -> Reply:
        response = await request(call.method, url + call.path, call.body, self._settings.timeout_s)
        return Reply(response.status, response.body)

    def slots(self, local: Local) -> int:
        """How many requests it really runs at a time: the setting, else its own word, else what its environment says."""
        if self._settings.slots:
            return self._settings.slots
        if local.last is not None and local.last.slots:
            return local.last.slots
        told = os.environ.get("OLLAMA_NUM_PARALLEL", "") if local.engine.kind == "ollama" else ""
        return int(told) if told.isdigit() and int(told) > 0 else local.engine.slots_default


def cards_of(local: Local, face: EngineFace) -> list[ModelCard]:
    """Its models, under the address by which others reach it."""
    return [dataclasses.replace(card, engine=face) for card in local.last.cards] if local.last is not None else []


def _url(host: str, default_port: int = 80) -> str:
    """ "0.0.0.0:11434", "http://box:11434/" and "box" as http://host:port; the any-address means this machine."""
    bare = host.removeprefix("http://").rstrip("/")
    name, _, port = bare.rpartition(":") if ":" in bare else (bare, "", "")
    name = "127.0.0.1" if name in ("", "0.0.0.0", "localhost") else name
    return f"http://{name}:{port or default_port}"
