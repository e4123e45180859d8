"""How the agent reaches its coordinator: finds it, joins it, reports to it, comes back after a break, says goodbye. Measures nothing.

It keeps to the coordinator it found; when that does not answer for a while it looks again, since machines change their
addresses. Between attempts it waits longer and longer, with some chance in it, so that a fleet does not knock in step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

import msgspec
import psutil

from herd import mdns
from herd.agent.http_client import Response, full_url, request
from herd.agent.node_identity import NodeIdentity
from herd.agent_protocol import join
from herd.agent_protocol.join import Denied, JoinAnswer

log = logging.getLogger("herd.agent.coordinator_link")

COORDINATOR_PORT = 11435
BACKOFF_S = 1.0
MISSES_BEFORE_SEARCH = 3
SEARCH_S = 3.0
ADDRESSES_MAX = 32
PEERS_MAX = 1024
_IP = (socket.AF_INET, socket.AF_INET6)
GOODBYE_S = 1.0
"""A coordinator that does not take a goodbye in this time notices the silence instead."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    router_url: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_ROUTER_URL",
            "help": "URL of the coordinator, e.g. http://192.168.1.10:11435; empty finds it by mDNS.",
        },
    )
    heartbeat_interval_s: float = field(
        default=5.0,
        metadata={
            "env": "FLEET_NODE_HEARTBEAT_INTERVAL",
            "help": "Seconds between heartbeats.",
            "min": 0.1,
            "max": 300.0,
        },
    )
    timeout_s: float = field(
        default=4.0,
        metadata={
            "env": "FLEET_NODE_ROUTER_TIMEOUT",
            "help": "Timeout in seconds for the coordinator's reply to a heartbeat.",
            "min": 0.01,
            "max": 60.0,
        },
    )


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a heartbeat's answer said. `node_id` is the name the coordinator knows us by, `running` how many of its requests
    are being answered here."""

    is_heard: bool
    node_id: str = ""
    problem: str = ""
    running: int = 0
    peers: frozenset[str] = frozenset()
    """Addresses of the fleet's other machines, which may copy models from here."""


class CoordinatorLink:
    """`url` is the coordinator, or empty while none is known."""

    def __init__(self, settings: LinkSettings, rng: Random, passport: NodeIdentity) -> None:
        self._settings = settings
        self._rng = rng
        self._passport = passport
        self._misses = 0
        self._said: str | None = None
        """The problem last told, "" when there was none, None before anything was."""
        self._is_open = False
        """Whether the coordinator lets everybody take part: then nothing is signed."""
        self.url = (
            full_url(settings.router_url or passport.url, COORDINATOR_PORT)
            if settings.router_url or passport.url
            else ""
        )

    @property
    def peer_host(self) -> str:
        return urlsplit(self.url).hostname or "" if self.url else ""

    def pause_s(self) -> float:
        """How long until the next heartbeat: the interval, or after misses a time that grows up to it, with some chance in it.

        Never longer, so that a coordinator that restarts knows its fleet again within a heartbeat and a half.
        """
        interval_s = self._settings.heartbeat_interval_s
        if not self._misses:
            return interval_s
        return min(interval_s, BACKOFF_S * 2.0 ** min(self._misses - 1, 10)) * (0.5 + self._rng.random())

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
            self._say("no coordinator found on the network; name one with: herd-node --router-url http://HOST:11435")
        return bool(self.url)

    async def report(self, heartbeat: bytes) -> HeartbeatReply:
        """Sends one heartbeat, after joining the fleet where that is still to be done."""
        if (self._passport.wants_to_join and not self._is_open) and (problem := await self._join()):
            return self._missed(problem)
        response = await self._post("/heartbeat", heartbeat, self._settings.timeout_s)
        if _denial(response).code == "not_paired":
            # Removed, or the coordinator has lost its memory: whoever can prove itself comes in again.
            self._is_open = False
            if self._passport.proofs and not await self._join():
                response = await self._post("/heartbeat", heartbeat, self._settings.timeout_s)
        if response.status == 200:
            self._misses = 0
            self._say("")
            return HeartbeatReply(
                True,
                str(_field(response, "node_id") or ""),
                running=_count(_field(response, "running")),
                peers=_addresses(_field(response, "peers")),
            )
        return self._missed(response.problem or f"it answers {response.status}: {_words(response)}")

    async def goodbye(self, node_id: str, boot_id: str) -> None:
        if self.url:
            body = json.dumps({"node_id": node_id, "boot_id": boot_id}).encode()
            await self._post("/heartbeat/goodbye", body, min(GOODBYE_S, self._settings.timeout_s))

    # --- one message ---

    async def _post(self, path: str, body: bytes, timeout_s: float) -> Response:
        """Signed where this machine belongs to a fleet; then an answer that is not our coordinator's is none."""
        target = f"{path}?from={','.join(own_addresses())}"
        response = await self._signed(target, body, timeout_s)
        session = _denial(response).session
        if response.status == 401 and session:
            self._passport.take_session(session)
            response = await self._signed(target, body, timeout_s)
        return response

    async def _signed(self, target: str, body: bytes, timeout_s: float) -> Response:
        stamp = None if self._is_open else self._passport.sign(target, body)
        headers = stamp.headers if stamp is not None else None
        response = await request("POST", f"{self.url}{target}", body, timeout_s, headers)
        is_ours = stamp is None or self._passport.is_ours(stamp, response.status, response.headers, response.body)
        if response.status == 200 and not is_ours:
            return Response(0, problem="whoever answers there is not this machine's coordinator")
        return response

    # --- joining ---

    async def _join(self) -> str:
        """What keeps this machine from taking part; empty when it does now."""
        problem = ""
        for attempt in range(max(1, self._passport.proofs)):
            response = await request(
                "POST", f"{self.url}{join.PATH}", self._passport.wish(attempt), self._settings.timeout_s
            )
            if response.status not in (200, 202):
                problem = response.problem or _words(response)
                continue
            try:
                answer = msgspec.json.decode(response.body, type=JoinAnswer)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return "it is no coordinator of this version"
            return self._answered(answer)
        return problem

    def _answered(self, answer: JoinAnswer) -> str:
        if answer.status == "open":
            self._is_open = True
            return ""
        if answer.status == "joined":
            return self._passport.joined(answer, self.url)
        return f"it waits for approval: {answer.next}, where the same fingerprint is shown: {self._passport.fingerprint(answer.fleet_public)}"

    # --- finding ---

    async def _first_that_answers(self, found: asyncio.Queue[mdns.FoundCoordinator]) -> str:
        while True:
            candidate = await found.get()
            if self._passport.fleet_id and candidate.fleet_id != self._passport.fleet_id:
                log.info(
                    "another fleet's coordinator is on this network",
                    extra={"url": candidate.url, "fleet": candidate.fleet_id},
                )
                continue
            if (await request("GET", f"{candidate.url}/health", timeout_s=1.0)).status == 200:
                return candidate.url

    async def _on_this_machine(self) -> str:
        """Multicast may be impossible here; a coordinator on the same machine needs none."""
        url = f"http://127.0.0.1:{COORDINATOR_PORT}"
        return url if (await request("GET", f"{url}/health", timeout_s=1.0)).status == 200 else ""

    def _missed(self, problem: str) -> HeartbeatReply:
        self._misses += 1
        self._say(f"{self.url}: {problem}")
        return HeartbeatReply(False, problem=problem)

    def _take(self, url: str) -> None:
        if url and url != self.url:
            log.info("coordinator found", extra={"url": url})
            self.url, self._misses = url, 0

    def _say(self, problem: str) -> None:
        """One line for each change, not for each heartbeat."""
        if problem == self._said:
            return
        self._said = problem
        if problem:
            log.warning("the coordinator is not reached: %s", problem)
        else:
            log.info("reporting to the coordinator", extra={"url": self.url})


def own_addresses() -> list[str]:
    """Every address of this machine, so that the coordinator can tell where a message may come from."""
    found = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in _IP
    ]
    return sorted(found)[:ADDRESSES_MAX]


def _denial(response: Response) -> Denied:
    """What an error says; nothing where it is none of a coordinator's."""
    if response.status != 401:
        return Denied()
    try:
        return msgspec.json.decode(response.body, type=Denied)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Denied()


def _words(response: Response) -> str:
    """The sentence of an error answer, or its beginning."""
    try:
        told = json.loads(response.body).get("error")
    except (ValueError, AttributeError, RecursionError):
        told = None
    return told if isinstance(told, str) else response.body[:200].decode("utf-8", "replace")


def _field(response: Response, name: str) -> object:
    try:
        return json.loads(response.body).get(name)
    except (ValueError, AttributeError, RecursionError):
        return None


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _addresses(value: object) -> frozenset[str]:
    return (
        frozenset(one for one in value[:PEERS_MAX] if isinstance(one, str)) if isinstance(value, list) else frozenset()
    )
