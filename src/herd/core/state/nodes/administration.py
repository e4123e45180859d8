"""Defines what an administrator has set for one node; it applies whatever the node reports."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum

from herd.core.state.nodes.budget import NO_BUDGET, Budget


class Duty(Enum):
    """Whether a node may get new requests. Running requests always finish.

    A PAUSED node stays ready: other nodes may copy its models. A DRAINING node is about to be switched off: nothing new
    may depend on it.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Administration:
    """`by` and `since_unix_s`: who has set the duty, and when, in Unix seconds."""

    duty: Duty = Duty.ACTIVE
    reason: str = ""
    by: str = ""
    since_unix_s: float = 0.0
    labels: frozenset[str] = frozenset()
    budget: Budget = NO_BUDGET

    @property
    def is_active(self) -> bool:
        return self.duty is Duty.ACTIVE

    def why(self, node_id: str) -> str:
        """Why the node gets no requests, and the command that changes that; for people."""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.duty.value} by {self.by}{reason}; to end this run: herd nodes resume {shlex.quote(node_id)}"


DEFAULT = Administration()
"""Of a node for which nothing is set."""
