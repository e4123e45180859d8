"""Settings: what is set to what, by whom, and what would happen if it were changed. Knows no file and no process."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.tabs import Tab


class SettingLine(Struct, frozen=True, kw_only=True):
    """One setting. `kind`: "switch", "whole", "number", "choice", "list", "path" or "text"; `source`: "default", "file", "env",
    "flag" or "here" (changed in the dashboard), `source_detail` names the place. `takes_effect`: "now" or "restart". The value of a
    secret is "(set)" or "". `waits_for_restart`: it was changed, but this process still runs with `value_in_force`."""

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
    """`POST settings`: as it would stand in the environment. None takes what was set here back."""

    name: str
    value: str | None


class SettingChanged(Struct, frozen=True):
    """What came of it."""

    change_id: int
    setting: SettingLine
    sentence: str


class SettingChangeLine(Struct, frozen=True, kw_only=True):
    """One change. `before` and `after` are None where nothing was set here; `may_undo` while no later change of it stands."""

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
    """`POST settings/undo`: gives a setting the value it had before this change; that is a change of its own."""

    change_id: int


class WeightsPreviewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST settings/preview`: weights by the names of their settings; of the newest `limit` requests."""

    values: dict[str, str]
    limit: int = 1000


class ChangedDecisions(Struct, frozen=True):
    model: str
    before: str
    after: str
    requests: int


class WeightsPreview(Struct, frozen=True):
    """The newest choices decided again under other weights. Seconds are estimates of then; positive where time is saved."""

    sentence: str
    choices: int
    changed: int
    undecidable: int
    own_saved_s: float
    others_saved_s: float
    moves: tuple[ChangedDecisions, ...]


TAB = Tab(
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
