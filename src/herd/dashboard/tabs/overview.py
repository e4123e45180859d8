"""The fleet overview: is it well, and who is doing what. Knows neither history nor settings."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import Answer
from herd.dashboard.nodes import NodeCard
from herd.dashboard.requests import Latest, LiveRequest
from herd.dashboard.tabs import Tab


class Verdict(Struct, frozen=True):
    """One sentence made from the data. `level`: "good", "attention", "bad", or "empty" while no node was ever here."""

    level: str
    sentence: str


class Numbers(Struct, frozen=True):
    """The four numbers. `today` begins at the coordinator's own midnight; speed and first token are of the last minute."""

    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    requests_today: int
    failures_today: int


class Step(Struct, frozen=True):
    """One line of the first-run card. `command` is to be copied, `done` ticks it."""

    name: str
    done: bool
    command: str


class Overview(Struct, frozen=True):
    """`GET overview`. `queue` is everybody who waits, in turn; `running` everybody who is answered; `latest` ended, newest first."""

    at: float
    version: str
    verdict: Verdict
    numbers: Numbers
    nodes: tuple[NodeCard, ...]
    queue: tuple[LiveRequest, ...]
    running: tuple[LiveRequest, ...]
    latest: tuple[Latest, ...]
    first_run: tuple[Step, ...]


TAB = Tab("overview", "Fleet overview", 1, (Answer("GET", "overview", Overview),))
