"""Models one loaded model on one node: its slots, its prompt cache, and the progress of its requests.

Prompts are processed one after the other in blocks; meanwhile every decoding stream gets one token per block, as in
llama.cpp's batches. Between events all rates are constant, so work advances in one step (fluid sharing).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from sim.hardware import Speeds
from sim.requests import SimRequest

BLOCK_TOKENS = 128
"""Tokens of one prefix hash."""
PREFILL_BLOCK = 512
"""Prompt tokens in one batch (Ollama's num_batch)."""
SIMILARITY_MIN = 0.1
"""Least share of the prompt that a slot's cache must hold to be preferred over the least recently used slot."""
RESTORE_FACTOR = 15.0
"""How many times faster it is to restore a prompt from main memory than to process it again."""
TINY = 1e-6


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One attempt inside the engine. `left` counts the remaining tokens of the present phase."""

    request: SimRequest
    attempt: int
    arrived_at: float
    ready_at: float = 0.0
    """When its model was loaded and it was first in the engine's queue."""
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


@dataclass(slots=True, eq=False, kw_only=True)
class Runner:
    speeds: Speeds
    window_tokens: int
    size_bytes: int
    slots: list[Slot]
    cache_entries: int
    is_pinned: bool = False
    idle_since: float = 0.0
    waiting: deque[Run] = field(default_factory=deque)
    prefilling: deque[Run] = field(default_factory=deque)
    decoding: list[Run] = field(default_factory=list)
    cache: OrderedDict[tuple[int, ...], None] = field(default_factory=OrderedDict)
    hit_tokens: int = 0
    prompt_rate: float = 0.0
    token_rate: float = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.prefilling or self.decoding or self.waiting)

    def admit(self, run: Run, now: float) -> None:
        """Gives the run a slot of this runner, or queues it."""
        run.ready_at = now
        self.waiting.append(run)
        self.fill(now)

    def fill(self, now: float) -> None:
        while self.waiting:
            free = [slot for slot in self.slots if slot.run is None]
            if not free:
                return
            self._begin(self.waiting.popleft(), free, now)

    def _begin(self, run: Run, free: list[Slot], now: float) -> None:
        request = run.request
        slot, shared = min(free, key=lambda slot: slot.used_at), 0
        if request.blocks:
            slot, shared = self._best(free, slot, request)
        cached = min(shared * BLOCK_TOKENS, max(0, request.prompt_tokens - 1))
        restored_s = 0.0
        if request.blocks:
            saved = max((_common(request.blocks, other) for other in self.cache), default=0)
            if saved > shared:
                cached = min(saved * BLOCK_TOKENS, max(0, request.prompt_tokens - 1))
                restored_s = cached / self.speeds.prompt_per_s / RESTORE_FACTOR
            self._save(slot.blocks, request.blocks)
        slot.blocks, slot.run, slot.used_at = request.blocks, run, now
        run.slot, run.began_at, run.cached_tokens = slot, now, cached
        self.hit_tokens += cached
        uncached = max(1, request.prompt_tokens - cached)
        depth = cached + uncached / 2
        run.prompt_per_s = self.speeds.prompt_per_s / (1.0 + depth / self.speeds.prompt_depth)
        run.left = uncached + restored_s * run.prompt_per_s
        self.prefilling.append(run)

    @staticmethod
    def _best(free: list[Slot], oldest: Slot, request: SimRequest) -> tuple[Slot, int]:
        """The slot with the longest common prefix, if it is long enough; else the least recently used slot."""
        best, shared = oldest, 0
        for slot in free:
            common = _common(request.blocks, slot.blocks)
            if common > shared:
                best, shared = slot, common
        if shared * BLOCK_TOKENS < SIMILARITY_MIN * request.prompt_tokens:
            return oldest, _common(request.blocks, oldest.blocks)
        return best, shared

    def _save(self, blocks: tuple[int, ...], following: tuple[int, ...]) -> None:
        """Moves the content of a slot to main memory, unless the new prompt extends it."""
        if not blocks or not self.cache_entries or following[: len(blocks)] == blocks:
            return
        self.cache.pop(blocks, None)
        self.cache[blocks] = None
        while len(self.cache) > self.cache_entries:
            self.cache.popitem(last=False)

    def set_rates(self, share: float) -> None:
        """Sets the tokens per second of the current prefill and of every stream, with `share` of the machine's
        speed."""
        self.prompt_rate = self.token_rate = 0.0
        step_s = 0.0
        if self.decoding:
            depth = sum(run.request.prompt_tokens for run in self.decoding) / len(self.decoding)
            step_s = (
                self.speeds.step_s * self.speeds.batch(len(self.decoding)) * (1.0 + depth / self.speeds.decode_depth)
            )
        if self.prefilling:
            block_s = PREFILL_BLOCK / self.prefilling[0].prompt_per_s
            period_s = (block_s + step_s) / share
            self.prompt_rate = PREFILL_BLOCK / period_s
            self.token_rate = 1.0 / period_s if self.decoding else 0.0
        elif self.decoding:
            self.token_rate = share / step_s

    def next_s(self) -> float:
        """Seconds until the next phase ends, at the present rates."""
        soonest = float("inf")
        if self.prefilling:
            soonest = self.prefilling[0].left / self.prompt_rate
        if self.decoding:
            soonest = min(soonest, min(run.left for run in self.decoding) / self.token_rate)
        return max(0.0, soonest)

    def advance(self, seconds: float) -> None:
        if self.prefilling:
            self.prefilling[0].left -= seconds * self.prompt_rate
        if self.decoding:
            written = seconds * self.token_rate
            for run in self.decoding:
                run.left -= written

    def ended(self, now: float) -> tuple[list[Run], list[Run]]:
        """The runs whose first token was produced now, and the runs that ended. Free slots go to waiting runs."""
        begun: list[Run] = []
        done = [run for run in self.decoding if run.left <= TINY]
        if done:
            self.decoding = [run for run in self.decoding if run.left > TINY]
        while self.prefilling and self.prefilling[0].left <= TINY:
            run = self.prefilling.popleft()
            run.first_at, run.is_decoding, run.left = (
                now,
                True,
                0.0 if run.request.is_embedding else float(run.request.output_tokens - 1),
            )
            begun.append(run)
            (done if run.left <= 0 else self.decoding).append(run)
        for run in done:
            self._release(run, now)
        if done:
            self.fill(now)
        return begun, done

    def cancel(self, run: Run, now: float) -> None:
        if run in self.waiting:
            self.waiting.remove(run)
        elif run in self.prefilling:
            self.prefilling.remove(run)
            self._release(run, now)
        elif run in self.decoding:
            self.decoding.remove(run)
            self._release(run, now)
        self.fill(now)

    def _release(self, run: Run, now: float) -> None:
        assert run.slot is not None
        run.slot.run, run.slot.used_at = None, now
        self.idle_since = now


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The number of leading blocks that are equal; hashes are chained, so a bisection finds it."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
