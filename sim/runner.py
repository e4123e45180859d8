"""One model in memory on one node: its slots, its prompt cache, and work that flows. Knows no other model and no coordinator.

Prompts are read one after the other in blocks; while one is read, every stream gets one token per block, as in
llama.cpp's batches. Between events all rates are constant, so work is advanced in one step (fluid sharing).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from sim.asks import SimRequest
from sim.hardware import Speeds

BLOCK_TOKENS = 128
"""Granularity of prefix hashes."""
PREFILL_BLOCK = 512
"""Prompt tokens in one batch (Ollama's num_batch)."""
SIMILARITY_MIN = 0.1
"""A slot is taken for its cache if it holds at least this share of the prompt, else the slot not used for longest."""
RESTORE_FACTOR = 15.0
"""Bringing a prompt back from main memory is so much faster than reading it."""
TINY = 1e-6


@dataclass(slots=True, eq=False)
class Run:
    """One attempt inside the engine. `left` counts tokens of the present phase."""

    ask: SimRequest
    attempt: int
    arrived_at: float
    ready_at: float = 0.0
    """When its model was in memory and nothing stood before it in the engine's line."""
    began_at: float = 0.0
    first_at: float | None = None
    left: float = 0.0
    cached_tokens: int = 0
    prompt_per_s: float = 0.0
    is_decoding: bool = False
    slot: Slot | None = None


@dataclass(slots=True, eq=False)
class Slot:
    blocks: tuple[int, ...] = ()
    used_at: float = -1.0
    run: Run | None = None


@dataclass(slots=True, eq=False)
class Runner:
    speeds: Speeds
    window_tokens: int
    size_bytes: int
    slots: list[Slot]
    cache_entries: int
    is_pinned: bool = False
    idle_since: float = 0.0
    waiting: deque[Run] = field(default_factory=deque)
    reading: deque[Run] = field(default_factory=deque)
    writing: list[Run] = field(default_factory=list)
    cache: OrderedDict[tuple[int, ...], None] = field(default_factory=OrderedDict)
    hit_tokens: int = 0
    prompt_rate: float = 0.0
    token_rate: float = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.reading or self.writing or self.waiting)

    def admit(self, run: Run, at: float) -> None:
        """It waits for a slot of this runner, or gets one."""
        run.ready_at = at
        self.waiting.append(run)
        self.fill(at)

    def fill(self, at: float) -> None:
        while self.waiting:
            free = [slot for slot in self.slots if slot.run is None]
            if not free:
                return
            self._begin(self.waiting.popleft(), free, at)

    def _begin(self, run: Run, free: list[Slot], at: float) -> None:
        ask = run.ask
        slot, shared = min(free, key=lambda one: one.used_at), 0
        if ask.blocks:
            slot, shared = self._best(free, slot, ask)
        cached = min(shared * BLOCK_TOKENS, max(0, ask.prompt_tokens - 1))
        restored_s = 0.0
        if ask.blocks:
            kept = max((_common(ask.blocks, other) for other in self.cache), default=0)
            if kept > shared:
                cached = min(kept * BLOCK_TOKENS, max(0, ask.prompt_tokens - 1))
                restored_s = cached / self.speeds.prompt_per_s / RESTORE_FACTOR
            self._keep(slot.blocks, ask.blocks)
        slot.blocks, slot.run, slot.used_at = ask.blocks, run, at
        run.slot, run.began_at, run.cached_tokens = slot, at, cached
        self.hit_tokens += cached
        uncached = max(1, ask.prompt_tokens - cached)
        depth = cached + uncached / 2
        run.prompt_per_s = self.speeds.prompt_per_s / (1.0 + depth / self.speeds.prompt_depth)
        run.left = uncached + restored_s * run.prompt_per_s
        self.reading.append(run)

    @staticmethod
    def _best(free: list[Slot], oldest: Slot, ask: SimRequest) -> tuple[Slot, int]:
        """The slot with the longest common beginning, if that is worth anything; else the one not used for longest."""
        best, shared = oldest, 0
        for slot in free:
            common = _common(ask.blocks, slot.blocks)
            if common > shared:
                best, shared = slot, common
        if shared * BLOCK_TOKENS < SIMILARITY_MIN * ask.prompt_tokens:
            return oldest, _common(ask.blocks, oldest.blocks)
        return best, shared

    def _keep(self, blocks: tuple[int, ...], following: tuple[int, ...]) -> None:
        """What a slot held goes to main memory, unless the new prompt goes on from it."""
        if not blocks or not self.cache_entries or following[: len(blocks)] == blocks:
            return
        self.cache.pop(blocks, None)
        self.cache[blocks] = None
        while len(self.cache) > self.cache_entries:
            self.cache.popitem(last=False)

    def set_rates(self, share: float) -> None:
        """Tokens per second of the prompt being read and of every stream, with `share` of the machine's speed."""
        self.prompt_rate = self.token_rate = 0.0
        step_s = 0.0
        if self.writing:
            depth = sum(run.ask.prompt_tokens for run in self.writing) / len(self.writing)
            step_s = (
                self.speeds.step_s * self.speeds.batch(len(self.writing)) * (1.0 + depth / self.speeds.decode_depth)
            )
        if self.reading:
            block_s = PREFILL_BLOCK / self.reading[0].prompt_per_s
            period_s = (block_s + step_s) / share
            self.prompt_rate = PREFILL_BLOCK / period_s
            self.token_rate = 1.0 / period_s if self.writing else 0.0
        elif self.writing:
            self.token_rate = share / step_s

    def next_s(self) -> float:
        """Seconds until something ends at the present rates."""
        soonest = float("inf")
        if self.reading:
            soonest = self.reading[0].left / self.prompt_rate
        if self.writing:
            soonest = min(soonest, min(run.left for run in self.writing) / self.token_rate)
        return max(0.0, soonest)

    def advance(self, seconds: float) -> None:
        if self.reading:
            self.reading[0].left -= seconds * self.prompt_rate
        if self.writing:
            written = seconds * self.token_rate
            for run in self.writing:
                run.left -= written

    def ended(self, at: float) -> tuple[list[Run], list[Run]]:
        """Who wrote the first token now, and who is done. Slots become free and are given to who waits."""
        begun: list[Run] = []
        done = [run for run in self.writing if run.left <= TINY]
        if done:
            self.writing = [run for run in self.writing if run.left > TINY]
        while self.reading and self.reading[0].left <= TINY:
            run = self.reading.popleft()
            run.first_at, run.is_decoding, run.left = (
                at,
                True,
                0.0 if run.ask.is_embedding else float(run.ask.output_tokens - 1),
            )
            begun.append(run)
            (done if run.left <= 0 else self.writing).append(run)
        for run in done:
            self._release(run, at)
        if done:
            self.fill(at)
        return begun, done

    def cancel(self, run: Run, at: float) -> None:
        if run in self.waiting:
            self.waiting.remove(run)
        elif run in self.reading:
            self.reading.remove(run)
            self._release(run, at)
        elif run in self.writing:
            self.writing.remove(run)
            self._release(run, at)
        self.fill(at)

    def _release(self, run: Run, at: float) -> None:
        assert run.slot is not None
        run.slot.run, run.slot.used_at = None, at
        self.idle_since = at


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many leading blocks agree; hashes are chained, so a bisection finds it."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
