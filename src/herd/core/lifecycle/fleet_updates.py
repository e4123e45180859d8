"""Applies heartbeats, and changes of a node's models that the node's engine has confirmed, to the state of the fleet.

A client that copies or deletes a model reads the lists at once (`ollama cp a b && ollama rm b`), while the next
heartbeat comes seconds later. So a confirmed change is applied immediately, and again to each heartbeat that may have
been taken before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from herd.core.context.windows import Windows
from herd.core.estimates.forecast import Forecast
from herd.core.state.commands import Command
from herd.core.state.events import EngineSilent, HeartbeatReceived, ModelsChanged, NodeAdministered
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId, Report
from herd.core.state.liveness import LivenessTracker
from herd.core.state.nodes import administration

OLDER_HEARTBEATS_MAX = 1
"""Heartbeats after a change that may be older than it. An agent polls its engines only after its last heartbeat was
answered, so the second heartbeat after a change was certainly taken after it."""


SILENCE_MIN_S = 0.1
"""Recorded for an engine that still answered when its node sent the last heartbeat."""

NodeChange: TypeAlias = HeartbeatReceived | ModelsChanged | NodeAdministered


@dataclass(slots=True)
class ConfirmedChange:
    """What an engine has confirmed about one model: it is on disk (`model_info`), or it is gone (None)."""

    model_info: ModelInfo | None
    is_unload: bool
    heartbeats: int = 0
    """Complete heartbeats of the node since."""


class FleetUpdates:
    def __init__(self, fleet: Fleet, forecast: Forecast, windows: Windows | None, liveness: LivenessTracker) -> None:
        self._fleet = fleet
        self._forecast = forecast
        self._windows = windows
        self._liveness = liveness
        self._changes: dict[NodeId, dict[ModelName, ConfirmedChange]] = {}

    def apply_heartbeat(self, report: Report, now: float) -> Node:
        known = self._fleet.node(report.node_id)
        is_new_boot = known is not None and known.report.boot_id != report.boot_id
        if known is not None and is_new_boot:
            self._liveness.clear_failures(known)
        if known is not None and (known.liveness is Liveness.OFFLINE or self._forecast.residency.is_changing(known)):
            self._fleet.changes.note(known.id)
        windows, was_frozen = _windows_of(known), known is not None and _is_frozen(known.report)
        administrations = self._fleet.administrations
        administered = administrations.get(report.node_id) or administrations.get(report.machine)
        if administered is not None:
            report = replace(report, administration=administered)
        node = self._fleet.apply_heartbeat(self._with_changes(report, known), now)
        if was_frozen and not _is_frozen(report):
            self._liveness.record_return(node, now)
        self._forecast.apply_heartbeat(node, windows, is_new_boot)
        if self._windows is not None:
            if is_new_boot:
                self._windows.forget(node.id)
            self._windows.apply_heartbeat(node)
        self._liveness.apply_heartbeat(node, now)
        self._liveness.confirm_keys(node)
        return node

    def apply(self, event: NodeChange) -> Node | None:
        """Applies a heartbeat, or a change between two heartbeats. Returns None if the node is not in the fleet."""
        if isinstance(event, HeartbeatReceived):
            return self.apply_heartbeat(event.report, event.at)
        if isinstance(event, NodeAdministered):
            return self._administer(event)
        return self._apply_changes(event.node_id, event.changes, event.at)

    def _administer(self, event: NodeAdministered) -> Node | None:
        if event.administration is None:
            self._fleet.administrations.pop(event.node_id, None)
        else:
            self._fleet.administrations[event.node_id] = event.administration
        node = self._fleet.node(event.node_id)
        if node is not None:
            self._fleet.replace_report(
                node, replace(node.report, administration=event.administration or administration.DEFAULT), event.at
            )
        return node

    def _apply_changes(self, node_id: NodeId, changes: Mapping[ModelName, ModelInfo | None], now: float) -> Node | None:
        """Applies what the node's engine has confirmed: the models that it now has, and those that are gone (None)."""
        node = self._fleet.node(node_id)
        if node is None:
            return None
        known = self._changes.setdefault(node_id, {})
        for model, model_info in changes.items():
            was_loaded = node.is_loaded(model) or model in node.loading_until
            known[model] = ConfirmedChange(model_info, was_loaded and model_info is not None and not model_info.loaded)
            node.loading_until.pop(model, None)
        self._fleet.changes.note(node_id)
        windows = _windows_of(node)
        self._fleet.replace_report(node, replace(node.report, models=_merged(node.report.models, changes)), now)
        self._forecast.apply_heartbeat(node, windows, is_new_boot=False)
        return node

    def apply_silence(self, event: EngineSilent, _out: list[Command]) -> None:
        """Records what the coordinator itself has noticed of an engine, until the node's next heartbeat."""
        node = self._fleet.node(event.node_id)
        if node is None:
            return
        since_report_s = event.at - node.last_heartbeat_at
        at_report_s = max(SILENCE_MIN_S, event.silent_s - since_report_s) if event.silent_s else 0.0
        self._fleet.replace_report(node, _with_silence(node.report, event.url, at_report_s), event.at)

    def forget(self, node_id: NodeId) -> None:
        self._changes.pop(node_id, None)

    def _with_changes(self, report: Report, known: Node | None) -> Report:
        """The report with the changes that it does not contain yet, because it may have been taken before them."""
        changes = self._changes.get(report.node_id)
        if not changes:
            return report
        if not report.connection_failures:
            # With failures it repeats an older inventory, and shows nothing of what happened since.
            for change in changes.values():
                change.heartbeats += 1
        newer = {model: change for model, change in changes.items() if change.heartbeats <= OLDER_HEARTBEATS_MAX}
        if newer:
            self._changes[report.node_id] = newer
        else:
            del self._changes[report.node_id]
        missing = {
            model: change.model_info
            for model, change in newer.items()
            if not _is_shown(change, report.models.get(model), known is not None and model in known.loading_until)
        }
        return replace(report, models=_merged(report.models, missing)) if missing else report


def _with_silence(report: Report, url: str, silent_s: float) -> Report:
    """The report with this silence of the engine at this URL."""
    models = {
        name: replace(info, engine=replace(info.engine, silent_s=silent_s)) if info.engine.url == url else info
        for name, info in report.models.items()
    }
    engines = tuple(replace(one, silent_s=silent_s) if one.url == url else one for one in report.engines)
    return replace(report, models=models, engines=engines)


def _is_frozen(report: Report) -> bool:
    return any(endpoint.silent_s for endpoint in report.engines)


def _is_shown(change: ConfirmedChange, reported: ModelInfo | None, is_loading: bool) -> bool:
    """Whether the report contains the change. A model that is loaded may have been loaded since, by a request."""
    wanted = change.model_info
    if wanted is None or reported is None:
        return wanted is reported
    is_same_file = wanted.digest == reported.digest
    return is_same_file and (not change.is_unload or reported.loaded is None or is_loading)


def _merged(
    models: Mapping[ModelName, ModelInfo], changes: Mapping[ModelName, ModelInfo | None]
) -> dict[ModelName, ModelInfo]:
    kept = {model: model_info for model, model_info in models.items() if model not in changes}
    return kept | {model: model_info for model, model_info in changes.items() if model_info is not None}


def _windows_of(node: Node | None) -> dict[ModelName, int | None]:
    return {model: loaded.window_tokens for model, loaded in node.loaded.items()} if node is not None else {}
