"""Defines the answer of the overview page: the state of the fleet, its requests, and the setup steps of a new fleet."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.fleet_summary import FleetSummary
from herd.dashboard.nodes import NodeCard
from herd.dashboard.pages import Page
from herd.dashboard.requests import ActiveRequest, FinishedRequest
from herd.dashboard.uncounted import Uncounted


class OverviewNumbers(Struct, frozen=True):
    """The key numbers. A day begins at midnight in the coordinator's time zone; `tokens_per_s` and `ttft_p50_ms` cover
    the last minute."""

    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    requests_today: int
    failures_today: int


class SetupStep(Struct, frozen=True):
    """One setup step of a new fleet, with the command for it."""

    name: str
    done: bool
    command: str


class Overview(Struct, frozen=True, kw_only=True):
    """`GET overview`. `queue` has the waiting requests in queue order, `running` the running ones, `latest` the ended
    ones, newest first."""

    at: float
    version: str
    verdict: FleetSummary
    numbers: OverviewNumbers
    nodes: tuple[NodeCard, ...]
    queue: tuple[ActiveRequest, ...]
    running: tuple[ActiveRequest, ...]
    latest: tuple[FinishedRequest, ...]
    first_run: tuple[SetupStep, ...]
    uncounted: Uncounted | None = None


def setup_steps(cards: Sequence[NodeCard], requests_ever: bool, address: str) -> tuple[SetupStep, ...]:
    """The three setup steps. `address` is the host and port under which other machines reach the coordinator."""
    model = next((model.name for card in cards for model in card.models), "") or "qwen3:0.6b"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return (
        SetupStep("node", bool(cards), f"herd-node --router-url http://{address}"),
        SetupStep("model", any(card.models_on_disk for card in cards), f"ollama pull {model}"),
        SetupStep("request", requests_ever, f"curl http://{address}/api/chat -d '{body}'"),
    )


PAGE = Page("overview", "Fleet", 1, (DashboardRoute("GET", "overview", Overview),))
