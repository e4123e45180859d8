"""Finds the engines of this machine and polls their models and slots for the heartbeat.

It never loads a model. A hung engine must not delay the heartbeat: each request has a short timeout, and the last
complete inventory is reported until the engine answers again or has missed too many polls. An engine that answers 401
is asked again with the key of the settings, and reported as unusable if that does not help.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from herd.agent import routers
from herd.agent.engine_list import EngineKeys, EngineKeySettings, InvalidEntry, ListedEngine, authorization, read_entry
from herd.agent.engine_search import UNAUTHORIZED, EngineSearch, Identified
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
REMEDY_MAX = 240
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
    engines: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={
            "env": "FLEET_NODE_ENGINES",
            "help": "The engines of this machine instead of detection, e.g. ollama=http://127.0.0.1:11434,"
            "ollama=http://127.0.0.1:11436,vllm=http://127.0.0.1:8000;key_file=/path.",
            "secret": True,
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
    key: str = field(default="", repr=False)
    """The API key that it requires; empty if it requires none."""
    instance: str = ""
    """Empty for the first engine of its kind; the port of a further one, which is a node of its own."""


@dataclass(frozen=True, slots=True)
class RefusedEngine:
    """An engine that answered 401 or 403, with the key of the settings or because they have none."""

    engine: Engine
    url: str
    status: int
    had_key: bool


class Engines:
    """The engines of this machine."""

    def __init__(
        self,
        known: Sequence[Engine],
        settings: EngineSettings,
        read_setup: Callable[[int, bool], OllamaSetup] = read_setup,
        keys: EngineKeySettings | None = None,
    ) -> None:
        self._known = {engine.kind: engine for engine in sorted(known, key=lambda engine: engine.is_generic)}
        self._settings = settings
        port = self._known[OLLAMA].default_port if OLLAMA in self._known else 0
        is_default = full_url(settings.ollama_host, port) == full_url("", port)
        self._ollama_host = "" if is_default else settings.ollama_host
        """Empty for the default, where Ollama is searched anyway: environment files of ollama-herd contain it."""
        self._listed, self._list_problem = _read_list(settings.engines)
        self._keys = EngineKeys(keys or EngineKeySettings(), self._listed)
        self._kinds = EngineSearch(known, self._keys, self._send)
        self._logged_key_problem = ""
        self._found: dict[str, LocalEngine] = {}
        self._refused: dict[str, RefusedEngine] = {}
        self._started_here: set[str] = set()
        self._polls = 0
        self._first_of_kind: dict[str, str] = {}
        """The URL of the first engine of each kind: it keeps that place when it stops and returns."""
        self._routers: dict[str, tuple[str, str]] = {}
        """URLs at which routers answer, with their names and the kind of engine that was searched; they were logged."""
        self._fronts: dict[str, str] = {}
        """URLs of proxies in front of an Ollama of this machine, with its URL."""
        self._read_setup = read_setup
        self._setups: dict[str, OllamaSetup] = {}
        """By the URL of the Ollama."""
        self._next_setup_poll = 0
        self._details = BoundedDict[tuple[str, str, str], EngineResponse](DETAILS_MAX)
        """The details of each model by engine, name and digest. They are requested once."""
        self.failures = 0
        """Missed polls since all engines last answered; part of the heartbeat."""

    @property
    def problem(self) -> str:
        """Why the settings are invalid; empty if they are valid."""
        if self._list_problem or self._keys.invalid:
            return self._list_problem or self._keys.invalid
        kinds = [self._settings.engine, *(one.kind for one in self._listed if one.kind)]
        unknown = next((kind for kind in kinds if kind not in (AUTO, EMBEDDED) and kind not in self._known), "")
        if not unknown:
            return ""
        return f"unknown engine {unknown!r}; valid are {', '.join([AUTO, EMBEDDED, *sorted(self._known)])}"

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
            await self._read_keys()
            await self._search()
        self._polls += 1
        polled = list(self._found.values())
        missed = sum(await asyncio.gather(*(self._poll(local) for local in polled)))
        self.failures = self.failures + missed if missed else 0
        for local in polled:
            if local.misses >= MISSES_MAX and local.url not in self._started_here:
                log.warning("engine removed: it does not answer", extra={"engine": local.engine.kind, "url": local.url})
                self._found.pop(local.url, None)
        self._leave_out_fronts()
        answering = [local for local in self._found.values() if local.last is not None]
        await self._update_setups([local for local in answering if local.engine.kind == OLLAMA])
        return answering

    @property
    def refused(self) -> list[EngineEndpoint]:
        """The engines that require a key that the settings do not have, and the routers that the settings name as
        engines, with what to do about it."""
        named = [self._router_endpoint(url, *found) for url, found in self._routers.items() if self._is_named(url)]
        return [*map(self._refused_endpoint, self._refused.values()), *named]

    def _router_endpoint(self, url: str, name: str, kind: str) -> EngineEndpoint:
        settings = self._settings
        setting = "FLEET_NODE_ENGINES" if self._listed else "FLEET_NODE_OLLAMA_HOST"
        if settings.engine_url and full_url(settings.engine_url, 0) == url:
            setting = "FLEET_NODE_ENGINE_URL"
        problem = f"{name} answers on {url[:REMEDY_MAX]}: it is a router and no engine"
        remedy = f"Set {setting} on this machine to the URL of the engine, or remove it, and restart herd-node."
        # A router on another machine is not an engine of this one, so its address is only in the text.
        return EngineEndpoint(kind, full_url("", urlsplit(url).port or 80), problem=problem, remedy=remedy)

    def _refused_endpoint(self, refused: RefusedEngine) -> EngineEndpoint:
        port = urlsplit(refused.url).port
        setting = self._keys.setting_of(refused.url)
        if refused.had_key:
            problem = (
                f"{refused.engine.title} on port {port} refuses the API key of the agent (status {refused.status})"
            )
            remedy = f"Correct {setting} on this machine, and restart herd-node if it is not in a file."
        else:
            problem = f"{refused.engine.title} on port {port} requires an API key (status {refused.status})"
            remedy = f"Set {setting} on this machine to the engine's key, and restart herd-node."
        return EngineEndpoint(
            refused.engine.kind, refused.url, problem=problem, remedy=self._keys.problem[:REMEDY_MAX] or remedy
        )

    def endpoint(self, local: LocalEngine, url: str) -> EngineEndpoint:
        """The engine with the URL at which the coordinator reaches it."""
        last = local.last or Inventory("", ())
        models_max = last.models_max
        if models_max is None and local.engine.kind == OLLAMA:
            models_max = self._setup_of(local).models_max
        return EngineEndpoint(
            local.engine.kind,
            url,
            last.version,
            self.slots(local),
            models_max,
            abilities=local.engine.abilities,
            silent_s=local.silence.silent_s(time.monotonic()),
            instance=local.instance,
            gpus=self._setup_of(local).gpus,
        )

    @property
    def store_environment(self) -> Mapping[str, str]:
        """The variables of Ollama's environment that determine its model folder."""
        return self._setups.get(self._first_of_kind.get(OLLAMA, ""), OllamaSetup()).store

    def _setup_of(self, local: LocalEngine) -> OllamaSetup:
        return self._setups.get(local.url, OllamaSetup())

    def slots(self, local: LocalEngine) -> int:
        """Concurrent requests of the engine: from the setting, the engine's answer, its environment, or the default."""
        if self._settings.slots:
            return self._settings.slots
        if local.last is not None and local.last.slots:
            return local.last.slots
        return self._setup_of(local).slots or local.engine.slots_default

    # --- search and polls ---

    def _candidates(self) -> list[tuple[Engine, str]]:
        """Where engines may be: the address from the settings, else the default port of every kind."""
        settings = self._settings
        if settings.engine == EMBEDDED:
            return []
        if self._listed:
            return [
                (engine, one.url)
                for one in self._listed
                for engine in ([self._known[one.kind]] if one.kind in self._known else self._known.values())
            ]
        if settings.engine in self._known:
            engine = self._known[settings.engine]
            configured = settings.engine_url or (settings.ollama_host if engine.kind == OLLAMA else "")
            return [(engine, full_url(configured or "127.0.0.1", engine.default_port))]
        if settings.engine_url:
            return [(engine, full_url(settings.engine_url, engine.default_port)) for engine in self._known.values()]
        found = []
        for engine in self._known.values():
            host = (self._ollama_host or os.environ.get("OLLAMA_HOST", "")) if engine.kind == OLLAMA else ""
            first = full_url(host or "127.0.0.1", engine.default_port)
            # An Ollama on another address of this machine also answers on 127.0.0.1, so its port is not tried twice.
            other_ports = [port for port in (engine.default_port, *engine.more_ports) if port != urlsplit(first).port]
            if engine.kind == OLLAMA and self._ollama_host:
                other_ports = []
            found += [(engine, url) for url in (first, *(f"http://127.0.0.1:{port}" for port in other_ports if port))]
        return found

    async def _search(self) -> None:
        self._fronts = {url: behind for url, behind in self._fronts.items() if behind in self._found}
        known = self._found.keys() | self._fronts.keys()
        candidates = [(engine, url) for engine, url in self._candidates() if url not in known]
        answers = await asyncio.gather(*(self._kinds.probe(engine, url) for engine, url in candidates))
        refused: dict[str, RefusedEngine] = {}
        certainties: dict[str, tuple[bool, bool]] = {}
        """How certain it is which kind of engine refuses the key: by its text, and by its port."""
        unknown: dict[str, list[int]] = {}
        """What answered without being recognized, with the statuses of its answers."""
        for (engine, url), (response, key) in zip(candidates, answers, strict=True):
            if url in self._found:
                continue
            found = Identified(engine, response, key)
            if not response.status:
                self._routers.pop(url, None)
            if response.status in UNAUTHORIZED:
                if self._is_engines_refusal(engine, url, response):
                    certainty = (engine.demands_key(response), engine.default_port == urlsplit(url).port)
                    # Among equals the last one counts: the general kind, whose name is right for every server.
                    if certainty >= certainties.get(url, certainty):
                        certainties[url] = certainty
                        refused[url] = RefusedEngine(engine, url, response.status, bool(key))
            elif self._is_configured(engine, url) and response.status:
                await self._admit(found, url, refused)
            elif engine.recognizes(response):
                await self._admit(await self._kinds.exact(found, url), url, refused)
            elif response.status:
                unknown.setdefault(url, []).append(response.status)
        strangers = {
            url: statuses
            for url, statuses in unknown.items()
            if not (url in self._found or url in refused or url in self._routers)
        }
        for url, found in (await self._kinds.strangers(strangers)).items():
            await self._admit(found, url, refused)
        self._note_refused({url: one for url, one in refused.items() if url not in self._found})

    async def _admit(self, found: Identified, url: str, refused: dict[str, RefusedEngine]) -> None:
        """Adds the engine, or the refusal of its key."""
        status, key = await self._kinds.key_of(found, url)
        if status:
            refused[url] = RefusedEngine(found.engine, url, status, bool(key))
        else:
            await self._add_unless_router(found.engine, url, found.response, key)

    async def _add_unless_router(self, engine: Engine, url: str, response: EngineResponse, key: str) -> None:
        name = routers.own_router(await self._send(url, routers.FLEET_PROBE, key))
        if not name and not self._is_named(url):
            name = routers.other_router(response)
            if not name and engine.is_imitated:
                name = routers.other_router(await self._send(url, routers.LIST, key))
        if name:
            self._note_router(url, name, engine.kind)
            return
        self._routers.pop(url, None)
        instance = self._instance(engine.kind, url)
        self._found[url] = LocalEngine(engine, url, key=key, instance=instance)
        log.info("engine found", extra={"engine": engine.kind, "url": url, "with_key": bool(key)})

    def _note_router(self, url: str, name: str, kind: str) -> None:
        if self._routers.get(url, ("", ""))[0] != name:
            log.log(
                logging.WARNING if self._is_named(url) else logging.INFO,
                "%s answers on this URL: it is a router and no engine, so it is not used; "
                "if an engine should be here, correct the agent's settings",
                name,
                extra={"url": url},
            )
        self._routers[url] = name, kind

    def _leave_out_fronts(self) -> None:
        """Removes a proxy in front of an Ollama that was found too; the Ollama takes its place as the first one."""
        listed = {
            local.url: local.last.models
            for local in self._found.values()
            if local.engine.kind == OLLAMA and local.last is not None and not self._is_named(local.url)
        }
        for url, behind in routers.fronts(listed).items() if len(listed) > 1 else ():
            self._note_router(url, routers.PROXY, OLLAMA)
            self._fronts[url] = behind
            removed = self._found.pop(url)
            if not removed.instance:
                self._first_of_kind[OLLAMA], self._found[behind].instance = behind, ""

    def _is_named(self, url: str) -> bool:
        """Whether the settings name this URL, so that it is not only a default port."""
        settings = self._settings
        hosts = [one for one in (settings.engine_url, self._ollama_host) if one]
        return any(one.url == url for one in self._listed) or any(full_url(host, 0) == url for host in hosts)

    def _instance(self, kind: str, url: str) -> str:
        """Empty for the first engine of this kind: the first of the list, or else the first that was found."""
        listed = next((one.url for one in self._listed if one.kind == kind), "")
        if self._first_of_kind.setdefault(kind, listed or url) == url:
            return ""
        parts = urlsplit(url)
        is_here = (parts.hostname or "").startswith("127.")
        return str(parts.port) if is_here else f"{parts.hostname}-{parts.port}"

    def _is_configured(self, engine: Engine, url: str) -> bool:
        """Whether the settings say that this kind of engine is at this URL."""
        return self._settings.engine != AUTO or any(one.kind == engine.kind and one.url == url for one in self._listed)

    def _is_engines_refusal(self, engine: Engine, url: str, response: EngineResponse) -> bool:
        """Whether a 401 or 403 comes from an engine. On a default port any other program may have sent it."""
        known = self._refused.get(url)
        return bool(
            engine.demands_key(response)
            or (known is not None and known.engine is engine)
            or self._is_configured(engine, url)
            or self._settings.engine_url
            or any(one.url == url for one in self._listed)
        )

    def _note_refused(self, refused: dict[str, RefusedEngine]) -> None:
        for url, one in refused.items():
            if self._refused.get(url) != one:
                endpoint = self._refused_endpoint(one)
                log.warning("%s. %s", endpoint.problem, endpoint.remedy, extra={"engine": one.engine.kind, "url": url})
        self._refused = refused

    async def _read_keys(self) -> None:
        """Reads the key files again, so that a changed key needs no restart."""
        if not self._keys.has_files:
            return
        await asyncio.to_thread(self._keys.read)
        if self._keys.problem != self._logged_key_problem:
            self._logged_key_problem = self._keys.problem
            if self._keys.problem:
                log.warning("%s", self._keys.problem)
        for local in self._found.values():
            if local.key:
                local.key = self._keys.key_of(local.url)

    async def _poll(self, local: LocalEngine) -> bool:
        """Updates one engine; returns whether it missed the poll."""
        if local.silence.silent_s(time.monotonic()) and local.last is not None:
            # It is frozen, not gone: it stays listed with its last inventory, and the heartbeat is not delayed.
            return True
        requests = local.engine.inventory_requests()
        responses = tuple(await asyncio.gather(*(self._send(local.url, request, local.key) for request in requests)))
        if any(response.status == 401 for response in responses) or responses[0].status in UNAUTHORIZED:
            # The key has changed, or has become necessary. The next heartbeat searches it again, with the key.
            self._refuse(local)
            return False
        is_complete = all(response.status for response in responses)
        if not is_complete and (local.last is not None or not any(response.status for response in responses)):
            # A partial answer would remove models that exist, so the last complete answer remains.
            local.misses += 1
            return True
        local.misses = 0
        local.last = await self._add_details(local, local.engine.inventory(responses))
        return False

    def _refuse(self, local: LocalEngine) -> None:
        self._found.pop(local.url, None)
        self._note_refused(
            {**self._refused, local.url: RefusedEngine(local.engine, local.url, UNAUTHORIZED[0], bool(local.key))}
        )
        self._polls = 0

    async def _add_details(self, local: LocalEngine, found: Inventory) -> Inventory:
        """Adds the engine's details about single models. It requests a few in each poll, to keep the poll short."""
        missing = [model for model in found.models if self._key(local, model) not in self._details][:DETAILS_PER_POLL]
        requests = [
            (model, request) for model in missing if (request := local.engine.details_request(model.name)) is not None
        ]
        responses = await asyncio.gather(*(self._send(local.url, request, local.key) for _, request in requests))
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

    async def _send(self, url: str, engine_request: EngineRequest, key: str = "") -> EngineResponse:
        response = await request(
            engine_request.method,
            url + engine_request.path,
            engine_request.body,
            self._settings.timeout_s,
            authorization(key),
        )
        return EngineResponse(response.status, response.body, response.headers)

    async def _update_setups(self, ollamas: list[LocalEngine]) -> None:
        is_new = any(local.url not in self._setups for local in ollamas)
        if ollamas and (is_new or self._polls >= self._next_setup_poll):
            self._next_setup_poll = self._polls + SETUP_EVERY
            ports = {local.url: (urlsplit(local.url).port or 80, not local.instance) for local in ollamas}
            self._setups = await asyncio.to_thread(self._read_setups, ports)

    def _read_setups(self, ports: Mapping[str, tuple[int, bool]]) -> dict[str, OllamaSetup]:
        return {url: self._read_setup(port, is_first) for url, (port, is_first) in ports.items()}


def _read_list(entries: Sequence[str]) -> tuple[tuple[ListedEngine, ...], str]:
    """The listed engines, and what is wrong with the list."""
    try:
        return tuple(map(read_entry, entries)), ""
    except InvalidEntry as error:
        return (), str(error)


def models_at(local: LocalEngine, endpoint: EngineEndpoint) -> list[ModelInfo]:
    """The engine's models with the endpoint at which the coordinator reaches them.

    A model whose name no client can send is left out: the coordinator would refuse the whole heartbeat.
    """
    listed = local.last.models if local.last is not None else ()
    return [dataclasses.replace(model, engine=endpoint) for model in listed if is_model_name(model.name)]
