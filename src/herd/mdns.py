"""Announces the coordinator with mDNS and finds announced coordinators on the local network.

An announcement is only a hint: pairing establishes trust. Without multicast, the coordinator is not announced and
browsing finds no coordinator; neither is an error.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger("herd.mdns")

SERVICE = "_fleet-manager._tcp.local."
RESOLVE_MS = 3000
FOUND_MAX = 32
"""Maximum number of coordinators that wait in the queue, and of announcements that are resolved at the same time."""


@dataclass(frozen=True, slots=True)
class FoundCoordinator:
    """A coordinator as its announcement describes it."""

    name: str
    url: str
    version: str = ""
    fleet_id: str = ""


class Advertisement:
    """An active announcement."""

    def __init__(self, zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> None:
        self._zeroconf = zeroconf
        self._info = info

    @property
    def name(self) -> str:
        return self._info.name

    async def withdraw(self) -> None:
        try:
            await self._zeroconf.async_unregister_service(self._info)
            await self._zeroconf.async_close()
        except (OSError, ZeroconfError, TimeoutError) as error:
            log.debug("the announcement could not be withdrawn: %s", error)


async def advertise(
    port: int, version: str, host: str = "", fleet_id: str = "", interfaces: Sequence[str] = ()
) -> Advertisement | None:
    """Announces a coordinator on this port. Logs the reason and returns None if the network does not allow it.

    If the name is taken, for example after a crash, another name is used. `fleet_id` helps agents to recognize their
    coordinator. `interfaces` are the addresses of this machine to announce on, all if empty.
    """
    try:
        zeroconf = _open(interfaces)
    except OSError as error:
        log.info("the coordinator cannot be announced with mDNS: %s", error)
        return None
    info = AsyncServiceInfo(
        SERVICE,
        f"herd on {_short_name()}.{SERVICE}",
        port=port,
        addresses=[socket.inet_aton(a) for a in addresses(host)],
        properties={"version": version, "api": "1", "port": str(port), "fleet": fleet_id},
        server=f"{_short_name()}-herd.local.",
    )
    try:
        await zeroconf.async_register_service(info, allow_name_change=True)
    except (OSError, ZeroconfError, TimeoutError) as error:
        log.info("the coordinator cannot be announced with mDNS: %s", error)
        await zeroconf.async_close()
        return None
    return Advertisement(zeroconf, info)


@asynccontextmanager
async def browse(interfaces: Sequence[str] = ()) -> AsyncIterator[asyncio.Queue[FoundCoordinator]]:
    """A queue of the coordinators that are found while the context is open."""
    found: asyncio.Queue[FoundCoordinator] = asyncio.Queue(FOUND_MAX)
    try:
        zeroconf = _open(interfaces)
    except OSError as error:
        log.info("coordinators cannot be searched for with mDNS: %s", error)
        yield found
        return
    resolving: set[asyncio.Task[None]] = set()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed or len(resolving) >= FOUND_MAX:
            return
        task = asyncio.get_running_loop().create_task(_resolve(zeroconf, service_type, name, found))
        resolving.add(task)
        task.add_done_callback(resolving.discard)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
    try:
        yield found
    finally:
        for task in list(resolving):
            task.cancel()
        await browser.async_cancel()
        await zeroconf.async_close()


async def _resolve(zeroconf: Zeroconf, service_type: str, name: str, found: asyncio.Queue[FoundCoordinator]) -> None:
    info = AsyncServiceInfo(service_type, name)
    if not await info.async_request(zeroconf, RESOLVE_MS) or not info.port:
        return
    for coordinator in coordinators_in(info, name):
        if not found.full():
            found.put_nowait(coordinator)


def coordinators_in(info: AsyncServiceInfo, name: str) -> list[FoundCoordinator]:
    """The coordinator once for each address of its announcement, which any machine on the network can send."""
    properties = info.decoded_properties or {}
    version, fleet_id = properties.get("version") or "", properties.get("fleet") or ""
    return [
        FoundCoordinator(name.removesuffix("." + SERVICE), f"http://{address}:{info.port}", version, fleet_id)
        for address in info.parsed_addresses(IPVersion.V4Only)
    ]


def _open(interfaces: Sequence[str]) -> AsyncZeroconf:
    """Raises `OSError` if no interface supports multicast."""
    return AsyncZeroconf(interfaces=list(interfaces) or InterfaceChoice.All, ip_version=IPVersion.V4Only)


def addresses(host: str = "") -> list[str]:
    """This machine's IPv4 addresses, loopback last; only `host` if it is one of them."""
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    if host in found:
        return [host]
    return sorted(found, key=lambda address: (address.startswith("127."), address)) or ["127.0.0.1"]


def _short_name() -> str:
    return socket.gethostname().split(".")[0] or "machine"
