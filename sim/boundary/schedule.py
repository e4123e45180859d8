"""Makes schedules of requests and faults at the I/O boundary from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

NODES = ("alpha", "beta", "gamma", "delta")
KINDS = ("llamacpp", "llamacpp", "llamacpp", "ollama", "ollama", "vllm", "openai")
MODELS = ("m", "n")
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate")
LONG_TOKENS = (35, 60)
"""Answers with this many tokens, of a second each, take longer than a request may be held for a node."""
HORIZON_S = 90.0
"""No fault happens after this time; then every request must end."""


class Behavior(Enum):
    """How a node's engine handles the requests that it gets. `at` is a place in the bytes of its answer."""

    NORMAL = "normal"
    SLOW = "slow"
    REFUSES = "refuses connections"
    DROPS = "drops connections in silence"
    HANGS = "never answers"
    RESETS = "resets at"
    CLOSES = "closes at"
    STALLS = "stalls for ever at"
    PAUSES = "pauses at"
    GARBAGE = "sends garbage at"
    FAILS = "says that it fails at"
    UNTERMINATED = "ends without the terminator"
    UNFRAMED = "closes instead of the last chunk"
    TRUNCATES = "ends in order in the middle"
    STATUS = "answers with a status"
    IMPOSSIBLE_NUMBERS = "reports impossible numbers"
    WRONG_LENGTH = "announces more bytes than it sends"
    COMPRESSES = "compresses"
    STALE = "resets reused connections"
    EXTRA = "sends more after the end"


IN_THE_MIDDLE = (Behavior.FAILS, Behavior.FAILS, Behavior.RESETS, Behavior.CLOSES, Behavior.STALLS)
STATUSES = (500, 500, 503, 503, 429, 404, 401, 400, 302)


@dataclass(frozen=True, kw_only=True)
class ClientRequest:
    """A client sends a request. `special` is a field that no translation has a word for, or that binds the answer."""

    at: float
    number: int
    path: str
    model: str
    tokens: int
    limit: int | None
    is_stream: bool
    special: str
    splitting: float
    half_closes: bool
    leaves_after_s: float | None
    reads_slowly_s: float


@dataclass(frozen=True, kw_only=True)
class BehaviorChange:
    """A node handles requests in another way from this time."""

    at: float
    node: str
    behavior: Behavior
    place: float = 0.0
    """Where in the answer it happens, 0 to 1."""
    choice: int = 0
    """Which status, spelling or number."""


@dataclass(frozen=True)
class NodeChange:
    """A node dies (its system resets its connections), vanishes (nothing answers any more), returns, is frozen or
    thawed, drains or pauses, or its bytes arrive in pieces."""

    at: float
    node: str
    what: str


@dataclass(frozen=True)
class HeartbeatChange:
    """What happens to a node's heartbeats from this time: "fine", "lost", "late"."""

    at: float
    node: str
    what: str


@dataclass(frozen=True)
class CoordinatorChange:
    """The coordinator's process is killed, paused or drained; it runs again after `seconds`."""

    at: float
    what: str
    seconds: float


@dataclass(frozen=True)
class DiskFault:
    """From this time the disk does this for `seconds`; the first `skip` writes still succeed."""

    at: float
    what: str
    seconds: float
    skip: int


@dataclass(frozen=True)
class ClockJump:
    """The wall clock jumps, and stays so."""

    at: float
    seconds: float


@dataclass(frozen=True)
class SeamFault:
    """The call number `skip` of this seam after this time raises an exception."""

    at: float
    seam: str
    skip: int


Fault = BehaviorChange | NodeChange | HeartbeatChange | CoordinatorChange | DiskFault | ClockJump | SeamFault
Action = ClientRequest | Fault

SPECIAL_OF_PATH = {
    "/v1/chat/completions": ("n", "logit_bias", "x_flavor", "grammar", "functions", "image_url", "input_audio"),
    "/v1/completions": ("logit_bias", "x_flavor", "token_prompt", "grammar"),
    "/v1/responses": ("server_tool", "custom_tool", "x_flavor"),
    "/v1/messages": ("server_tool", "x_flavor"),
    "/api/chat": ("x_flavor",),
    "/api/generate": ("x_flavor",),
}
"""Fields of requests: some change the answer, some no other engine understands."""
DISK_FAULTS = ("full", "io_error", "locked", "deleted", "replaced", "wal_deleted")
JUMPS_S = (3600.0, -3600.0, 400 * 86400.0, -400 * 86400.0, 10.0)


def schedule(seed: int, seams: tuple[str, ...]) -> list[Action]:
    """The same list for the same seed, in every process."""
    rng = Random(seed)
    actions: list[Action] = [_client_request(rng, number) for number in range(rng.randint(3, 12))]
    actions += [_random_fault(rng) for _ in range(rng.randint(0, 12))]
    if rng.random() < 0.15:
        actions.append(CoordinatorChange(rng.uniform(1.0, HORIZON_S), "killed", rng.uniform(0.5, 20.0)))
    if rng.random() < 0.08:
        actions.append(CoordinatorChange(rng.uniform(1.0, HORIZON_S), "paused", rng.uniform(1.0, 40.0)))
    if rng.random() < 0.05:
        actions.append(CoordinatorChange(rng.uniform(20.0, HORIZON_S), "drained", rng.uniform(0.5, 10.0)))
    if rng.random() < 0.25:
        what = rng.choice(DISK_FAULTS)
        actions.append(DiskFault(rng.uniform(0.0, HORIZON_S), what, rng.uniform(0.2, 20.0), rng.randint(0, 12)))
    if rng.random() < 0.06:
        actions.append(DiskFault(rng.uniform(0.0, HORIZON_S), "kills", 0.0, rng.randint(0, 30)))
    if rng.random() < 0.1:
        actions.append(ClockJump(rng.uniform(0.0, HORIZON_S), rng.choice(JUMPS_S)))
    if rng.random() < 0.2:
        actions.append(SeamFault(rng.uniform(0.0, HORIZON_S / 2), rng.choice(seams), rng.randint(0, 40)))
    return sorted(actions, key=lambda action: action.at)


def _client_request(rng: Random, number: int) -> ClientRequest:
    path = rng.choice(PATHS)
    tokens = rng.randint(*LONG_TOKENS) if rng.random() < 0.4 else rng.randint(1, 12)
    return ClientRequest(
        at=rng.uniform(0.5, HORIZON_S / 2),
        number=number,
        path=path,
        model=rng.choice(MODELS),
        tokens=tokens,
        limit=rng.randint(1, max(1, tokens - 1)) if rng.random() < 0.2 else None,
        is_stream=rng.random() < 0.75,
        special=rng.choice(SPECIAL_OF_PATH[path]) if rng.random() < 0.25 else "",
        splitting=rng.choice((0.0, 0.0, 1.0)),
        half_closes=rng.random() < 0.1,
        leaves_after_s=rng.uniform(0.0, 40.0) if rng.random() < 0.12 else None,
        reads_slowly_s=rng.uniform(5.0, 40.0) if rng.random() < 0.08 else 0.0,
    )


def _random_fault(rng: Random) -> Fault:
    at, node, kind = rng.uniform(0.0, HORIZON_S), rng.choice(NODES), rng.random()
    if kind < 0.6:
        behavior = rng.choice(IN_THE_MIDDLE if rng.random() < 0.4 else list(Behavior))
        place = rng.choice((0.0, 1.0, rng.random(), rng.random(), rng.uniform(0.8, 1.0)))
        # The behavior is that of the answers that begin later, and all requests come in the first half.
        return BehaviorChange(at=at / 2, node=node, behavior=behavior, place=place, choice=rng.randrange(64))
    if kind < 0.9:
        changes = ("dies", "dies", "dies", "returns", "returns", "vanishes", "freezes", "thaws", "drains", "splits")
        return NodeChange(at, node, rng.choice((*changes, "pauses")))
    return HeartbeatChange(at, node, rng.choice(("fine", "lost", "late")))
