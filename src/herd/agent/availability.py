"""How much of this machine its owner can spare at this hour, learnt from past weeks. Reads no clock, sensor or file.

A week has 168 slots, one an hour. A slot keeps averages of how busy the machine was, in which old weeks fade with a
half-life of 15 days. Past, present and direction together make a score from 0 to 1, and the score a memory ceiling
(the public numbers of capacity learning). What our own engines do is never held against the owner: while they work,
nothing is learnt. All times are unix seconds, all shares 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from herd.core.state.fleet import GB, Capacity

SLOTS = 168
HALF_LIFE_S = 15 * 86400.0
OBSERVE_DAYS = 7
"""So long it only watches and lends nothing."""
CONFIDENT_DAYS = 30.0
SLOT_FULL_S = 3600.0
"""A slot that was watched for so long, old weeks faded, speaks with its whole voice; a thinner one leaves more to the present."""
SAMPLE_MAX_S = 60.0
"""A sample stands for the time since the last one, but for no more than this: after a sleep nobody watched."""

HISTORY_WEIGHT = 0.4
NOW_WEIGHT = 0.4
TREND_WEIGHT = 0.2

ROOMY_SHARE = 0.25
"""With this much of the memory available, memory is no reason to hold back."""
FAST_S = 60.0
SLOW_S = 300.0
TREND_STEP = 0.05
"""A difference between the last minute and the last five that is more than noise."""
TREND_FULL = 0.2

BUSY_CPU = 0.85
BUSY_FOR_S = 120.0
BUSY_CEILING_BYTES = 16 * GB
FULL_SHARE = 0.8
STATE_MAX_BYTES = 64 * 1024 * 1024
"""The existing product keeps every sample of a month in this file; ours takes a few kilobytes."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """From `score` up, models may take `share` of the memory, at most `limit_bytes`."""

    score: float
    mode: str
    share: float
    limit_bytes: float


CEILINGS = (
    Ceiling(0.8, "full", FULL_SHARE, math.inf),
    Ceiling(0.6, "learned_high", 0.5, 64.0 * GB),
    Ceiling(0.4, "learned_medium", 0.25, 32.0 * GB),
    Ceiling(0.2, "learned_low", 0.125, 16.0 * GB),
)


@dataclass(frozen=True, slots=True)
class UsageSample:
    """The machine at one moment: `hour_of_week` is local, 0 is Monday from 0 to 1 o'clock.

    `is_ours` says that our own engines are working, which hides what the owner does.
    """

    at: float
    hour_of_week: int
    cpu: float
    memory_available: float
    is_ours: bool = False
    in_meeting: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """What the owner said, which wins over everything learnt until `until`."""

    mode: Literal["full", "paused"]
    until: float


@dataclass(slots=True)
class Slot:
    """One hour of the week: `watched_s` seconds, faded to the time `at`, in which the averages held."""

    watched_s: float = 0.0
    cpu: float = 0.0
    memory_available: float = 1.0
    at: float = 0.0

    def watched_at(self, at: float) -> float:
        return self.watched_s * math.pow(0.5, max(0.0, at - self.at) / HALF_LIFE_S)

    def add(self, sample: UsageSample, lasted_s: float) -> None:
        old_s = self.watched_at(sample.at)
        whole_s = old_s + lasted_s
        if whole_s <= 0.0:
            return
        self.cpu = (self.cpu * old_s + sample.cpu * lasted_s) / whole_s
        self.memory_available = (self.memory_available * old_s + sample.memory_available * lasted_s) / whole_s
        self.watched_s, self.at = whole_s, max(self.at, sample.at)


def freedom(cpu: float, memory_available: float) -> float:
    """How free a machine is, 0..1: the idle share of its processor, less when memory gets short."""
    return (1.0 - _share(cpu)) * min(1.0, _share(memory_available) / ROOMY_SHARE)


@dataclass(slots=True)
class AvailabilityLearner:
    """What is known of one machine. `observe` learns a moment, `capacity` says what to lend."""

    slots: list[Slot] = field(default_factory=lambda: [Slot() for _ in range(SLOTS)])
    first_at: float | None = None
    override: Override | None = None
    _last: UsageSample | None = None
    _fast: float | None = None
    _slow: float = 1.0
    _busy_since: float | None = None

    def observe(self, sample: UsageSample) -> None:
        """Takes a moment in. Order matters; a clock that jumps back counts as no time passed."""
        if self.first_at is None or sample.at < self.first_at:
            self.first_at = sample.at
        last, self._last = self._last, sample
        if sample.is_ours:
            self._busy_since = None
            return
        lasted_s = min(SAMPLE_MAX_S, max(0.0, sample.at - last.at)) if last is not None else 0.0
        self.slots[sample.hour_of_week % SLOTS].add(sample, lasted_s)
        self._follow(freedom(sample.cpu, sample.memory_available), lasted_s)
        if sample.cpu <= BUSY_CPU:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = sample.at

    def capacity(self, total_bytes: int) -> Capacity:
        """What to lend at the moment last observed, of a memory of this size."""
        sample = self._last
        if sample is None:
            return Capacity("bootstrap", 0, 0.0, reason="bootstrap_observation_period", paused=True)
        if self.override is not None and sample.at < self.override.until:
            is_full = self.override.mode == "full"
            return self._said(
                self.override.mode,
                int(total_bytes * FULL_SHARE) if is_full else 0,
                float(is_full),
                "manual_override",
                True,
            )
        if sample.in_meeting:
            return self._said("paused", 0, 0.0, "meeting_detected", True)
        if self.days_observed < OBSERVE_DAYS:
            return self._said("bootstrap", 0, 0.0, "bootstrap_observation_period")
        score = self.score(sample)
        mode, ceiling_bytes = ceiling(score, total_bytes)
        if self._busy_since is not None and sample.at - self._busy_since >= BUSY_FOR_S:
            capped = min(ceiling_bytes, BUSY_CEILING_BYTES)
            return self._said(
                "learned_low" if capped else "paused", capped, min(score, 0.2), "sustained_high_cpu", True
            )
        return self._said(mode, ceiling_bytes, score, _reason(score))

    def score(self, sample: UsageSample) -> float:
        """0.4 history + 0.4 now + 0.2 trend; what a thin slot cannot say goes to now."""
        slot = self.slots[sample.hour_of_week % SLOTS]
        history_weight = HISTORY_WEIGHT * min(1.0, slot.watched_at(sample.at) / SLOT_FULL_S)
        # While our engines work, the present cannot be seen; the last sight of it stands.
        now = self._fast if sample.is_ours and self._fast is not None else freedom(sample.cpu, sample.memory_available)
        history = freedom(slot.cpu, slot.memory_available)
        direction = _share(0.5 + self._change / TREND_FULL / 2.0)
        now_weight = NOW_WEIGHT + HISTORY_WEIGHT - history_weight
        return _share(history_weight * history + now_weight * now + TREND_WEIGHT * direction)

    @property
    def trend(self) -> str:
        if self._change > TREND_STEP:
            return "rising"
        return "falling" if self._change < -TREND_STEP else "stable"

    @property
    def days_observed(self) -> int:
        if self.first_at is None or self._last is None:
            return 0
        return int((self._last.at - self.first_at) / 86400.0)

    @property
    def confidence(self) -> float:
        """0.6 for the days it watched, 0.4 for how full the week's slots are."""
        if self._last is None:
            return 0.0
        full = sum(min(1.0, slot.watched_at(self._last.at) / SLOT_FULL_S) for slot in self.slots) / SLOTS
        return 0.6 * min(1.0, self.days_observed / CONFIDENT_DAYS) + 0.4 * full

    @property
    def week(self) -> tuple[float | None, ...]:
        """How free each hour of the week was, to the percent; None for hours not watched yet."""
        return tuple(
            round(freedom(slot.cpu, slot.memory_available), 2) if slot.watched_s > 0.0 else None for slot in self.slots
        )

    @property
    def _change(self) -> float:
        return 0.0 if self._fast is None else self._fast - self._slow

    def _follow(self, free: float, lasted_s: float) -> None:
        """Two running means; the difference between them is the direction."""
        if self._fast is None:
            self._fast = self._slow = free
            return
        self._fast += (free - self._fast) * (1.0 - math.exp(-lasted_s / FAST_S))
        self._slow += (free - self._slow) * (1.0 - math.exp(-lasted_s / SLOW_S))

    def _said(
        self, mode: str, ceiling_bytes: int, score: float, reason: str, override_active: bool = False
    ) -> Capacity:
        return Capacity(
            mode,
            ceiling_bytes,
            score,
            self.trend,
            reason,
            paused=ceiling_bytes <= 0,
            override_active=override_active,
            learning_confidence=self.confidence,
            days_observed=self.days_observed,
            week=self.week,
        )


def ceiling(score: float, total_bytes: int) -> tuple[str, int]:
    """The mode and the bytes that a score lends of a memory of this size."""
    for step in CEILINGS:
        if score >= step.score:
            return step.mode, int(min(total_bytes * step.share, step.limit_bytes))
    return "paused", 0


def _reason(score: float) -> str:
    words = (
        (0.8, "high_availability"),
        (0.6, "good_availability"),
        (0.4, "moderate_availability"),
        (0.2, "low_availability"),
    )
    return next((word for limit, word in words if score >= limit), "currently_busy")


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


# --- what is kept between runs ---


class _SeenJson(msgspec.Struct):
    """A sample as the existing product keeps it; percentages."""

    ts: float
    cpu: float
    mem: float


class _SlotJson(msgspec.Struct, omit_defaults=True):
    watched_s: float = 0.0
    cpu: float = 0.0
    memory_available: float = 1.0
    at: float = 0.0
    observations: list[_SeenJson] = []


class _OverrideJson(msgspec.Struct):
    mode: Literal["full", "paused"]
    expires: float


class _StateJson(msgspec.Struct):
    slots: list[_SlotJson]
    first_observation: float | None = None
    manual_override: _OverrideJson | None = None


def encode(learner: AvailabilityLearner) -> bytes:
    """The state to keep in `capacity-learner-{node-id}.json`."""
    override = learner.override
    return msgspec.json.encode(
        _StateJson(
            [_SlotJson(slot.watched_s, slot.cpu, slot.memory_available, slot.at) for slot in learner.slots],
            learner.first_at,
            _OverrideJson(override.mode, override.until) if override is not None else None,
        )
    )


def decode(body: bytes) -> AvailabilityLearner:
    """A learner from kept state, ours or the existing product's. Raises `ValueError` when it is neither."""
    if len(body) > STATE_MAX_BYTES:
        raise ValueError(f"the state is larger than {STATE_MAX_BYTES} bytes")
    try:
        state = msgspec.json.decode(body, type=_StateJson)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the state cannot be read: {error}") from None
    if len(state.slots) != SLOTS:
        raise ValueError(f"the state has {len(state.slots)} slots instead of {SLOTS}")
    override = state.manual_override
    return AvailabilityLearner(
        [_slot(kept) for kept in state.slots],
        state.first_observation,
        Override(override.mode, override.expires) if override is not None else None,
    )


def _slot(kept: _SlotJson) -> Slot:
    numbers = (kept.watched_s, kept.cpu, kept.memory_available, kept.at)
    if not all(math.isfinite(number) for number in numbers) or kept.watched_s < 0.0:
        raise ValueError("the state has numbers that make no sense")
    slot = Slot(kept.watched_s, _share(kept.cpu), _share(kept.memory_available), kept.at)
    last_at: float | None = None
    for seen in sorted(kept.observations, key=lambda one: one.ts):
        lasted_s = min(SAMPLE_MAX_S, seen.ts - last_at) if last_at is not None else 0.0
        slot.add(UsageSample(seen.ts, 0, _share(seen.cpu / 100.0), _share(1.0 - seen.mem / 100.0)), lasted_s)
        last_at = seen.ts
    return slot
