"""Combines all estimates that are learned from requests: speeds, answer lengths, demand, cached prompts.

The dispatcher reports what happened, and policies read what to expect.
"""

from __future__ import annotations

from collections.abc import Collection

from herd.core.context.window_usage import WINDOW_USE, WindowUsage
from herd.core.estimates.demand import Demand
from herd.core.estimates.learned_speeds import KINDS, LearnedSpeeds, SpeedSample
from herd.core.estimates.output_lengths import OUTPUT, OutputLengths
from herd.core.estimates.prefix_cache import PrefixCache
from herd.core.estimates.residency import Residency
from herd.core.estimates.token_ratio import TOKENS, TokenRatios
from herd.core.estimates.utilization import Utilization
from herd.core.state.fleet import ModelName, Node
from herd.core.state.learned_values import LearnedValue
from herd.core.state.live_request import LiveRequest
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Counters, Request, RequestKind

LEARN_EVERY_S = 0.005
"""Least time between two answers of one node from which something is learned: learning costs time too."""


class Forecast:
    def __init__(self) -> None:
        self.speeds = LearnedSpeeds()
        self.outputs = OutputLengths()
        self.demand = Demand()
        self.utilization = Utilization()
        self.prefixes = PrefixCache()
        self.token_ratios = TokenRatios()
        self.residency = Residency()
        self.window_usage = WindowUsage()

    # --- read by policies ---

    def prompt_tokens(self, request: Request, model: ModelName) -> float:
        """The estimated length of the prompt, corrected by earlier token counts of engines for this model."""
        return request.prompt_tokens * self.token_ratios.factor(model)

    def cached_tokens(self, request: Request, node: Node, model: ModelName) -> int:
        if not request.prefix or not self.residency.is_loaded(node, model):
            return 0
        return min(self.prefixes.cached_tokens(node.id, model, request.prefix), max(0, request.prompt_tokens - 1))

    # --- stored across a restart ---

    def changes(self) -> list[LearnedValue]:
        """Learned values that changed since the last call; if there are very many, the rest follows with the next
        call."""
        return [
            *self.speeds.changes(),
            *self.outputs.changes(),
            *self.token_ratios.changes(),
            *self.window_usage.changes(),
        ]

    def restore(self, value: LearnedValue) -> None:
        """Restores a value that an earlier process learned. Raises `ValueError` for an invalid value."""
        if value.kind in KINDS:
            self.speeds.restore(value)
        elif value.kind == OUTPUT:
            self.outputs.restore(value)
        elif value.kind == TOKENS:
            self.token_ratios.restore(value)
        elif value.kind == WINDOW_USE:
            self.window_usage.restore(value)
        else:
            raise ValueError(f"unknown kind of learned value: {value.kind!r}")

    # --- reported by the dispatcher ---

    def record_arrival(self, request: Request, now: float) -> None:
        if request.kind is not RequestKind.INFO:
            self.demand.record_arrival(request.model, now)

    def record_start(
        self, live_request: LiveRequest, node: Node, streams: int, busy: Collection[ModelName], now: float
    ) -> None:
        """An attempt starts: its prompt counts as cached and its model as loading at once, before a heartbeat shows
        it."""
        attempt, request = live_request.attempt, live_request.request
        assert attempt is not None
        model = attempt.model
        node.starts += 1
        attempt.start_number = node.starts
        attempt.streams = streams
        attempt.is_alone = streams == 1 and len(busy) == 1
        attempt.has_other_models = len(busy) > 1
        assert live_request.queue is not None
        live_request.queue.starts += 1
        slots = node.report.models[model].engine.slots
        self.utilization.record_start(node.id, model, streams, slots, now)
        attempt.queue_start_number = live_request.queue.starts
        attempt.was_warm = model in node.unloaded_at or model in node.loaded
        attempt.is_load_exact = attempt.is_alone and not node.loading_until
        attempt.was_loaded = self.residency.is_loaded(node, model)
        attempt.expected_cached_tokens = self.cached_tokens(request, node, model)
        if not attempt.was_loaded and model not in node.loading_until:
            self.residency.record_load(node, model, busy)
            self.prefixes.drop(node.id, model)
            before_s = max((until - now for until in node.loading_until.values()), default=0.0)
            node.loading_until[model] = now + max(
                _expected_load_s(live_request), before_s + self.speeds.speed(node, model).load_s
            )
        self.residency.record_use(node, model, now)
        if request.prefix:
            self.prefixes.add(node.id, model, request.prefix, slots)

    def record_first_byte(self, live_request: LiveRequest) -> None:
        """The prefill is complete: it no longer delays other prompts."""
        if live_request.queue is not None:
            live_request.queue.in_flight[live_request.request.id].prefill_s = 0.0

    def record_end(self, queue: Queue, now: float) -> None:
        """A request was removed from this queue, for any reason."""
        self.utilization.record_end(queue.node_id, queue.model, len(queue.in_flight), now)

    def record_completion(
        self, live_request: LiveRequest, node: Node, counters: Counters, streams: int, now: float
    ) -> None:
        """An attempt completed: learns from its counters."""
        if now - node.learned_at < LEARN_EVERY_S:
            return
        node.learned_at = now
        attempt, request = live_request.attempt, live_request.request
        assert attempt is not None
        model = attempt.model
        self.residency.record_use(node, model, now)
        if counters.completion_tokens is not None and request.kind is not RequestKind.EMBED:
            self.outputs.learn(request, model, counters.completion_tokens)
        if counters.prompt_tokens and request.prompt_tokens and not attempt.is_truncated:
            self.token_ratios.learn(model, counters.prompt_tokens / request.prompt_tokens)
        if counters.prompt_tokens and request.kind is not RequestKind.EMBED:
            self.window_usage.learn(model, counters.prompt_tokens + (counters.completion_tokens or 0))
        self.speeds.learn(node, model, _sample(live_request, counters, _streams(live_request, node, streams), now))

    def apply_heartbeat(self, node: Node, loaded_before: dict[ModelName, int | None], is_new_boot: bool) -> None:
        """A model that was unloaded, or reloaded with another context window, has no cached prompts any more."""
        if is_new_boot:
            self.speeds.forget(node.id)
            self.prefixes.drop(node.id)
            self.residency.forget(node.id)
            return
        self.residency.apply_heartbeat(node)
        for model, window in loaded_before.items():
            loaded = node.loaded.get(model)
            if loaded is None or loaded.window_tokens != window:
                self.prefixes.drop(node.id, model)


def _expected_load_s(live_request: LiveRequest) -> float:
    """Expected seconds until the model is loaded, including the wait for models that must be evicted."""
    best = live_request.decision.best if live_request.decision is not None else None
    return best.expected_s["wait"] + best.expected_s["load"] if best is not None and best.expected_s else 0.0


def _streams(live_request: LiveRequest, node: Node, streams_now: int) -> float:
    """The mean number of streams: 1 for an attempt that ran alone, 0 if other models ran on the node meanwhile."""
    attempt, queue = live_request.attempt, live_request.queue
    assert attempt is not None and queue is not None
    since, of_model = node.starts - attempt.start_number, queue.starts - attempt.queue_start_number
    if attempt.is_alone and not since:
        return 1.0
    return 0.0 if attempt.has_other_models or since > of_model else max(1.5, (attempt.streams + streams_now) / 2)


def _sample(live_request: LiveRequest, counters: Counters, streams: float, now: float) -> SpeedSample:
    attempt = live_request.attempt
    assert attempt is not None
    prefill_s, decode_s = counters.prefill_s, counters.decode_s
    if prefill_s is None and attempt.first_byte_at is not None and attempt.was_loaded:
        prefill_s = attempt.first_byte_at - attempt.started_at
    if decode_s is None and attempt.first_byte_at is not None:
        decode_s = now - attempt.first_byte_at
    return SpeedSample(
        uncached_tokens=_uncached_tokens(attempt, counters),
        prefill_s=prefill_s,
        decoded_tokens=counters.completion_tokens or 0,
        decode_s=decode_s,
        load_s=counters.load_s if not attempt.was_loaded else None,
        streams=streams,
        is_load_exact=attempt.is_load_exact,
        was_warm=attempt.was_warm,
    )


def _uncached_tokens(attempt: Attempt, counters: Counters) -> int | None:
    """Prompt tokens that were processed: as counted by the engine; else known only if no tokens were expected in the
    cache."""
    if counters.prompt_tokens is None:
        return None
    if counters.cached_tokens is not None:
        return counters.prompt_tokens - counters.cached_tokens
    return counters.prompt_tokens if not attempt.expected_cached_tokens else None
