"""How the coordinator reaches each engine of this machine: directly where it can, else through a door of our own.

An engine is reached directly when it answers at the address that this machine has towards the coordinator, since that
is the only address the coordinator contacts. Everything else (loopback only, another machine) gets a relay.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from herd.addresses import host_and_port
from herd.agent.engine_forwarder import EngineForwarder, ForwarderSettings
from herd.agent.forwarder_certificate import TlsIdentity

log = logging.getLogger("herd.agent.forwarders")

PROBE_S = 1.0


class EngineForwarders:
    """The relays of this machine, one per engine that needs one."""

    def __init__(self, settings: ForwarderSettings, lock: Callable[[], TlsIdentity] | None = None) -> None:
        """`lock` is called once, where doors are to speak TLS. Raises what that raises."""
        self._settings = settings
        self._lock = lock() if settings.tls and lock is not None else None
        self._is_told = False
        self._relays: dict[str, tuple[EngineForwarder, int]] = {}

    async def urls(self, engines: Sequence[str], coordinator_url: str) -> dict[str, str]:
        """For each engine's url the one to announce; without an engine whose door cannot be opened."""
        self._close_unneeded(engines)
        if self._lock is not None and not self._lock.proof():
            if not self._is_told:
                log.warning(
                    "FLEET_NODE_TLS is set and this machine belongs to no fleet yet: its engines are not announced until it does"
                )
            self._is_told = True
            return {}
        if not coordinator_url:
            return {url: url for url in engines}
        host = urlsplit(coordinator_url).hostname or ""
        addresses = await _addresses_of(host)
        here = own_address_towards(addresses[0] if addresses else host)
        found = {url: await self._url(url, here, frozenset(addresses)) for url in engines}
        return {url: announced for url, announced in found.items() if announced}

    def close(self) -> None:
        for relay, _ in self._relays.values():
            relay.close()
        self._relays.clear()

    async def _url(self, engine_url: str, here: str, coordinator: frozenset[str]) -> str:
        port = urlsplit(engine_url).port or 80
        if self._lock is None and engine_url not in self._relays and await _answers(here, port, engine_url):
            return f"http://{host_and_port(here, port)}"
        known = self._relays.get(engine_url)
        if known is None:
            relay = EngineForwarder(engine_url, self._settings, self._lock)
            try:
                known = self._relays[engine_url] = (relay, await relay.listen())
            except OSError as error:
                log.warning("no door can be opened to the engine: %s", error, extra={"engine": engine_url})
                return ""
            log.info("door opened to the engine", extra={"engine": engine_url, "port": known[1]})
        known[0].allow(coordinator)
        place = host_and_port(here, known[1])
        return f"http://{place}" if self._lock is None else f"https://{place}#{self._lock.pin}"

    def _close_unneeded(self, engines: Sequence[str]) -> None:
        for url in [url for url in self._relays if url not in engines]:
            self._relays.pop(url)[0].close()


async def _answers(here: str, port: int, engine_url: str) -> bool:
    """Whether the engine listens at this address too."""
    if urlsplit(engine_url).hostname == here:
        return True
    if not is_this_machine(engine_url):
        return False
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(here, port)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def is_this_machine(url: str) -> bool:
    """Whether the engine was found on loopback."""
    host = urlsplit(url).hostname or ""
    return host.startswith("127.") or host in ("localhost", "::1")


async def _addresses_of(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(address[0]) for *_, address in found]


def own_address_towards(host: str) -> str:
    """This machine's address as that host sees it: what the system would send from. No packet leaves."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
