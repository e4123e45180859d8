"""Makes schedules of requests and faults from a seed, and shrinks a schedule while it still fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import TypeVar

NODES = ("alpha", "beta", "gamma", "delta")
MODELS = ("m", "n")
LONG_TOKENS = (45, 90)
"""Answers with this many tokens take longer than a request may be held for a node."""
HORIZON_S = 15.0
"""No fault happens after this time; then every request must end."""


class NodeBehavior(Enum):
    """How a node handles the requests that it gets."""

    NORMAL = "normal"
    SLOW = "slow"
    REFUSES = "refuses connections"
    RESETS = "resets before a byte"
    CLOSES = "closes before a byte"
    HANGS = "hangs before a byte"
    RESETS_MIDSTREAM = "resets in the middle"
    TRUNCATES = "ends in the middle without an error"
    STALLS = "stalls in the middle"
    SERVER_ERROR = "answers 500"
    BUSY = "answers 503"
    MISSING = "answers 404"
    UNAUTHORIZED = "answers 401"
    BAD_REQUEST = "answers 400"


@dataclass(frozen=True, kw_only=True)
class ClientRequest:
    """A client sends a request."""

    at: float
    number: int
    model: str
    fallback: str
    tokens: int
    is_stream: bool
    is_poison: bool
    may_continue: bool
    patience_s: float | None
    leaves_after_s: float | None
    tenant: str


@dataclass(frozen=True)
class BehaviorChange:
    """A node handles requests with another behavior from this time."""

    at: float
    node: str
    behavior: NodeBehavior


@dataclass(frozen=True)
class NodeChange:
    """A node dies (kill -9), starts with `slots` slots, leaves with a goodbye, drains, is paused or resumed by its
    owner, or is resized: its engine takes `slots` requests at once from this time."""

    at: float
    node: str
    what: str
    slots: int = 1


@dataclass(frozen=True)
class HeartbeatChange:
    """What happens to a node's heartbeats from this time: "fine", "lost", "late", "twice"."""

    at: float
    node: str
    what: str


@dataclass(frozen=True)
class CoordinatorPause:
    """The coordinator's process does not run for this time."""

    at: float
    seconds: float


@dataclass(frozen=True)
class DrainRequested:
    """The coordinator starts to drain."""

    at: float


Action = ClientRequest | BehaviorChange | NodeChange | HeartbeatChange | CoordinatorPause | DrainRequested
AnyAction = TypeVar("AnyAction")


def schedule(seed: int) -> list[Action]:
    """The same list for the same seed, in every process."""
    rng = Random(seed)
    actions: list[Action] = [_client_request(rng, number) for number in range(rng.randint(4, 16))]
    if rng.random() < 0.15:
        actions += _burst(rng, first_number=len(actions))
    for _ in range(rng.randint(0, 14)):
        actions.append(_random_fault(rng))
    if rng.random() < 0.1:
        actions.append(CoordinatorPause(rng.uniform(1.0, HORIZON_S), rng.uniform(6.0, 40.0)))
    if rng.random() < 0.05:
        actions.append(DrainRequested(rng.uniform(5.0, HORIZON_S)))
    return sorted(actions, key=lambda action: action.at)


def _burst(rng: Random, first_number: int) -> list[Action]:
    """Many long answers at one time, on a fleet with free slots of which one node may fail."""
    actions: list[Action] = [NodeChange(0.1, name, "resized", 8) for name in NODES]
    behavior = rng.choice((NodeBehavior.SERVER_ERROR, NodeBehavior.BUSY, NodeBehavior.RESETS, NodeBehavior.NORMAL))
    actions.append(BehaviorChange(0.2, rng.choice(NODES), behavior))
    at = rng.uniform(2.0, 6.0)
    for number in range(first_number, first_number + rng.randint(8, 20)):
        wanted = _client_request(rng, number)
        actions.append(replace(wanted, at=at + rng.uniform(0.0, 0.2), tokens=rng.randint(*LONG_TOKENS)))
    return actions


def _client_request(rng: Random, number: int) -> ClientRequest:
    return ClientRequest(
        at=rng.uniform(0.5, HORIZON_S),
        number=number,
        model=rng.choice(MODELS),
        fallback=rng.choice(("", "", "", *MODELS)),
        tokens=rng.randint(*LONG_TOKENS) if rng.random() < 0.2 else rng.randint(1, 12),
        is_stream=rng.random() < 0.7,
        is_poison=rng.random() < 0.06,
        may_continue=rng.random() < 0.7,
        patience_s=rng.uniform(0.5, 10.0) if rng.random() < 0.15 else None,
        leaves_after_s=rng.uniform(0.0, 4.0) if rng.random() < 0.2 else None,
        tenant=rng.choice(("", "a", "b")),
    )


def _random_fault(rng: Random) -> Action:
    at, node, kind = rng.uniform(0.0, HORIZON_S), rng.choice(NODES), rng.random()
    if kind < 0.5:
        return BehaviorChange(at, node, rng.choice(list(NodeBehavior)))
    if kind < 0.8:
        return NodeChange(
            at, node, rng.choice(("dies", "dies", "starts", "starts", "leaves", "drains", "pauses")), rng.randint(1, 3)
        )
    return HeartbeatChange(at, node, rng.choice(("fine", "lost", "late", "twice")))


def shrink(actions: list[AnyAction], fails: Callable[[list[AnyAction]], bool]) -> list[AnyAction]:
    """A part of the list that still fails, and from which no action can be removed (delta debugging, Zeller 1999)."""
    size = max(1, len(actions) // 2)
    while size:
        start = 0
        while start < len(actions):
            without = actions[:start] + actions[start + size :]
            if without and fails(without):
                actions = without
            else:
                start += size
        size //= 2
    return actions
