"""Rejects a node that lacks a label which the request, or its API key, requires."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.nodes.labels import lacking, listed
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    if not request.labels:
        return None
    missing = lacking(request.labels, candidate.report.all_labels)
    return f"lacks {listed(missing)}" if missing else None


FILTER = Filter("labels", rejection_reason, is_temporary=False)
