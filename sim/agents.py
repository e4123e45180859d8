"""Models coding agents in a closed loop: each reads the answer, pauses, and sends the next turn.

A session starts with one of three shared system prompts. Tool results and answers make it longer, until its context
window or its number of turns is used up; then the same agent starts a new session. Lengths come from a part of a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from sim.hardware import Model
from sim.requests import SimRequest
from sim.runner import BLOCK_TOKENS
from sim.traces import Row
from sim.workload import estimated

SYSTEM_TOKENS = (2048, 3072, 6144)
"""Lengths of the shared system prompts, one for each kind of agent."""
TURNS = (6, 24)
"""Range of the number of turns in a session (uniform distribution)."""
GROWTH_MAX = 3000
"""Most tokens that one tool result adds."""
OUTPUT_MAX = 1500


@dataclass(slots=True)
class _Session:
    kind: int
    blocks: tuple[int, ...]
    tokens: int
    turns_left: int


@dataclass(slots=True, kw_only=True)
class Agents:
    """`first` returns the first requests; `after` returns the request that follows an answer, until `count_max` were
    sent."""

    agents: int
    count_max: int
    think_s: float
    model: Model
    window: int
    lengths: Sequence[Row]
    rng: Random
    _sessions: dict[int, _Session] = field(default_factory=dict)
    _sent: int = 0
    _serial: int = 10_000_000

    def first(self) -> list[SimRequest]:
        requests = [self._turn(client, self.rng.random() * self.think_s * 2) for client in range(self.agents)]
        return sorted(requests, key=lambda request: request.at)

    def after(self, request: SimRequest, at: float) -> SimRequest | None:
        if self._sent >= self.count_max or request.client is None:
            return None
        return self._turn(request.client, at + self.rng.expovariate(1.0 / self.think_s))

    def _turn(self, client: int, at: float) -> SimRequest:
        session = self._sessions.get(client)
        row = self.lengths[self.rng.randrange(len(self.lengths))]
        added = min(GROWTH_MAX, row.prompt_tokens)
        output = min(OUTPUT_MAX, row.output_tokens)
        if session is None or session.turns_left <= 0 or session.tokens + added + output > self.window - 512:
            session = self._sessions[client] = self._begin()
        session.turns_left -= 1
        session.tokens += added
        self._grow(session)
        self._sent += 1
        request = SimRequest(
            id=f"a{self._sent}",
            at=at,
            model=self.model.name,
            prompt_tokens=session.tokens,
            output_tokens=output,
            estimate=estimated(session.tokens, self.rng),
            blocks=session.blocks,
            tag=f"agent-{session.kind}",
            client=client,
        )
        session.tokens += output  # the answer is part of the next prompt
        return request

    def _begin(self) -> _Session:
        kind = self.rng.randrange(len(SYSTEM_TOKENS))
        tokens = SYSTEM_TOKENS[kind]
        shared = tuple(-(1 + kind * 10_000 + i) for i in range(tokens // BLOCK_TOKENS))
        return _Session(kind, shared, tokens, self.rng.randint(*TURNS))

    def _grow(self, session: _Session) -> None:
        fresh = session.tokens // BLOCK_TOKENS - len(session.blocks)
        session.blocks = (*session.blocks, *range(self._serial, self._serial + fresh))
        self._serial += fresh
