"""What happens when, as a plain list: made from a seed, played, and made smaller while it still fails. Knows no dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

NODES = ("alpha", "beta", "gamma", "delta")
MODELS = ("m", "n")
HORIZON_S = 15.0
"""Nothing goes wrong after this; then everything must come to an end."""


class Way(Enum):
    """How a node treats what it is sent."""

    WELL = "well"
    SLOW = "slow"
    REFUSES = "refuses connections"
    RESETS = "resets before a byte"
    CLOSES = "closes before a byte"
    HANGS = "hangs before a byte"
    BREAKS = "resets in the middle"
    TRUNCATES = "ends in the middle as if it were the end"
    STALLS = "stalls in the middle"
    ERRS = "answers 500"
    BUSY = "answers 503"
    MISSING = "answers 404"
    UNAUTHORIZED = "answers 401"
    SAYS_NO = "answers 400"


@dataclass(frozen=True)
class Asked:
    """A client asks."""

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
class Turned:
    """A node treats requests in another way from now on."""

    at: float
    node: str
    way: Way


@dataclass(frozen=True)
class Life:
    """A node dies (kill -9), starts again with so many slots, says goodbye, drains or is paused by its owner."""

    at: float
    node: str
    what: str
    slots: int = 1


@dataclass(frozen=True)
class Beats:
    """What becomes of a node's heartbeats from now on: "fine", "lost", "late", "twice"."""

    at: float
    node: str
    what: str


@dataclass(frozen=True)
class Slept:
    """The coordinator does not run for so long."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Drained:
    """The coordinator is told to end."""

    at: float


Action = Asked | Turned | Life | Beats | Slept | Drained


def schedule(seed: int) -> list[Action]:
    """The same list for the same seed, in every process."""
    rng = Random(seed)
    actions: list[Action] = [_asked(rng, number) for number in range(rng.randint(4, 16))]
    for _ in range(rng.randint(0, 14)):
        actions.append(_mishap(rng))
    if rng.random() < 0.1:
        actions.append(Slept(rng.uniform(1.0, HORIZON_S), rng.uniform(6.0, 40.0)))
    if rng.random() < 0.05:
        actions.append(Drained(rng.uniform(5.0, HORIZON_S)))
    return sorted(actions, key=lambda action: action.at)


def _asked(rng: Random, number: int) -> Asked:
    return Asked(
        rng.uniform(0.5, HORIZON_S),
        number,
        rng.choice(MODELS),
        rng.choice(("", "", "", *MODELS)),
        rng.randint(1, 12),
        rng.random() < 0.7,
        rng.random() < 0.06,
        rng.random() < 0.7,
        rng.uniform(0.5, 10.0) if rng.random() < 0.15 else None,
        rng.uniform(0.0, 4.0) if rng.random() < 0.2 else None,
        rng.choice(("", "a", "b")),
    )


def _mishap(rng: Random) -> Action:
    at, node, kind = rng.uniform(0.0, HORIZON_S), rng.choice(NODES), rng.random()
    if kind < 0.5:
        return Turned(at, node, rng.choice(list(Way)))
    if kind < 0.8:
        return Life(
            at, node, rng.choice(("dies", "dies", "starts", "starts", "leaves", "drains", "pauses")), rng.randint(1, 3)
        )
    return Beats(at, node, rng.choice(("fine", "lost", "late", "twice")))


def shrunk(actions: list[Action], fails: Callable[[list[Action]], bool]) -> list[Action]:
    """A part of the list that still fails and of which nothing can be left out (delta debugging, Zeller 1999)."""
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
