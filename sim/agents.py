"""Coding agents in a closed loop: each reads, thinks, asks again with a longer conversation. Chooses no node.

A session starts from one of a few system prompts that many share, and grows by what tools returned and what the model
answered, until it is full or done; then the same person starts another. Lengths come from a trace's window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from sim.asks import SimRequest
from sim.hardware import Model
from sim.mixing import estimated
from sim.runner import BLOCK_TOKENS
from sim.traces import Row

SYSTEM_TOKENS = (2048, 3072, 6144)
"""The shared beginnings: three kinds of agents."""
TURNS = (6, 24)
"""A session has so many turns, evenly spread."""
GROWTH_MAX = 3000
"""One tool result adds at most so many tokens."""
OUTPUT_MAX = 1500


@dataclass(slots=True)
class _Session:
    kind: int
    blocks: tuple[int, ...]
    tokens: int
    turns_left: int


@dataclass(slots=True)
class Agents:
    """`first()` are the asks that begin it all; `after` is what follows an answer, until `requests` were asked."""

    count: int
    requests: int
    think_s: float
    model: Model
    window: int
    lengths: Sequence[Row]
    rng: Random
    _sessions: dict[int, _Session] = field(default_factory=dict)
    _asked: int = 0
    _serial: int = 10_000_000

    def first(self) -> list[SimRequest]:
        asks = [self._turn(client, self.rng.random() * self.think_s * 2) for client in range(self.count)]
        return sorted(asks, key=lambda ask: ask.at)

    def after(self, ask: SimRequest, at: float) -> SimRequest | None:
        if self._asked >= self.requests or ask.client is None:
            return None
        return self._turn(ask.client, at + self.rng.expovariate(1.0 / self.think_s))

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
        self._asked += 1
        ask = SimRequest(
            f"a{self._asked}",
            at,
            self.model.name,
            session.tokens,
            output,
            estimated(session.tokens, self.rng),
            session.blocks,
            f"agent-{session.kind}",
            client=client,
        )
        session.tokens += output  # the answer is part of the next prompt
        return ask

    def _begin(self) -> _Session:
        kind = self.rng.randrange(len(SYSTEM_TOKENS))
        tokens = SYSTEM_TOKENS[kind]
        shared = tuple(-(1 + kind * 10_000 + i) for i in range(tokens // BLOCK_TOKENS))
        return _Session(kind, shared, tokens, self.rng.randint(*TURNS))

    def _grow(self, session: _Session) -> None:
        fresh = session.tokens // BLOCK_TOKENS - len(session.blocks)
        session.blocks = (*session.blocks, *range(self._serial, self._serial + fresh))
        self._serial += fresh
