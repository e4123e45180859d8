"""Remembers of each node which models were unloaded a short time ago, and which loads it has still to report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.core.state.fleet import Node, Report

WARM_FOR_S = 1800.0
"""How long an unloaded model is probably still in the page cache (compatibility: "unloaded within 30 min")."""

LOAD_OVERDUE_S = 30.0
"""A load has probably failed if no heartbeat shows it this long after its expected end."""


def remember_unloaded(node: Node, report: Report, now: float) -> None:
    """Compares a new report with the node's last one: which models were unloaded, and which loads have ended."""
    if report.boot_id != node.report.boot_id:
        node.unloaded_at.clear()
        node.loading_until.clear()
    for model, model_info in node.report.models.items():
        newer = report.models.get(model)
        if model_info.loaded is not None and (newer is None or newer.loaded is None):
            node.unloaded_at[model] = now
        elif newer is not None and newer.loaded is not None:
            node.unloaded_at.pop(model, None)
            node.loading_until.pop(model, None)
    for model in [m for m, since in node.unloaded_at.items() if now - since > WARM_FOR_S]:
        del node.unloaded_at[model]
    for model in [m for m, until in node.loading_until.items() if now - until > LOAD_OVERDUE_S]:
        del node.loading_until[model]
