"""The routes of the settings: what is set to what, changes with their history, and what other weights would have chosen. Decides
no value: that is the settings_store's, which knows all settings and keeps what is set here."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.audit import audit_entry
from herd.coordinator.api.responses import json_errors, json_response, query_response, read_body
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.storage import learned_state, node_history, queries, setting_changes
from herd.coordinator.storage.node_history import FleetEvent
from herd.coordinator.storage.writer import TraceStore
from herd.core.planning import decision_record
from herd.core.planning.replay import DecisionRules, Replay
from herd.core.scheduling.signals import Signal
from herd.dashboard.tabs.settings import (
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
KEPT_WITHIN_S = 10.0
CHANGE_MAX = 2**53
"""No change has a larger number; SQLite would not take it."""
"""A change is answered when it is on record; a disk that takes longer is told."""


class EditableSettings(Protocol):
    """Who knows the settings. `change` may take a file's time and is called beside the loop."""

    def lines(self) -> Sequence[SettingLine]: ...

    def here(self, name: str) -> str | None:
        """What is set here, if anything is."""

    def change(self, name: str, value: str | None) -> SettingLine:
        """Sets it here, or takes that back. Raises `BadRequest` with what was expected; then nothing has changed."""

    def weights(self, values: dict[str, str]) -> dict[str, float]:
        """Weights by their own names, of their settings' names and texts. Raises `BadRequest`."""


class SettingsApi:
    def __init__(
        self,
        settings_store: EditableSettings | None,
        store: TraceStore,
        signals: Sequence[Signal],
        applied: Callable[[], None],
    ) -> None:
        """`applied` is called after a change. Without a settings_store (an embedded coordinator) nothing can be shown or set."""
        self._settings_store = settings_store
        self._store = store
        self._signals = signals
        self._applied = applied
        self._one_at_a_time = asyncio.Lock()

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/settings", json_errors(self.page), "GET", Right.READ),
            ApiRoute(
                "/dashboard/api/settings", json_errors(self.change), "POST", Right.ADMIN, takes=SettingChangeRequest
            ),
            ApiRoute("/dashboard/api/settings/history", json_errors(self.history), "GET", Right.READ),
            ApiRoute("/dashboard/api/settings/undo", json_errors(self.undo), "POST", Right.ADMIN, takes=UndoRequest),
            ApiRoute(
                "/dashboard/api/settings/preview",
                json_errors(self.preview),
                "POST",
                Right.ADMIN,
                takes=WeightsPreviewRequest,
            ),
        ]

    async def page(self, _: Request) -> Response:
        """Every setting: value, default, source, when a change takes effect."""
        return json_response(
            SettingsPage(tuple(self._settings_store.lines()) if self._settings_store is not None else ())
        )

    async def change(self, request: Request) -> Response:
        """Sets one setting, checked as at the start; kept over restarts, on record, and undone by one call."""
        wanted = await read_body(request, SettingChangeRequest)
        return json_response(await self._change(request, wanted.name, wanted.value))

    async def history(self, _: Request) -> Response:
        """Who changed what, the newest first."""
        return json_response(SettingHistory(tuple(await self._store.ask(setting_changes.recent_changes))))

    async def undo(self, request: Request) -> Response:
        """Gives a setting the value that it had before a change."""
        wanted = await read_body(request, UndoRequest)
        past = (
            await self._store.ask(setting_changes.find_change, wanted.change_id)
            if 0 < wanted.change_id <= CHANGE_MAX
            else None
        )
        if past is None:
            raise BadRequest(f"there is no change {wanted.change_id}; /dashboard/api/settings/history has them all")
        if not past.may_undo:
            raise BadRequest(f"{past.name} was changed again since; undo that change first")
        return json_response(await self._change(request, past.name, past.before))

    async def preview(self, request: Request) -> Response:
        """What the newest requests would have been under other weights."""
        wanted = await read_body(request, WeightsPreviewRequest)
        values = self._known().weights(wanted.values)
        limit = max(1, min(wanted.limit, PREVIEW_MAX))
        return await query_response(self._store, lambda connection: previewed(connection, values, limit, self._signals))

    async def _change(self, request: Request, name: str, value: str | None) -> SettingChanged:
        settings_store = self._known()
        async with self._one_at_a_time:
            before = settings_store.here(name)
            line = await asyncio.to_thread(settings_store.change, name, value)
            self._applied()
            change_id = await self._kept(request, name, before, settings_store.here(name))
        when = "now" if line.takes_effect == "now" else "from the next start on"
        return SettingChanged(change_id, line, f"{name} is {line.value or 'empty'} {when}.")

    async def _kept(self, request: Request, name: str, before: str | None, after: str | None) -> int:
        """Writes the change down; the id it has in the history."""
        entry = audit_entry(request, "changed a setting", f"{name}={'(default)' if after is None else after}")
        self._store.audit(entry)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        past = setting_changes.SettingChange(entry.at, name, before, after, entry.who, entry.ip)

        def settle(change_id: int) -> None:
            if not done.done():
                done.set_result(change_id)

        def keep(connection: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(settle, setting_changes.insert_change(connection, past))

        self._store.write(keep)
        event = FleetEvent(
            time.time(), "settings", f"{name} was set to {after}" if after is not None else f"{name} was set back"
        )
        self._store.write(functools.partial(node_history.insert_history, intervals=(), events=[event]))
        try:
            return await asyncio.wait_for(done, KEPT_WITHIN_S)
        except TimeoutError as error:
            raise Unavailable(
                f"{name} was changed, but the disk does not take the record of it", code="not_recorded"
            ) from error

    def _known(self) -> EditableSettings:
        if self._settings_store is None:
            raise Unavailable(
                "this coordinator was started by a program that keeps its settings itself", code="no_settings"
            )
        return self._settings_store


def previewed(
    connection: sqlite3.Connection, values: dict[str, float], limit: int, signals: Sequence[Signal]
) -> WeightsPreview:
    """The newest choices decided again. Raises `sqlite3.Error`."""
    done = Replay()
    known = learned_state.load_rules(connection)
    under: dict[str, DecisionRules] = {name: rules.changed(None, values) for name, rules in known.items()}
    for request_id, tokens, column in queries.recorded_decisions(connection, 0.0, limit):
        try:
            choice = decision_record.to_recorded_decision(request_id, tokens, column, known)
        except decision_record.UnreadableDecision:
            done.unreadable += 1
            continue
        if choice is not None:
            done.add(choice, under[choice.rules.fingerprint], signals)
    return _told(done)


def _told(done: Replay) -> WeightsPreview:
    whole = done.whole
    moves = sorted(
        (
            ChangedDecisions(model, before, after, count)
            for model, part in done.models.items()
            for (before, after), count in part.moves.items()
        ),
        key=lambda move: (-move.requests, move.model, move.before, move.after),
    )
    saved_s = whole.own_saved_s + whole.others_saved_s
    each = duration(abs(saved_s) / max(1, whole.changed) * 1000)
    effect = (
        f"; that {'saves' if saved_s >= 0 else 'costs'} {each} each, by the estimates of then" if whole.changed else ""
    )
    sentence = f"Of the last {whole.choices} requests {whole.changed or 'none'} would have gone elsewhere{effect}."
    return WeightsPreview(
        sentence if whole.choices else "No choice is on record yet that could be decided again.",
        whole.choices,
        whole.changed,
        done.undecidable + done.unreadable,
        round(whole.own_saved_s, 3),
        round(whole.others_saved_s, 3),
        tuple(moves[:MOVES_SHOWN]),
    )
