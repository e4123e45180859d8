"""Defines the answers of the settings page: values and sources, the change history, and the preview of weights."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.pages import Page


class SettingLine(Struct, frozen=True, kw_only=True):
    """One setting. `kind`: "switch", "whole", "number", "choice", "list", "path" or "text"; `source`: "default",
    "file", "env", "flag" or "here" (changed in the dashboard), `source_detail` is the file or flag. `takes_effect`:
    "now" or "restart". The value of a secret is "(set)" or "". `waits_for_restart`: the process still uses
    `value_in_force` until it restarts."""

    name: str
    group: str
    help: str
    kind: str
    value: str
    value_in_force: str
    default: str
    source: str
    source_detail: str
    takes_effect: str
    waits_for_restart: bool
    may_change: bool
    expects: str
    choices: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    is_secret: bool


class SettingsPage(Struct, frozen=True):
    """`GET settings`."""

    settings: tuple[SettingLine, ...]


class SettingChangeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST settings`: `value` as in an environment variable. None removes the value that was set in the dashboard."""

    name: str
    value: str | None


class SettingChanged(Struct, frozen=True):
    """The setting after the change, and a sentence about when it applies."""

    change_id: int
    setting: SettingLine
    sentence: str


class SettingChangeLine(Struct, frozen=True, kw_only=True):
    """One change. `before` and `after` are None if no value was set in the dashboard. Only the latest change of a
    setting `may_undo`."""

    change_id: int
    at: float
    name: str
    before: str | None
    after: str | None
    who: str
    ip: str
    may_undo: bool


class SettingHistory(Struct, frozen=True):
    """`GET settings/history`: newest first."""

    changes: tuple[SettingChangeLine, ...]


class UndoRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST settings/undo`: restores the value before this change, which is itself recorded as a change."""

    change_id: int


class WeightsPreviewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST settings/preview`: weights by setting name, applied to the newest `limit` requests."""

    values: dict[str, str]
    limit: int = 1000


class ChangedDecisions(Struct, frozen=True):
    model: str
    before: str
    after: str
    requests: int


class WeightsPreview(Struct, frozen=True):
    """The newest routing decisions replayed with other weights. The seconds saved come from the recorded estimates;
    positive is better."""

    sentence: str
    choices: int
    changed: int
    undecidable: int
    own_saved_s: float
    others_saved_s: float
    moves: tuple[ChangedDecisions, ...]


PAGE = Page(
    "settings",
    "Settings",
    8,
    (
        DashboardRoute("GET", "settings", SettingsPage),
        DashboardRoute("POST", "settings", SettingChanged, SettingChangeRequest),
        DashboardRoute("GET", "settings/history", SettingHistory),
        DashboardRoute("POST", "settings/undo", SettingChanged, UndoRequest),
        DashboardRoute("POST", "settings/preview", WeightsPreview, WeightsPreviewRequest),
    ),
)
