"""Decides for each engine whether the coordinator reaches it directly or through a forwarder.

The coordinator connects only to the address that this machine has towards it. An engine that listens on that address is
reached directly; every other engine (loopback only, on another machine, or with an API key) gets a forwarder.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from herd.addresses import host_and_port
from herd.agent.engine_forwarder import EngineForwarder, ForwarderSettings
from herd.agent.forwarder_certificate import TlsIdentity

log = logging.getLogger("herd.agent.forwarders")

PROBE_S = 1.0
NO_KEYS: Mapping[str, str] = MappingProxyType({})


class EngineForwarders:
    """The forwarders of this machine, one for each engine that needs one."""

    def __init__(self, settings: ForwarderSettings, create_identity: Callable[[], TlsIdentity] | None = None) -> None:
        """`create_identity` is called once if forwarders use TLS; its exceptions are raised."""
        self._settings = settings
        self._identity = create_identity() if settings.tls and create_identity is not None else None
        self._is_warned = False
        self._forwarders: dict[str, tuple[EngineForwarder, int]] = {}

    async def urls(
        self, engines: Sequence[str], coordinator_url: str, keys: Mapping[str, str] = NO_KEYS
    ) -> dict[str, str]:
        """The URL to announce for each engine's URL. An engine whose forwarder cannot listen is left out.

        `keys` has the API keys of the engines that require one, by URL.
        """
        self._close_unneeded(engines)
        if self._identity is not None and not self._identity.proof():
            if not self._is_warned:
                log.warning(
                    "FLEET_NODE_TLS is set and this machine is not paired: its engines are not announced"
                    " until it is paired; on the coordinator run: herd nodes invite"
                )
            self._is_warned = True
            return {}
        if not coordinator_url:
            return {url: url for url in engines}
        host = urlsplit(coordinator_url).hostname or ""
        addresses = await _addresses_of(host)
        here = own_address_towards(addresses[0] if addresses else host)
        found = {url: await self._url(url, here, frozenset(addresses), keys.get(url, "")) for url in engines}
        return {url: announced for url, announced in found.items() if announced}

    def close(self) -> None:
        for forwarder, _ in self._forwarders.values():
            forwarder.close()
        self._forwarders.clear()

    async def _url(self, engine_url: str, here: str, coordinator: frozenset[str], key: str) -> str:
        port = urlsplit(engine_url).port or 80
        needs_forwarder = key or self._identity is not None or engine_url in self._forwarders
        if not needs_forwarder and await _answers(here, port, engine_url):
            return f"http://{host_and_port(here, port)}"
        known = self._forwarders.get(engine_url)
        if known is None:
            forwarder = EngineForwarder(engine_url, self._settings, self._identity)
            try:
                known = self._forwarders[engine_url] = (forwarder, await forwarder.listen())
            except OSError as error:
                log.warning("the forwarder to the engine cannot listen: %s", error, extra={"engine": engine_url})
                return ""
            log.info("forwarder to the engine started", extra={"engine": engine_url, "port": known[1]})
        known[0].use_key(key)
        known[0].allow(coordinator)
        address = host_and_port(here, known[1])
        return f"http://{address}" if self._identity is None else f"https://{address}#{self._identity.pin}"

    def _close_unneeded(self, engines: Sequence[str]) -> None:
        for url in [url for url in self._forwarders if url not in engines]:
            self._forwarders.pop(url)[0].close()


async def _answers(here: str, port: int, engine_url: str) -> bool:
    """Whether the engine listens on this address."""
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
    """Whether the URL has a loopback address."""
    host = urlsplit(url).hostname or ""
    return host.startswith("127.") or host in ("localhost", "::1")


async def _addresses_of(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(address[0]) for *_, address in found]


def own_address_towards(host: str) -> str:
    """The source address that the system would use towards this host. No packet is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
