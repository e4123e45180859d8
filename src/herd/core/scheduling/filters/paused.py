"""Rejects a node that is draining or paused: by an administrator, its agent, or its owner's habits."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    report = candidate.node.report
    if not report.administration.is_active:
        return report.administration.why(candidate.node.id)
    if report.draining:
        return "draining: the node accepts no new requests"
    if report.paused:
        return "paused by its owner"
    if report.capacity is not None and report.capacity.paused:
        return f"paused: {report.capacity.reason or 'its owner is using it'}"
    return None


FILTER = Filter("paused", rejection_reason)
