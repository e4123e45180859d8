"""How the agent reaches its coordinator: finds it, reports to it, comes back after a break, says goodbye. Measures nothing.

It keeps to the coordinator it found; when that does not answer for a while it looks again, since machines change their
addresses. Between attempts it waits longer and longer, with some chance in it, so that a fleet does not knock in step.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

from herd import mdns
from herd.agent.http_client import Response, request

log = logging.getLogger("herd.agent.link")

COORDINATOR_PORT = 11435
BACKOFF_S = 1.0
BACKOFF_MAX_S = 30.0
MISSES_BEFORE_SEARCH = 3
SEARCH_S = 3.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    router_url: str = field(
        default="", metadata={"env": "FLEET_NODE_ROUTER_URL", "help": "The coordinator, e.g. http://192.168.1.10:11435; empty finds it by mDNS."}
    )
    heartbeat_interval_s: float = field(
        default=5.0, metadata={"env": "FLEET_NODE_HEARTBEAT_INTERVAL", "help": "Seconds between two heartbeats.", "min": 0.1, "max": 300.0}
    )
    timeout_s: float = field(
        default=4.0, metadata={"env": "FLEET_NODE_ROUTER_TIMEOUT", "help": "Seconds the coordinator may take to answer a heartbeat."}
    )


@dataclass(frozen=True, slots=True)
class Told:
    """What a heartbeat's answer said. `node_id` is the name the coordinator knows us by, `peer_ip` where it is."""

    is_heard: bool
    node_id: str = ""
    problem: str = ""


class Link:
    """`url` is the coordinator, or empty while none is known."""

    def __init__(self, settings: LinkSettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._misses = 0
        self._was_heard: bool | None = None
        self.url = _full(settings.router_url) if settings.router_url else ""

    @property
    def peer_host(self) -> str:
        return urlsplit(self.url).hostname or "" if self.url else ""

    def pause_s(self) -> float:
        """How long until the next heartbeat: the interval, or after misses a growing time with some chance in it."""
        if not self._misses:
            return self._settings.heartbeat_interval_s
        grown = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(self._misses - 1, 10))
        return min(grown, self._settings.heartbeat_interval_s) * (0.5 + self._rng.random())

    async def find(self) -> bool:
        """Looks for a coordinator where none is known, or the known one has been silent; whether one is known now."""
        if self.url and (self._settings.router_url or self._misses < MISSES_BEFORE_SEARCH):
            return True
        async with mdns.browse() as found:
            try:
                async with asyncio.timeout(SEARCH_S):
                    self._take(await self._first_that_answers(found))
            except TimeoutError:
                if not self.url:
                    self._take(await self._on_this_machine())
        if not self.url:
            self._say(False, "no coordinator found on the network; name one with: herd-node --router-url http://HOST:11435")
        return bool(self.url)

    async def report(self, heartbeat: bytes) -> Told:
        """Sends one heartbeat."""
        response = await request("POST", f"{self.url}/heartbeat", heartbeat, self._settings.timeout_s)
        if response.status == 200:
            self._misses = 0
            self._say(True, "")
            return Told(True, _node_id(response))
        self._misses += 1
        problem = response.problem or f"it answers {response.status}: {response.body[:200].decode('utf-8', 'replace')}"
        self._say(False, f"{self.url}: {problem}")
        return Told(False, problem=problem)

    async def goodbye(self, node_id: str, boot_id: str) -> None:
        if self.url:
            body = json.dumps({"node_id": node_id, "boot_id": boot_id}).encode()
            await request("POST", f"{self.url}/heartbeat/goodbye", body, self._settings.timeout_s)

    async def _first_that_answers(self, found: asyncio.Queue[mdns.Found]) -> str:
        while True:
            candidate = await found.get()
            if (await request("GET", f"{candidate.url}/health", timeout_s=1.0)).status == 200:
                return candidate.url

    async def _on_this_machine(self) -> str:
        """Multicast may be impossible here; a coordinator on the same machine needs none."""
        url = f"http://127.0.0.1:{COORDINATOR_PORT}"
        return url if (await request("GET", f"{url}/health", timeout_s=1.0)).status == 200 else ""

    def _take(self, url: str) -> None:
        if url and url != self.url:
            log.info("coordinator found", extra={"url": url})
            self.url, self._misses = url, 0

    def _say(self, is_heard: bool, problem: str) -> None:
        """One line for each change, not for each heartbeat."""
        if is_heard == self._was_heard:
            return
        self._was_heard = is_heard
        if is_heard:
            log.info("reporting to the coordinator", extra={"url": self.url})
        else:
            log.warning("the coordinator cannot be reached: %s", problem)


def _node_id(response: Response) -> str:
    try:
        return str(json.loads(response.body).get("node_id", ""))
    except (ValueError, AttributeError):
        return ""


def _full(url: str) -> str:
    """ "box", "box:11435" and "http://box:11435/" as a URL."""
    bare = url if "://" in url else f"http://{url}"
    parts = urlsplit(bare)
    return f"http://{parts.hostname}:{parts.port or COORDINATOR_PORT}"
