"""Finds out which kind of engine answers at a URL, and with which key.

A port says little: several kinds of servers share one, and some imitate others (KoboldCpp, Lemonade and SGLang answer
Ollama's paths, TabbyAPI one of llama.cpp). So a server that an imitated or a general kind recognizes is asked by all
kinds what it is, and so is one that answers on a port of this machine without being recognized.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from herd.agent.engine_list import EngineKeys
from herd.engines import Engine, EngineRequest, EngineResponse

UNAUTHORIZED = (401, 403)

Send = Callable[[str, EngineRequest, str], Awaitable[EngineResponse]]
"""Sends a request to the engine at this URL with this key; the status is 0 if there is no answer."""


def asked_late(engine: Engine) -> tuple[bool, bool]:
    """Sorts engines: those that only their own servers answer first, those that recognize many kinds last."""
    return engine.is_generic, engine.is_imitated


@dataclass(frozen=True, slots=True)
class Identified:
    """A server of a known kind, its answer to the probe, and the key that it was sent."""

    engine: Engine
    response: EngineResponse
    key: str = field(default="", repr=False)


class EngineSearch:
    def __init__(self, known: Sequence[Engine], keys: EngineKeys, send: Send) -> None:
        self._known = sorted(known, key=asked_late)
        self._keys = keys
        self._send = send
        self._strangers: dict[str, tuple[int, ...]] = {}
        """Servers of no known kind, with the statuses of their answers: the same server is not asked again."""

    async def probe(self, engine: Engine, url: str) -> tuple[EngineResponse, str]:
        """The answer of whatever listens there, and the key that it was sent: only an engine that requires one."""
        return await self._ask(url, engine.probe())

    async def exact(self, found: Identified, url: str) -> Identified:
        """The same server as the kind that it is, where other kinds are recognized as this one too."""
        if not (found.engine.is_imitated or found.engine.is_generic):
            return found
        return await self.identify(url) or found

    async def identify(self, url: str) -> Identified | None:
        """The first of the kinds that recognizes the server."""
        exact = [engine for engine in self._known if not engine.is_generic]
        answers = await asyncio.gather(*(self.probe(engine, url) for engine in exact))
        for engine, (response, key) in zip(exact, answers, strict=True):
            if engine.recognizes(response):
                return Identified(engine, response, key)
        return None

    async def strangers(self, statuses: Mapping[str, Sequence[int]]) -> dict[str, Identified]:
        """The servers of known kinds among those that none of the expected kinds recognized."""
        new = {url: tuple(seen) for url, seen in statuses.items() if self._strangers.get(url) != tuple(seen)}
        found = await asyncio.gather(*map(self.identify, new))
        self._strangers = {url: tuple(seen) for url, seen in statuses.items()}
        return {url: one for url, one in zip(new, found, strict=True) if one is not None}

    async def key_of(self, found: Identified, url: str) -> tuple[int, str]:
        """The key that the server requires, after the status with which it refuses what it was sent; 0 if it does not.

        Some servers answer the probe without a key, and refuse inference only.
        """
        check = found.engine.key_check()
        if check is None:
            return 0, found.key
        response, key = await self._ask(url, check)
        if response.status in UNAUTHORIZED:
            return response.status, key
        return 0, key

    async def _ask(self, url: str, request: EngineRequest) -> tuple[EngineResponse, str]:
        key = self._keys.key_of(url)
        is_own = bool(key) and self._keys.is_own(url)
        response = await self._send(url, request, key if is_own else "")
        if key and not is_own and response.status in UNAUTHORIZED:
            return await self._send(url, request, key), key
        return response, key if is_own else ""
