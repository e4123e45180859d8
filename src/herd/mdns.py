"""How coordinator and agents find each other on a local network: mDNS, as a hint and nothing more. Decides no trust.

Nothing fails when multicast is impossible: advertising then does nothing, and browsing finds nothing.
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
"""Coordinators remembered while browsing; more are noise."""


@dataclass(frozen=True, slots=True)
class Found:
    """A coordinator that announced itself: where, and what it says of itself."""

    name: str
    url: str
    version: str = ""
    fleet_id: str = ""


class Advertisement:
    """An announcement that is out; `withdraw` says goodbye to the network."""

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
    """Announces a coordinator on this port; None, and a line in the log, when the network does not allow it.

    A name left behind by a crash is not in the way: the announcement then goes by a changed name. `fleet_id` hints at
    which of several coordinators this is; `interfaces` are addresses of this machine to speak on, all when empty.
    """
    try:
        zeroconf = _open(interfaces)
    except OSError as error:
        log.info("not announced on the network: %s", error)
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
        log.info("not announced on the network: %s", error)
        await zeroconf.async_close()
        return None
    return Advertisement(zeroconf, info)


@asynccontextmanager
async def browse(interfaces: Sequence[str] = ()) -> AsyncIterator[asyncio.Queue[Found]]:
    """Coordinators as they are found, while the context is open. Finds nothing where multicast is impossible."""
    found: asyncio.Queue[Found] = asyncio.Queue(FOUND_MAX)
    try:
        zeroconf = _open(interfaces)
    except OSError as error:
        log.info("the network cannot be searched: %s", error)
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


async def _resolve(zeroconf: Zeroconf, service_type: str, name: str, found: asyncio.Queue[Found]) -> None:
    info = AsyncServiceInfo(service_type, name)
    if not await info.async_request(zeroconf, RESOLVE_MS) or not info.port:
        return
    for one in found_in(info, name):
        if not found.full():
            found.put_nowait(one)


def found_in(info: AsyncServiceInfo, name: str) -> list[Found]:
    """Where an announcement says that a coordinator is; it may come from anybody, so it is a hint and no more."""
    told = info.decoded_properties or {}
    version, fleet_id = told.get("version") or "", told.get("fleet") or ""
    places = info.parsed_addresses(IPVersion.V4Only)
    return [
        Found(name.removesuffix("." + SERVICE), f"http://{address}:{info.port}", version, fleet_id)
        for address in places
    ]


def _open(interfaces: Sequence[str]) -> AsyncZeroconf:
    """Raises OSError where there is no network to speak on."""
    return AsyncZeroconf(interfaces=list(interfaces) or InterfaceChoice.All, ip_version=IPVersion.V4Only)


def addresses(host: str = "") -> list[str]:
    """This machine's IPv4 addresses on networks, loopback last; only `host` when it is one of them."""
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
