"""Decides when an attempt leaves an engine that stands still although its node is well.

Two signs: the node's agent says that the engine answers nothing at all, or a stream is silent for far longer than its
own pace, the learned speed and the reading of other prompts explain. Without another node that can answer, an attempt
stays where it is: the engine may continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from herd.core.estimates.forecast import Forecast
from herd.core.estimates.hardware_priors import Speed
from herd.core.estimates.learned_speeds import LearnedSpeeds
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.commands import Command, GiveUp
from herd.core.state.fleet import EngineEndpoint, Fleet, ModelInfo, Node
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.request import Attempt, Failure, FailureKind, RequestId, RequestKind

CONFIRM_AFTER_S = 6.0
"""An engine counts as frozen this long after its last answer to its agent, which reports it after five seconds."""
QUIET_MIN_S = 3.0
"""A stream on an engine that answers nothing leaves it after this silence of its own."""
STEPS = 4.0
"""Or after this many times the expected gap between two tokens, if that is longer (a slow processor)."""
PACE_MIN_S = 8.0
"""A stream of an engine that answers its agent, or whose agent does not say, is normal for this long at least."""
BATCH_TOKENS = 2048
"""Streams of one runner wait while it processes up to this many tokens of other prompts."""
SLACK = 3.0
"""A machine that throttles or does other work is slower than what was learned."""


def is_silent(engine: EngineEndpoint, node: Node, now: float) -> bool:
    """Whether the engine has answered nothing for CONFIRM_AFTER_S, so that it counts as frozen."""
    return engine.silent_s > 0.0 and engine.silent_s + now - node.last_heartbeat_at >= CONFIRM_AFTER_S


def quiet_s(model_info: ModelInfo, speed: Speed) -> float:
    """Seconds of silence that confirm that a stream stands still, if its engine answers nothing."""
    return max(QUIET_MIN_S, STEPS * speed.step_with_s(model_info.engine.slots))


def pace_s(model_info: ModelInfo, speed: Speed, silence_s: float) -> float:
    """Seconds of silence in the middle of an answer that its pace explains; 0 if it may be silent for other reasons."""
    if silence_s:
        return 0.0
    return max(PACE_MIN_S, 2 * STEPS * SLACK * speed.step_with_s(model_info.engine.slots))


def reading_s(
    live_requests: Mapping[RequestId, LiveRequest], forecast: Forecast, fleet: Fleet, own: RequestId, now: float
) -> float:
    """Seconds of silence of this stream that other prompts explain: its runner may be processing a batch of them.

    A prompt counts until its first token is here. The first token of an answer without streaming is not seen, so its
    prompt counts while all prompts on the node may take.
    """
    live_request = live_requests.get(own)
    attempt = live_request.attempt if live_request is not None else None
    node = fleet.node(attempt.node_id) if attempt is not None else None
    if node is None:
        return 0.0
    read: list[tuple[LiveRequest, Attempt, float]] = []
    batch_s = 0.0
    for other in live_requests.values():
        reading = other.attempt if other.state is RequestState.DISPATCHED and other is not live_request else None
        if reading is not None and reading.node_id == node.id and node.model_info(reading.model) is not None:
            speed = forecast.speeds.speed(node, reading.model)
            tokens = forecast.prompt_tokens(other.request, reading.model)
            read.append((other, reading, tokens / speed.prompt_tokens_per_s))
            batch_s = max(batch_s, BATCH_TOKENS / speed.prompt_tokens_per_s)
    longest_s = SLACK * sum(prompt_s for _, _, prompt_s in read)
    reads = [s for one, reading, s in read if one.request.stream or now - reading.started_at < longest_s]
    return SLACK * min(sum(reads), batch_s)


@dataclass(frozen=True, slots=True)
class FrozenAttempt:
    """A running attempt whose engine answers nothing, and the kinds of engines that could answer instead now."""

    live_request: LiveRequest
    failure: Failure
    quiet_s: float
    kinds: frozenset[str]

    def give_up(self, out: list[Command]) -> bool:
        """Lets the relay of a stream decide, which knows whether it is silent and who can continue it.

        False before the first byte: the attempt has failed.
        """
        live_request, attempt = self.live_request, self.live_request.attempt
        if live_request.state is RequestState.DISPATCHED or attempt is None:
            return False
        out.append(GiveUp(live_request.request.id, attempt.number, self.failure, self.quiet_s, self.kinds))
        return True


def frozen_attempts(
    live_requests: Iterable[LiveRequest], scheduler: Scheduler, speeds: LearnedSpeeds, now: float
) -> list[FrozenAttempt]:
    """The attempts that should leave their engine: another node can answer now."""
    found: list[FrozenAttempt] = []
    for live_request in live_requests:
        attempt = live_request.attempt
        if not live_request.is_running or attempt is None or live_request.request.kind is RequestKind.INFO:
            continue
        node = scheduler.fleet.node(attempt.node_id)
        model_info = node.model_info(attempt.model) if node is not None else None
        if node is None or model_info is None or not is_silent(model_info.engine, node, now):
            continue
        others = scheduler.decide_among_all(live_request.request, attempt.model, now, (*live_request.tried, node.id))
        candidates = [scored.candidate for scored in others.scored if scored.candidate is not None]
        if candidates and not others.is_panic:
            silent_s = model_info.engine.silent_s + now - node.last_heartbeat_at
            detail = f"the engine of {node.id} has answered nothing for {silent_s:.0f} s"
            failure = Failure(kind=FailureKind.FROZEN, detail=detail)
            kinds = frozenset(candidate.model_info.engine.kind for candidate in candidates)
            confirming_s = quiet_s(model_info, speeds.speed(node, attempt.model))
            found.append(FrozenAttempt(live_request, failure, confirming_s, kinds))
    return found
