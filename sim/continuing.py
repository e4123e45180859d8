"""Continues the stream of a lost node on another one, with the product's rule and at its real cost.

The coordinator notices a reset connection at once, and silence when it exceeds what the stream's pace explains. The
other node processes the prompt and what was written, and writes the rest.
"""

from __future__ import annotations

from dataclasses import replace

from herd.core.state.commands import Dispatch
from herd.core.state.request import Failure, FailureKind
from sim.requests import SimRequest
from sim.runner import Run

STALL_TIMEOUT_S = 120.0
"""The relay's default timeout for silence in the middle of an answer."""
RESET_S = 0.001
ENGINE_KINDS = frozenset({"ollama"})
"""The kinds of engines of all simulated nodes; they can continue an answer."""


class Continuations:
    def __init__(self) -> None:
        self._written_tokens: dict[str, int] = {}
        """By request: what earlier nodes have written of its answer."""
        self._pace_s: dict[str, float] = {}
        """By request: the silence that is normal for its present attempt; 0 if any is."""

    def request_for(self, command: Dispatch, request: SimRequest) -> SimRequest:
        """What the node of this attempt has to do."""
        self._pace_s[request.id] = command.pace_s
        written = self._written_tokens.get(request.id, 0)
        if not written:
            return request
        return replace(
            request, prompt_tokens=request.prompt_tokens + written, output_tokens=request.output_tokens - written
        )

    def lost(self, run: Run, is_hanging: bool) -> tuple[Failure, float] | None:
        """How the stream of a lost node fails, and after how many seconds.

        None for a request without a first token on a node that does not answer: the core notices that itself.
        """
        if run.first_at is None:
            return None if is_hanging else (Failure(kind=FailureKind.RESET), RESET_S)
        request_id = run.request.id
        # The first token and every complete one after it; the last one is never among them.
        written = max(1, min(run.request.output_tokens - 1, int(run.request.output_tokens - run.left)))
        self._written_tokens[request_id] = self._written_tokens.get(request_id, 0) + written
        pace_s = self._pace_s.get(request_id, 0.0)
        kind = FailureKind.RESET if not is_hanging else FailureKind.FROZEN if pace_s else FailureKind.STALLED
        failure = Failure(kind=kind, bytes_forwarded=100, continuation_kinds=ENGINE_KINDS)
        return failure, (pace_s or STALL_TIMEOUT_S) if is_hanging else RESET_S

    def forget(self, request_id: str) -> None:
        self._written_tokens.pop(request_id, None)
        self._pace_s.pop(request_id, None)
