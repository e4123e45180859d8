"""Serves the findings of the health checks, snoozes findings, and serves the uptime bars of nodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from herd.bounded import BoundedDict
from herd.coordinator.api.health_watch import HealthWatch
from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.storage.uptime_queries import uptime_bars
from herd.coordinator.storage.writer import TraceStore
from herd.dashboard.pages.health import (
    CommandLine,
    FactLine,
    FindingDetails,
    FixDetails,
    Health,
    HealthScore,
    PassedLine,
    SnoozeRequest,
    SnoozeResult,
)
from herd.errors import BadRequest
from herd.health.examination import Examination, NamedFinding
from herd.trust.rights import Right

SNOOZED_MAX = 500
"""Maximum number of snoozed findings; the oldest snooze ends first."""
SNOOZE_MAX_HOURS = 90 * 24.0
REASON_MAX_CHARS = 200
ID_MAX_CHARS = 600


class HealthApi:
    def __init__(self, watch: HealthWatch, store: TraceStore, wall: Callable[[], float] = time.time) -> None:
        self._watch, self._store, self._wall = watch, store, wall
        self._snoozed = BoundedDict[str, tuple[float, str]](SNOOZED_MAX)

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/health", json_errors(self.health), "GET", Right.READ),
            ApiRoute("/dashboard/api/health/snooze", json_errors(self.snooze), "POST", Right.ADMIN, SnoozeRequest),
            ApiRoute("/dashboard/api/strips", json_errors(self.uptime), "GET", Right.READ, query=("range",)),
        ]

    async def health(self, _: Request) -> Response:
        """Returns the findings of all health checks, most severe first, and the checks that passed."""
        return json_response(self._health(await self._watch.examination()))

    async def snooze(self, request: Request) -> Response:
        """Snoozes a finding: `{"finding_id", "hours", "reason"}`; 0 hours end the snooze.

        A restart of herd ends all snoozes.
        """
        wanted = await read_body(request, SnoozeRequest)
        if not math.isfinite(wanted.hours) or not 0 <= wanted.hours <= SNOOZE_MAX_HOURS:
            raise BadRequest(f"hours must be a number from 0 to {SNOOZE_MAX_HOURS:.0f}")
        if not wanted.finding_id or len(wanted.finding_id) > ID_MAX_CHARS or len(wanted.reason) > REASON_MAX_CHARS:
            raise BadRequest(f"finding_id is required, and reason may have at most {REASON_MAX_CHARS} characters")
        self._snoozed.pop(wanted.finding_id, None)
        if not wanted.hours:
            return json_response(SnoozeResult(wanted.finding_id, None, ""))
        until = self._wall() + 3600.0 * wanted.hours
        self._snoozed[wanted.finding_id] = (until, wanted.reason)
        return json_response(SnoozeResult(wanted.finding_id, until, wanted.reason))

    async def uptime(self, request: Request) -> Response:
        """Returns the uptime bars of all nodes. `range` is 24h, 7d, 30d or 90d."""
        return json_response(
            await self._store.ask(uptime_bars, request.query_params.get("range") or "24h", self._wall())
        )

    def _health(self, examined: Examination) -> Health:
        findings = tuple(self._details(one) for one in examined.findings)
        passed = tuple(PassedLine(check, title) for check, title in examined.passed)
        return Health(examined.at, examined.summary, findings, passed, HealthScore(examined.score, examined.arithmetic))

    def _details(self, one: NamedFinding) -> FindingDetails:
        finding = one.finding
        until, reason = self._snoozed.get(one.id, (0.0, ""))
        is_snoozed = until > self._wall()
        return FindingDetails(
            finding_id=one.id,
            check=one.check,
            severity=finding.severity.value,
            title=finding.title,
            since=one.since,
            cause=finding.cause,
            evidence=tuple(FactLine(fact.label, fact.value) for fact in finding.evidence),
            nodes=finding.nodes,
            fix=FixDetails(finding.remedy, tuple(CommandLine(each.os, each.command) for each in finding.commands)),
            snoozed_until=until if is_snoozed else None,
            snooze_reason=reason if is_snoozed else "",
        )
