"""Finds the engines of this machine and polls their models and slots for the heartbeat.

It never loads a model. A hung engine must not delay the heartbeat: each request has a short timeout, and the last
complete inventory is reported until the engine answers again or has missed too many polls.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from herd.agent.engine_silence import EngineSilence
from herd.agent.ollama_environment import OllamaSetup, read_setup
from herd.bounded import BoundedDict
from herd.core.state.fleet import EngineEndpoint, ModelInfo
from herd.core.state.model_names import is_model_name
from herd.engines import Engine, EngineRequest, EngineResponse, Inventory
from herd.http1.client import full_url, request

log = logging.getLogger("herd.agent.inventory")

MISSES_MAX = 3
"""Consecutive missed polls after which an engine is removed."""
SEARCH_EVERY = 6
"""Heartbeats between two searches for new engines. While there is no engine, every heartbeat searches."""
SETUP_EVERY = 12
"""Heartbeats between two reads of Ollama's environment."""
DETAILS_PER_POLL = 8
"""Maximum number of models whose details are requested in one poll."""
DETAILS_MAX = 1024
"""Maximum number of models whose details are cached; the oldest is requested again when needed."""
OLLAMA = "ollama"
EMBEDDED = "embedded"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    engine: str = field(
        default=AUTO,
        metadata={
            "env": "FLEET_NODE_ENGINE",
            "help": "Engine to report: auto detects engines; or one kind of docs/engines.md, or embedded.",
        },
    )
    engine_url: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_ENGINE_URL",
            "help": "URL of the engine in FLEET_NODE_ENGINE, e.g. http://127.0.0.1:8000.",
        },
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
    """One engine with the address on which it listens and its last complete inventory."""

    engine: Engine
    url: str
    last: Inventory | None = None
    misses: int = 0
    silence: EngineSilence = field(default_factory=EngineSilence)


class Engines:
    """The engines of this machine."""

    def __init__(
        self, known: Sequence[Engine], settings: EngineSettings, read_setup: Callable[[], OllamaSetup] = read_setup
    ) -> None:
        self._known = {engine.kind: engine for engine in sorted(known, key=lambda engine: engine.is_generic)}
        self._settings = settings
        self._found: dict[str, LocalEngine] = {}
        self._started_here: set[str] = set()
        self._polls = 0
        self._read_setup = read_setup
        self._setup = OllamaSetup()
        self._next_setup_poll = 0
        self._details = BoundedDict[tuple[str, str, str], EngineResponse](DETAILS_MAX)
        """The details of each model by engine, name and digest. They are requested once."""
        self.failures = 0
        """Missed polls since all engines last answered; part of the heartbeat."""

    @property
    def problem(self) -> str:
        """Why the settings are invalid; empty if they are valid."""
        kind = self._settings.engine
        if kind in (AUTO, EMBEDDED) or kind in self._known:
            return ""
        return f"unknown engine {kind!r}; valid are {', '.join([AUTO, EMBEDDED, *sorted(self._known)])}"

    def add(self, kind: str, url: str) -> None:
        """Adds an engine that the agent started itself. It is not probed and is never removed by missed polls."""
        self._started_here.add(url)
        self._found[url] = LocalEngine(self._known[kind], url)

    def remove(self, url: str) -> None:
        self._started_here.discard(url)
        self._found.pop(url, None)

    @property
    def found(self) -> list[LocalEngine]:
        return list(self._found.values())

    async def poll(self) -> list[LocalEngine]:
        """Polls every engine; returns those that have reported an inventory."""
        if not self._found or self._polls % SEARCH_EVERY == 0:
            await self._search()
        self._polls += 1
        polled = list(self._found.values())
        missed = sum(await asyncio.gather(*(self._poll(local) for local in polled)))
        self.failures = self.failures + missed if missed else 0
        for local in polled:
            if local.misses >= MISSES_MAX and local.url not in self._started_here:
                log.warning("engine removed: it does not answer", extra={"engine": local.engine.kind, "url": local.url})
                self._found.pop(local.url, None)
        answering = [local for local in self._found.values() if local.last is not None]
        if any(local.engine.kind == OLLAMA for local in answering):
            await self._update_setup()
        return answering

    def endpoint(self, local: LocalEngine, url: str) -> EngineEndpoint:
        """The engine with the URL at which the coordinator reaches it."""
        last = local.last or Inventory("", ())
        models_max = last.models_max
        if models_max is None and local.engine.kind == OLLAMA:
            models_max = self._setup.models_max
        return EngineEndpoint(
            local.engine.kind,
            url,
            last.version,
            self.slots(local),
            models_max,
            abilities=local.engine.abilities,
            silent_s=local.silence.silent_s(time.monotonic()),
        )

    @property
    def store_environment(self) -> Mapping[str, str]:
        """The variables of Ollama's environment that determine its model folder."""
        return self._setup.store

    def slots(self, local: LocalEngine) -> int:
        """Concurrent requests of the engine: from the setting, the engine's answer, its environment, or the default."""
        if self._settings.slots:
            return self._settings.slots
        if local.last is not None and local.last.slots:
            return local.last.slots
        configured = self._setup.slots if local.engine.kind == OLLAMA else None
        return configured or local.engine.slots_default

    # --- search and polls ---

    def _candidates(self) -> list[tuple[Engine, str]]:
        """Where engines may be: the address from the settings, else the default port of every kind."""
        settings = self._settings
        if settings.engine == EMBEDDED:
            return []
        if settings.engine in self._known:
            engine = self._known[settings.engine]
            configured = settings.engine_url or (settings.ollama_host if engine.kind == OLLAMA else "")
            return [(engine, full_url(configured or "127.0.0.1", engine.default_port))]
        if settings.engine_url:
            return [(engine, full_url(settings.engine_url, engine.default_port)) for engine in self._known.values()]
        ollama = settings.ollama_host or os.environ.get("OLLAMA_HOST", "")
        return [
            (engine, full_url((ollama if engine.kind == OLLAMA else "") or "127.0.0.1", engine.default_port))
            for engine in self._known.values()
            if engine.default_port
        ]

    async def _search(self) -> None:
        candidates = [(engine, url) for engine, url in self._candidates() if url not in self._found]
        responses = await asyncio.gather(*(self._send(url, engine.probe()) for engine, url in candidates))
        is_configured = self._settings.engine != AUTO
        for (engine, url), response in zip(candidates, responses, strict=True):
            if url not in self._found and (engine.recognizes(response) or (is_configured and response.status)):
                self._found[url] = LocalEngine(engine, url)
                log.info("engine found", extra={"engine": engine.kind, "url": url})

    async def _poll(self, local: LocalEngine) -> bool:
        """Updates one engine; returns whether it missed the poll."""
        if local.silence.silent_s(time.monotonic()) and local.last is not None:
            # It is frozen, not gone: it stays listed with its last inventory, and the heartbeat is not delayed.
            return True
        requests = local.engine.inventory_requests()
        responses = tuple(await asyncio.gather(*(self._send(local.url, request) for request in requests)))
        is_complete = all(response.status for response in responses)
        if not is_complete and (local.last is not None or not any(response.status for response in responses)):
            # A partial answer would remove models that exist, so the last complete answer remains.
            local.misses += 1
            return True
        local.misses = 0
        local.last = await self._add_details(local, local.engine.inventory(responses))
        return False

    async def _add_details(self, local: LocalEngine, found: Inventory) -> Inventory:
        """Adds the engine's details about single models. It requests a few in each poll, to keep the poll short."""
        missing = [model for model in found.models if self._key(local, model) not in self._details][:DETAILS_PER_POLL]
        requests = [
            (model, request) for model in missing if (request := local.engine.details_request(model.name)) is not None
        ]
        responses = await asyncio.gather(*(self._send(local.url, request) for _, request in requests))
        for (model, _), response in zip(requests, responses, strict=True):
            if response.status:
                self._details[self._key(local, model)] = response
        return dataclasses.replace(found, models=tuple(self._with_details(local, model) for model in found.models))

    def _with_details(self, local: LocalEngine, model: ModelInfo) -> ModelInfo:
        details = self._details.get(self._key(local, model))
        return local.engine.with_details(model, details) if details is not None else model

    @staticmethod
    def _key(local: LocalEngine, model: ModelInfo) -> tuple[str, str, str]:
        return local.url, model.name, model.digest

    async def _send(self, url: str, engine_request: EngineRequest) -> EngineResponse:
        response = await request(
            engine_request.method, url + engine_request.path, engine_request.body, self._settings.timeout_s
        )
        return EngineResponse(response.status, response.body)

    async def _update_setup(self) -> None:
        if self._polls >= self._next_setup_poll:
            self._next_setup_poll = self._polls + SETUP_EVERY
            self._setup = await asyncio.to_thread(self._read_setup)


def models_at(local: LocalEngine, endpoint: EngineEndpoint) -> list[ModelInfo]:
    """The engine's models with the endpoint at which the coordinator reaches them.

    A model whose name no client can send is left out: the coordinator would refuse the whole heartbeat.
    """
    listed = local.last.models if local.last is not None else ()
    return [dataclasses.replace(model, engine=endpoint) for model in listed if is_model_name(model.name)]
