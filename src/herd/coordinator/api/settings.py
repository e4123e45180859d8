"""Serves the routes that list and change settings, undo a change, and preview other scoring weights.

The settings store validates values, and stores those that are set in the dashboard.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, json_response, query_response, read_body
from herd.coordinator.auth.audit import audit_entry
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.storage import learned_state, node_history, queries, setting_changes
from herd.coordinator.storage.node_history import FleetEvent
from herd.coordinator.storage.writer import TraceStore
from herd.core.planning import decision_record
from herd.core.planning.replay import DecisionRules, Replay
from herd.core.scheduling.aliases import AliasSettings
from herd.core.scheduling.signals import Signal
from herd.dashboard.pages.settings import (
    ChangedDecisions,
    SettingChanged,
    SettingChangeRequest,
    SettingHistory,
    SettingLine,
    SettingsPage,
    UndoRequest,
    WeightsPreview,
    WeightsPreviewRequest,
)
from herd.errors import BadRequest, Unavailable
from herd.text import duration
from herd.trust.rights import Right

PREVIEW_MAX = 5_000
MOVES_SHOWN = 10
RECORD_TIMEOUT_S = 10.0
"""The response to a change is sent when the change is in the history; after this time it is an error."""
CHANGE_MAX = 2**53
"""No change has a larger id; SQLite would reject it."""


class EditableSettings(Protocol):
    """The part of the settings store that the routes use. `change` writes a file, and is called in a thread."""

    def aliases(self) -> AliasSettings: ...

    def lines(self) -> Sequence[SettingLine]: ...

    def dashboard_value(self, name: str) -> str | None:
        """The value set in the dashboard, or None if none is set there."""

    def change(self, name: str, value: str | None) -> SettingLine:
        """Sets a value in the dashboard, or removes it for None. Raises `BadRequest`; then nothing has changed."""

    def weights(self, values: dict[str, str]) -> dict[str, float]:
        """Converts texts by setting name into weights by field name. Raises `BadRequest`."""


class SettingsApi:
    def __init__(
        self,
        settings_store: EditableSettings | None,
        store: TraceStore,
        signals: Sequence[Signal],
        applied: Callable[[], None],
    ) -> None:
        """`applied()` is called after a change. Without a settings store (embedded coordinator) there are no
        settings."""
        self._settings_store = settings_store
        self._store = store
        self._signals = signals
        self._applied = applied
        self._change_lock = asyncio.Lock()

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/settings", json_errors(self.page), "GET", Right.READ),
            ApiRoute(
                "/dashboard/api/settings", json_errors(self.change), "POST", Right.ADMIN, body_type=SettingChangeRequest
            ),
            ApiRoute("/dashboard/api/settings/history", json_errors(self.history), "GET", Right.READ),
            ApiRoute(
                "/dashboard/api/settings/undo", json_errors(self.undo), "POST", Right.ADMIN, body_type=UndoRequest
            ),
            ApiRoute(
                "/dashboard/api/settings/preview",
                json_errors(self.preview),
                "POST",
                Right.ADMIN,
                body_type=WeightsPreviewRequest,
            ),
        ]

    async def page(self, _: Request) -> Response:
        """Lists all settings with value, default, source, and when a change takes effect."""
        return json_response(
            SettingsPage(tuple(self._settings_store.lines()) if self._settings_store is not None else ())
        )

    async def change(self, request: Request) -> Response:
        """Changes one setting after validation. The change survives a restart and can be undone."""
        wanted = await read_body(request, SettingChangeRequest)
        return json_response(await self.change_setting(request, wanted.name, wanted.value))

    async def history(self, _: Request) -> Response:
        """Lists changes of settings, newest first."""
        return json_response(SettingHistory(tuple(await self._store.ask(setting_changes.recent_changes))))

    async def undo(self, request: Request) -> Response:
        """Undoes a change: the setting gets its previous value again."""
        wanted = await read_body(request, UndoRequest)
        change = (
            await self._store.ask(setting_changes.find_change, wanted.change_id)
            if 0 < wanted.change_id <= CHANGE_MAX
            else None
        )
        if change is None:
            raise BadRequest(
                f"there is no change {wanted.change_id}; list the changes with: GET /dashboard/api/settings/history"
            )
        if not change.may_undo:
            raise BadRequest(f"{change.name} was changed again later; undo the later change first")
        return json_response(await self.change_setting(request, change.name, change.before))

    async def preview(self, request: Request) -> Response:
        """Replays the newest routing decisions with other scoring weights, and returns what would change."""
        wanted = await read_body(request, WeightsPreviewRequest)
        values = self._require_store().weights(wanted.values)
        limit = max(1, min(wanted.limit, PREVIEW_MAX))
        return await query_response(
            self._store, lambda connection: preview_weights(connection, values, limit, self._signals)
        )

    async def change_setting(self, request: Request, name: str, value: str | None) -> SettingChanged:
        """Changes one setting, or resets it with None. Raises `BadRequest` or `Unavailable`."""
        settings_store = self._require_store()
        async with self._change_lock:
            before = settings_store.dashboard_value(name)
            line = await asyncio.to_thread(settings_store.change, name, value)
            self._applied()
            change_id = await self._record_change(request, name, before, settings_store.dashboard_value(name))
        when = "now" if line.takes_effect == "now" else "after the next restart"
        return SettingChanged(change_id, line, f"{name} is {line.value or 'empty'} {when}.")

    async def _record_change(self, request: Request, name: str, before: str | None, after: str | None) -> int:
        """Stores the change and returns its id in the history."""
        entry = audit_entry(request, "changed a setting", f"{name}={'(default)' if after is None else after}")
        self._store.audit(entry)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        change = setting_changes.SettingChange(entry.at, name, before, after, entry.who, entry.ip)

        def settle(change_id: int) -> None:
            if not done.done():
                done.set_result(change_id)

        def insert(connection: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(settle, setting_changes.insert_change(connection, change))

        self._store.write(insert)
        event = FleetEvent(
            time.time(), "settings", f"{name} was set to {after}" if after is not None else f"{name} was reset"
        )
        self._store.write(functools.partial(node_history.insert_history, intervals=(), events=[event]))
        try:
            return await asyncio.wait_for(done, RECORD_TIMEOUT_S)
        except TimeoutError as error:
            raise Unavailable(
                f"{name} was changed, but the change could not be stored in the history "
                f"within {RECORD_TIMEOUT_S:.0f} s",
                code="not_recorded",
            ) from error

    def alias_settings(self) -> AliasSettings:
        """The aliases as they are stored. Raises `Unavailable`."""
        return self._require_store().aliases()

    def _require_store(self) -> EditableSettings:
        if self._settings_store is None:
            raise Unavailable(
                "this coordinator was started by another program, which manages its settings", code="no_settings"
            )
        return self._settings_store


def preview_weights(
    connection: sqlite3.Connection, values: dict[str, float], limit: int, signals: Sequence[Signal]
) -> WeightsPreview:
    """Replays the newest recorded decisions with these weights. Raises `sqlite3.Error`."""
    replay = Replay()
    known = learned_state.load_rules(connection)
    changed_rules: dict[str, DecisionRules] = {name: rules.changed(None, values) for name, rules in known.items()}
    for request_id, tokens, column in queries.recorded_decisions(connection, 0.0, limit):
        try:
            decision = decision_record.to_recorded_decision(request_id, tokens, column, known)
        except decision_record.UnreadableDecision:
            replay.unreadable += 1
            continue
        if decision is not None:
            replay.add(decision, changed_rules[decision.rules.fingerprint], signals)
    return _describe(replay)


def _describe(replay: Replay) -> WeightsPreview:
    totals = replay.totals
    moves = sorted(
        (
            ChangedDecisions(model, before, after, count)
            for model, part in replay.models.items()
            for (before, after), count in part.moves.items()
        ),
        key=lambda move: (-move.requests, move.model, move.before, move.after),
    )
    saved_s = totals.own_saved_s + totals.others_saved_s
    per_request = duration(abs(saved_s) / max(1, totals.changed) * 1000)
    effect = (
        f"; estimated: {per_request} {'saved' if saved_s >= 0 else 'lost'} per changed request"
        if totals.changed
        else ""
    )
    sentence = (
        f"{f'{totals.changed:,}' if totals.changed else 'None'} of the last {totals.choices:,} requests "
        f"would have been routed to another node{effect}."
    )
    return WeightsPreview(
        sentence if totals.choices else "There are no recorded decisions to replay yet.",
        totals.choices,
        totals.changed,
        replay.undecidable + replay.unreadable,
        round(totals.own_saved_s, 3),
        round(totals.others_saved_s, 3),
        tuple(moves[:MOVES_SHOWN]),
    )
