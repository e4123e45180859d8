"""Estimates from past weeks how much of this machine is available to the fleet at each hour of the week.

A week has 168 slots, one for each hour. A slot stores average use, in which older weeks decay with a half-life of 15
days. History, present use and trend give an availability score from 0 to 1, and the score gives a memory ceiling (the
public numbers of capacity learning). While the fleet's own requests run, use is not recorded, because the local user
does not cause it. All times are unix seconds, all shares are from 0 to 1. Samples and times are arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from herd.core.state.fleet import GB, Capacity

SLOTS = 168
HALF_LIFE_S = 15 * 86400.0
OBSERVE_DAYS = 7
"""Days of observation before the machine becomes available."""
CONFIDENT_DAYS = 30.0
SLOT_FULL_S = 3600.0
"""A slot with this many observed seconds, after decay, has its full weight; with fewer, present use counts more."""
SET_BACK_S = 3600.0
SET_FORWARD_S = 3 * 86400.0
OFF_MAX_S = 365 * 86400.0
"""A clock that is further from the last sample was set, and no time has passed: a machine sleeps for a weekend, and is
switched off for months, but not for years."""
SAMPLE_MAX_S = 60.0
"""Maximum time that one sample accounts for: while the machine sleeps, there are no samples."""

HISTORY_WEIGHT = 0.4
NOW_WEIGHT = 0.4
TREND_WEIGHT = 0.2

ENOUGH_MEMORY_SHARE = 0.25
"""With this share of the memory available, memory does not lower the score."""
FAST_S = 60.0
SLOW_S = 300.0
TREND_STEP = 0.05
"""Minimum difference between the averages of one and five minutes that counts as a trend."""
TREND_FULL = 0.2

BUSY_CPU = 0.85
BUSY_FOR_S = 120.0
BUSY_CEILING_BYTES = 16 * GB
FULL_SHARE = 0.8
STATE_MAX_BYTES = 64 * 1024 * 1024
"""ollama-herd stores every sample of a month in this file; ours takes a few kilobytes."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """From `score` on, models may use `share` of the memory, at most `limit_bytes`."""

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
    """The machine's use at one time. `hour_of_week` is local time; 0 is Monday from 0:00 to 1:00.

    `is_serving`: requests of the fleet run here, so the local user's own use cannot be measured.
    """

    at: float
    hour_of_week: int
    cpu: float
    memory_available: float
    is_serving: bool = False
    in_meeting: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """A mode that the local user set. It wins over the estimates until `until`."""

    mode: Literal["full", "paused"]
    until: float


@dataclass(slots=True)
class Slot:
    """One hour of the week: averages over `observed_s` seconds, which are decayed to the time `at`."""

    observed_s: float = 0.0
    cpu: float = 0.0
    memory_available: float = 1.0
    at: float = 0.0

    def observed_s_at(self, at: float) -> float:
        return self.observed_s * math.pow(0.5, max(0.0, at - self.at) / HALF_LIFE_S)

    def add(self, sample: UsageSample, lasted_s: float) -> None:
        old_s = self.observed_s_at(sample.at)
        total_s = old_s + lasted_s
        if total_s <= 0.0:
            return
        self.cpu = (self.cpu * old_s + sample.cpu * lasted_s) / total_s
        self.memory_available = (self.memory_available * old_s + sample.memory_available * lasted_s) / total_s
        self.observed_s, self.at = total_s, max(self.at, sample.at)


def idle_share(cpu: float, memory_available: float) -> float:
    """The idle share of the machine, 0 to 1: the idle share of its CPU, reduced when memory is short."""
    return (1.0 - _clamp(cpu)) * min(1.0, _clamp(memory_available) / ENOUGH_MEMORY_SHARE)


@dataclass(slots=True)
class AvailabilityLearner:
    """The estimates for one machine. `observe` adds a sample; `capacity` gives the memory that is available."""

    slots: list[Slot] = field(default_factory=lambda: [Slot() for _ in range(SLOTS)])
    first_at: float | None = None
    override: Override | None = None
    _last: UsageSample | None = None
    _average_1min: float | None = None
    _average_5min: float = 1.0
    _busy_since: float | None = None

    def observe(self, sample: UsageSample) -> None:
        """Adds a sample. Samples must be in order; if the clock was set, no time has passed."""
        self._follow_clock(sample.at)
        if self.first_at is None or sample.at < self.first_at:
            self.first_at = sample.at
        last, self._last = self._last, sample
        if sample.is_serving:
            self._busy_since = None
            return
        lasted_s = min(SAMPLE_MAX_S, max(0.0, sample.at - last.at)) if last is not None else 0.0
        self.slots[sample.hour_of_week % SLOTS].add(sample, lasted_s)
        self._update_averages(idle_share(sample.cpu, sample.memory_available), lasted_s)
        if sample.cpu <= BUSY_CPU:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = sample.at

    def _follow_clock(self, at: float) -> None:
        """Keeps what was learned, and for how long, when the clock was set by hours, months or years."""
        is_running = self._last is not None
        known_at = self._last.at if self._last is not None else max(slot.at for slot in self.slots)
        jump_s = at - known_at
        if -SET_BACK_S <= jump_s <= (SET_FORWARD_S if is_running else OFF_MAX_S) or self.first_at is None:
            return
        self.first_at += jump_s
        for slot in self.slots:
            slot.at += jump_s
        self._busy_since = None
        if self.override is not None and is_running:
            self.override = replace(self.override, until=self.override.until + jump_s)

    def capacity(self, total_bytes: int) -> Capacity:
        """The capacity of a machine with this much memory at the time of the last sample."""
        sample = self._last
        if sample is None:
            return Capacity(
                mode="bootstrap", ceiling_bytes=0, score=0.0, reason="bootstrap_observation_period", paused=True
            )
        if self.override is not None and sample.at < self.override.until:
            is_full = self.override.mode == "full"
            return self._capacity(
                self.override.mode,
                int(total_bytes * FULL_SHARE) if is_full else 0,
                float(is_full),
                "manual_override",
                True,
            )
        if sample.in_meeting:
            return self._capacity("paused", 0, 0.0, "meeting_detected", True)
        if self.days_observed < OBSERVE_DAYS:
            return self._capacity("bootstrap", 0, 0.0, "bootstrap_observation_period")
        score = self.score(sample)
        mode, ceiling_bytes = ceiling(score, total_bytes)
        if self._busy_since is not None and sample.at - self._busy_since >= BUSY_FOR_S:
            capped = min(ceiling_bytes, BUSY_CEILING_BYTES)
            return self._capacity(
                "learned_low" if capped else "paused", capped, min(score, 0.2), "sustained_high_cpu", True
            )
        return self._capacity(mode, ceiling_bytes, score, _reason(score))

    def score(self, sample: UsageSample) -> float:
        """0.4 history + 0.4 present + 0.2 trend. A slot that was observed less gives its weight to the present."""
        slot = self.slots[sample.hour_of_week % SLOTS]
        history_weight = HISTORY_WEIGHT * min(1.0, slot.observed_s_at(sample.at) / SLOT_FULL_S)
        # While requests of the fleet run, the last known present use remains.
        now = (
            self._average_1min
            if sample.is_serving and self._average_1min is not None
            else idle_share(sample.cpu, sample.memory_available)
        )
        history = idle_share(slot.cpu, slot.memory_available)
        direction = _clamp(0.5 + self._change / TREND_FULL / 2.0)
        now_weight = NOW_WEIGHT + HISTORY_WEIGHT - history_weight
        return _clamp(history_weight * history + now_weight * now + TREND_WEIGHT * direction)

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
        """0.6 for the observed days, 0.4 for the coverage of the week's slots."""
        if self._last is None:
            return 0.0
        full = sum(min(1.0, slot.observed_s_at(self._last.at) / SLOT_FULL_S) for slot in self.slots) / SLOTS
        return 0.6 * min(1.0, self.days_observed / CONFIDENT_DAYS) + 0.4 * full

    @property
    def week(self) -> tuple[float | None, ...]:
        """The idle share of each hour of the week, to the percent; None for an hour without samples."""
        return tuple(
            round(idle_share(slot.cpu, slot.memory_available), 2) if slot.observed_s > 0.0 else None
            for slot in self.slots
        )

    @property
    def _change(self) -> float:
        return 0.0 if self._average_1min is None else self._average_1min - self._average_5min

    def _update_averages(self, idle: float, lasted_s: float) -> None:
        """Two moving averages; their difference is the trend."""
        if self._average_1min is None:
            self._average_1min = self._average_5min = idle
            return
        self._average_1min += (idle - self._average_1min) * (1.0 - math.exp(-lasted_s / FAST_S))
        self._average_5min += (idle - self._average_5min) * (1.0 - math.exp(-lasted_s / SLOW_S))

    def _capacity(
        self, mode: str, ceiling_bytes: int, score: float, reason: str, override_active: bool = False
    ) -> Capacity:
        return Capacity(
            mode=mode,
            ceiling_bytes=ceiling_bytes,
            score=score,
            trend=self.trend,
            reason=reason,
            paused=ceiling_bytes <= 0,
            override_active=override_active,
            learning_confidence=self.confidence,
            days_observed=self.days_observed,
            week=self.week,
        )


def ceiling(score: float, total_bytes: int) -> tuple[str, int]:
    """The mode and the memory ceiling for a score and a memory of this size."""
    for step in CEILINGS:
        if score >= step.score:
            return step.mode, int(min(total_bytes * step.share, step.limit_bytes))
    return "paused", 0


def _reason(score: float) -> str:
    reasons = (
        (0.8, "high_availability"),
        (0.6, "good_availability"),
        (0.4, "moderate_availability"),
        (0.2, "low_availability"),
    )
    return next((reason for score_min, reason in reasons if score >= score_min), "currently_busy")


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))


# --- the state that is stored between runs ---


class _SampleJson(msgspec.Struct):
    """A sample in the format of ollama-herd, in percent."""

    ts: float
    cpu: float
    mem: float


class _SlotJson(msgspec.Struct, omit_defaults=True):
    watched_s: float = 0.0
    cpu: float = 0.0
    memory_available: float = 1.0
    at: float = 0.0
    observations: list[_SampleJson] = []


class _OverrideJson(msgspec.Struct):
    mode: Literal["full", "paused"]
    expires: float


class _StateJson(msgspec.Struct):
    slots: list[_SlotJson]
    first_observation: float | None = None
    manual_override: _OverrideJson | None = None


def encode(learner: AvailabilityLearner) -> bytes:
    """The contents of `capacity-learner-{node-id}.json`."""
    override = learner.override
    return msgspec.json.encode(
        _StateJson(
            [_SlotJson(slot.observed_s, slot.cpu, slot.memory_available, slot.at) for slot in learner.slots],
            learner.first_at,
            _OverrideJson(override.mode, override.until) if override is not None else None,
        )
    )


def decode(body: bytes) -> AvailabilityLearner:
    """A learner from a stored state, ours or that of ollama-herd. Raises `ValueError` if it is invalid."""
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
        [_slot(stored) for stored in state.slots],
        state.first_observation,
        Override(override.mode, override.expires) if override is not None else None,
    )


def _slot(stored: _SlotJson) -> Slot:
    numbers = (stored.watched_s, stored.cpu, stored.memory_available, stored.at)
    if not all(math.isfinite(number) for number in numbers) or stored.watched_s < 0.0:
        raise ValueError("the state contains invalid numbers")
    slot = Slot(stored.watched_s, _clamp(stored.cpu), _clamp(stored.memory_available), stored.at)
    last_at: float | None = None
    for sample in sorted(stored.observations, key=lambda sample: sample.ts):
        lasted_s = min(SAMPLE_MAX_S, sample.ts - last_at) if last_at is not None else 0.0
        slot.add(UsageSample(sample.ts, 0, _clamp(sample.cpu / 100.0), _clamp(1.0 - sample.mem / 100.0)), lasted_s)
        last_at = sample.ts
    return slot
