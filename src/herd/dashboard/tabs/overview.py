"""The fleet overview: is it well, and who is doing what. Knows neither history nor settings."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.fleet_summary import FleetSummary
from herd.dashboard.nodes import NodeCard
from herd.dashboard.requests import ActiveRequest, FinishedRequest
from herd.dashboard.tabs import Tab


class OverviewNumbers(Struct, frozen=True):
    """The four numbers. `today` begins at the coordinator's own midnight; speed and first token are of the last minute."""

    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    requests_today: int
    failures_today: int


class SetupStep(Struct, frozen=True):
    """One line of the first-run card. `command` is to be copied, `done` ticks it."""

    name: str
    done: bool
    command: str


class Overview(Struct, frozen=True, kw_only=True):
    """`GET overview`. `queue` is everybody who waits, in turn; `running` everybody who is answered; `latest` ended, newest first."""

    at: float
    version: str
    verdict: FleetSummary
    numbers: OverviewNumbers
    nodes: tuple[NodeCard, ...]
    queue: tuple[ActiveRequest, ...]
    running: tuple[ActiveRequest, ...]
    latest: tuple[FinishedRequest, ...]
    first_run: tuple[SetupStep, ...]


def first_run(cards: Sequence[NodeCard], requests_ever: bool, address: str) -> tuple[SetupStep, ...]:
    """The three steps of a new fleet, ticked by what is there. `address` is where others reach the coordinator, with its port."""
    model = next((model.name for card in cards for model in card.models), "") or "qwen3:0.6b"
    ask = f'curl http://{address}/api/chat -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}\''
    return (
        SetupStep("node", bool(cards), f"herd-node --router-url http://{address}"),
        SetupStep("model", any(card.models_on_disk for card in cards), f"ollama pull {model}"),
        SetupStep("request", requests_ever, ask),
    )


TAB = Tab("overview", "Fleet overview", 1, (DashboardRoute("GET", "overview", Overview),))
