"""Finds the agent's coordinator, joins its fleet, sends heartbeats to it, and reconnects after an interruption.

If the coordinator does not answer for a while, the agent searches for it again, because its address may have changed.
The pause between attempts grows and is randomized, so that the agents of a fleet do not all connect at the same time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import dataclass, field
from random import Random

import msgspec
import psutil

from herd import mdns
from herd.agent.node_identity import NodeIdentity
from herd.agent_protocol import join
from herd.agent_protocol.join import Denied, JoinAnswer
from herd.http1.client import Response, full_url, request

log = logging.getLogger("herd.agent.coordinator_link")

COORDINATOR_PORT = 11435
BACKOFF_S = 1.0
MISSES_BEFORE_SEARCH = 3
SEARCH_S = 3.0
ADDRESSES_MAX = 32
PEERS_MAX = 1024
_IP = (socket.AF_INET, socket.AF_INET6)
GOODBYE_S = 1.0
"""Timeout of the goodbye message. Without it, the coordinator notices the missing heartbeats."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    router_url: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_ROUTER_URL",
            "help": "URL of the coordinator (ollama-herd's router), e.g. http://192.168.1.10:11435; empty uses mDNS.",
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
    """The answer to a heartbeat: this machine's name in the fleet and the number of requests that run here."""

    is_accepted: bool
    node_id: str = ""
    problem: str = ""
    running: int = 0
    peers: frozenset[str] = frozenset()
    """Addresses of the fleet's other machines, which may copy models from this machine."""


class CoordinatorLink:
    """`url` is the coordinator's, empty while no coordinator is known."""

    def __init__(self, settings: LinkSettings, rng: Random, identity: NodeIdentity) -> None:
        self._settings = settings
        self._rng = rng
        self._identity = identity
        self._misses = 0
        self._logged: str | None = None
        """The last logged problem; empty if there was none, None before the first."""
        self._is_open = False
        """Whether the coordinator accepts any node (FLEET_OPEN). Then messages are not signed."""
        self.url = (
            full_url(settings.router_url or identity.url, COORDINATOR_PORT)
            if settings.router_url or identity.url
            else ""
        )

    def pause_s(self) -> float:
        """Seconds until the next heartbeat: the interval, or after a missed answer a randomized backoff.

        The backoff does not exceed 1.5 intervals, so that a restarted coordinator soon knows its fleet again.
        """
        interval_s = self._settings.heartbeat_interval_s
        if not self._misses:
            return interval_s
        return min(interval_s, BACKOFF_S * 2.0 ** min(self._misses - 1, 10)) * (0.5 + self._rng.random())

    async def find(self) -> bool:
        """Searches for a coordinator if none is known or it did not answer. Returns whether one is known now."""
        if self.url and (self._settings.router_url or self._misses < MISSES_BEFORE_SEARCH):
            return True
        async with mdns.browse() as found:
            try:
                async with asyncio.timeout(SEARCH_S):
                    self._use(await self._first_that_answers(found))
            except TimeoutError:
                if not self.url:
                    self._use(await self._on_this_machine())
        if not self.url:
            self._log_problem(
                "no coordinator found on the network; set its address with: herd-node --router-url http://HOST:PORT"
            )
        return bool(self.url)

    async def report(self, heartbeat: bytes) -> HeartbeatReply:
        """Sends one heartbeat; joins the fleet first if necessary."""
        if (self._identity.wants_to_join and not self._is_open) and (problem := await self._join()):
            return self._record_miss(problem)
        response = await self._post("/heartbeat", heartbeat, self._settings.timeout_s)
        if _denial(response).code == "not_paired":
            # This node was removed, or the coordinator lost its data: with a code the node joins again.
            self._is_open = False
            if self._identity.codes and not await self._join():
                response = await self._post("/heartbeat", heartbeat, self._settings.timeout_s)
        if response.status == 200:
            self._misses = 0
            self._log_problem("")
            return HeartbeatReply(
                True,
                str(_field(response, "node_id") or ""),
                running=_count(_field(response, "running")),
                peers=_addresses(_field(response, "peers")),
            )
        return self._record_miss(response.problem or f"it answered {response.status}: {_error_text(response)}")

    async def goodbye(self, node_id: str, boot_id: str) -> None:
        if self.url:
            body = json.dumps({"node_id": node_id, "boot_id": boot_id}).encode()
            await self._post("/heartbeat/goodbye", body, min(GOODBYE_S, self._settings.timeout_s))

    # --- one message ---

    async def _post(self, path: str, body: bytes, timeout_s: float) -> Response:
        """Sends a message, signed if this machine is paired. An answer from another coordinator is then ignored."""
        target = f"{path}?from={','.join(own_addresses())}"
        response = await self._send_signed(target, body, timeout_s)
        session = _denial(response).session
        if response.status == 401 and session:
            self._identity.use_session(session)
            response = await self._send_signed(target, body, timeout_s)
        return response

    async def _send_signed(self, target: str, body: bytes, timeout_s: float) -> Response:
        stamp = None if self._is_open else self._identity.sign(target, body)
        headers = stamp.headers if stamp is not None else None
        response = await request("POST", f"{self.url}{target}", body, timeout_s, headers)
        is_genuine = stamp is None or self._identity.is_from_coordinator(
            stamp, response.status, response.headers, response.body
        )
        if response.status == 200 and not is_genuine:
            return Response(
                0,
                problem="the answer is not from this machine's coordinator; "
                "to join another fleet, run there: herd nodes invite",
            )
        return response

    # --- joining ---

    async def _join(self) -> str:
        """Joins the fleet. Returns the problem, or an empty text."""
        problem = ""
        for attempt in range(max(1, self._identity.codes)):
            response = await request(
                "POST", f"{self.url}{join.PATH}", self._identity.join_request(attempt), self._settings.timeout_s
            )
            if response.status not in (200, 202):
                problem = response.problem or _error_text(response)
                continue
            try:
                answer = msgspec.json.decode(response.body, type=JoinAnswer)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return "the answer is not from a coordinator of this version; update herd on both machines"
            return self._accept(answer)
        return problem

    def _accept(self, answer: JoinAnswer) -> str:
        if answer.status == "open":
            self._is_open = True
            return ""
        if answer.status == "joined":
            return self._identity.accept_join(answer, self.url)
        fingerprint = self._identity.fingerprint(answer.fleet_public)
        return f"waiting for approval; {answer.next} (check that the fingerprint is {fingerprint})"

    # --- search ---

    async def _first_that_answers(self, found: asyncio.Queue[mdns.FoundCoordinator]) -> str:
        while True:
            candidate = await found.get()
            if self._identity.fleet_id and candidate.fleet_id != self._identity.fleet_id:
                log.info(
                    "ignored the coordinator of another fleet on this network",
                    extra={"url": candidate.url, "fleet": candidate.fleet_id},
                )
                continue
            if (await request("GET", f"{candidate.url}/health", timeout_s=1.0)).status == 200:
                return candidate.url

    async def _on_this_machine(self) -> str:
        """A coordinator on this machine can be found without multicast."""
        url = f"http://127.0.0.1:{COORDINATOR_PORT}"
        return url if (await request("GET", f"{url}/health", timeout_s=1.0)).status == 200 else ""

    def _record_miss(self, problem: str) -> HeartbeatReply:
        self._misses += 1
        self._log_problem(f"{self.url}: {problem}")
        return HeartbeatReply(False, problem=problem)

    def _use(self, url: str) -> None:
        if url and url != self.url:
            log.info("coordinator found", extra={"url": url})
            self.url, self._misses = url, 0

    def _log_problem(self, problem: str) -> None:
        """Logs a problem once, not for each heartbeat."""
        if problem == self._logged:
            return
        self._logged = problem
        if problem:
            log.warning("cannot reach the coordinator: %s", problem)
        else:
            log.info("connected to the coordinator", extra={"url": self.url})


def own_addresses() -> list[str]:
    """All addresses of this machine, so that the coordinator knows where its messages may come from."""
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in _IP
    ]
    return sorted(addresses)[:ADDRESSES_MAX]


def _denial(response: Response) -> Denied:
    """The fields of a coordinator's 401 answer; empty for any other answer."""
    if response.status != 401:
        return Denied()
    try:
        return msgspec.json.decode(response.body, type=Denied)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Denied()


def _error_text(response: Response) -> str:
    """The message of an error answer, or the beginning of its body."""
    try:
        message = json.loads(response.body).get("error")
    except (ValueError, AttributeError, RecursionError):
        message = None
    return message if isinstance(message, str) else response.body[:200].decode("utf-8", "replace")


def _field(response: Response, name: str) -> object:
    try:
        return json.loads(response.body).get(name)
    except (ValueError, AttributeError, RecursionError):
        return None


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _addresses(value: object) -> frozenset[str]:
    return (
        frozenset(address for address in value[:PEERS_MAX] if isinstance(address, str))
        if isinstance(value, list)
        else frozenset()
    )
