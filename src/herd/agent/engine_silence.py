"""Tells from unanswered probes whether an engine is frozen: it accepts connections, but answers nothing.

A probe is a cheap request on a connection of its own. Any answer, however late, shows that the engine runs; a refused
connection shows that it has ended, which other checks notice. Time in which the agent itself did not run is left out,
because a machine that swaps or sleeps delays both.
"""

from __future__ import annotations

from dataclasses import dataclass

PROBE_EVERY_S = 1.0
SILENT_AFTER_S = 5.0
"""Server processes answer their version within milliseconds while they load, read prompts and generate; with all cores
busy, within a second."""
OPEN_PROBES_MAX = 6
LAG_MIN_S = 0.5
"""A probe that starts later than planned by more than this shows that the agent itself was delayed."""


@dataclass(slots=True)
class EngineSilence:
    """The probes of one engine. Times are seconds on the agent's monotonic clock."""

    unanswered_since: float | None = None
    """When the first probe since the last answer was sent."""
    open_probes: int = 0

    def may_probe(self, now: float) -> bool:
        """A frozen engine gets one probe at a time: its kernel answers nothing, and keeps each connection."""
        return self.open_probes < (1 if self.silent_s(now) else OPEN_PROBES_MAX)

    def probe_sent(self, now: float) -> None:
        self.open_probes += 1
        if self.unanswered_since is None:
            self.unanswered_since = now

    def probe_ended(self, has_answer: bool) -> None:
        self.open_probes -= 1
        if has_answer:
            self.unanswered_since = None

    def agent_was_delayed(self, lag_s: float) -> None:
        if self.unanswered_since is not None and lag_s > LAG_MIN_S:
            self.unanswered_since += lag_s

    def silent_s(self, now: float) -> float:
        """Seconds without an answer; 0 while that may be normal."""
        silent_s = 0.0 if self.unanswered_since is None else now - self.unanswered_since
        return silent_s if silent_s >= SILENT_AFTER_S else 0.0
