"""Rejects a node that went offline repeatedly, until it has been online for long enough.

The rejection is soft: if no other node is left, such a node gets one request at a time.
"""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.liveness import HEARTBEATS_TO_TRUST, RETURNS_ALLOWED
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    node, now = candidate.node, candidate.at
    if node.returns <= RETURNS_ALLOWED:
        return None
    if node.untrusted_until > now:
        return f"went offline {node.returns} times recently, gets requests again in {node.untrusted_until - now:.0f} s"
    if node.heartbeats_since_return < HEARTBEATS_TO_TRUST:
        return f"back online, {HEARTBEATS_TO_TRUST - node.heartbeats_since_return} more heartbeats needed"
    return None


FILTER = Filter("returning", rejection_reason, is_soft=True)
