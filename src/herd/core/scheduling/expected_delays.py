"""Estimates how long a request waits on a node, and how much it delays the other requests there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

from herd.core.estimates.hardware_priors import Speed
from herd.core.state.decision import Candidate
from herd.core.state.fleet import ModelName
from herd.core.state.queues import Queue, Work
from herd.core.state.request import Request

REMAINING_SHARE_OF_AGE = 0.3
"""A request that runs longer than expected is expected to run for another 30 % of its age: lengths have heavy tails."""

LEAST_REMAINING_SHARE = REMAINING_SHARE_OF_AGE / (1.0 + REMAINING_SHARE_OF_AGE)
"""The least that `remaining_s` ever is, as a share of the expected time: at the moment when its two terms are equal."""

RUNNING_SAMPLED_MAX = 16
"""Running requests of a queue that are read; of a longer queue a sample of about this size is read."""

UTILIZATION_MAX = 0.75
"""A higher utilization counts as this one: at 1 the expected length of a queue is unbounded."""

SIZE_MAX = 3.0
"""Limit of a request's size relative to the running requests: its length is an estimate."""

PREFILL_DONE_MAX = 0.9
"""Most of a prefill that counts as complete, even if the whole prefill should be complete by now."""


@dataclass(slots=True)
class RequestEstimate:
    """The estimates of a request that hold for any node; computed once for each decision."""

    request: Request
    model: ModelName
    prompt_tokens: float
    output_tokens: float
    irregularity: float
    at: float


def remaining_s(work: Work, now: float) -> float:
    return max(work.end_at - now, REMAINING_SHARE_OF_AGE * (now - work.started_at))


def shared_compute(candidate: Candidate, own_s: float, now: float) -> tuple[float, float]:
    """How many times slower this request runs beside the node's other busy models, and how many seconds it delays them.

    Each model gets an equal share of the compute while several are running.
    """
    added_s = delay_s = 0.0
    for name, queue in candidate.busy.items():
        if name == candidate.model or not queue.in_flight:
            continue
        longest_s = 0.0
        for work in queue.in_flight.values():
            left_s = remaining_s(work, now)
            delay_s += min(own_s, left_s)
            longest_s = max(longest_s, left_s)
        added_s += min(own_s, longest_s)
    return (1.0 + added_s / own_s if own_s > 0 else 1.0), delay_s


def delay_of_own_model_s(
    queue: Queue, slots: int, speed: Speed, prefill_s: float, decode_s: float, expected: RequestEstimate
) -> float:
    """The delay of streams of the same model: they stall during this prefill, and then each step takes longer.

    If no slot is free now, it is assumed that similar requests will run when this one starts.
    """
    running, now = len(queue.in_flight), expected.at
    beside = min(running, slots - 1)
    if not beside:
        return 0.0
    slowdown = speed.batch_slope / (1.0 + speed.batch_slope * (beside - 1))
    works, overlap_s = _sample_of_running(queue), 0.0
    for work in works:
        left_s = work.end_at - now
        overdue_s = REMAINING_SHARE_OF_AGE * (now - work.started_at)
        left_s = left_s if left_s > overdue_s else overdue_s
        overlap_s += left_s if left_s < decode_s else decode_s
    return prefill_s * beside + overlap_s / len(works) * beside * slowdown


def delay_of_later_requests_s(queue: Queue, slots: int, share: float, queue_s: float, own_s: float) -> float:
    """The delay of requests that arrive while the queue exists that this request makes longer.

    At utilization r a queue takes 1 / (1 - r) times as long to empty as its present length suggests, and every request
    that arrives meanwhile waits longer: in total r / (1 - r) times the own time in the queue (the derivative of the
    mean work of an M/M/1 queue; Krishnan, "Joining the right queue", 1987), times the size of this request relative to
    the running ones. Without this term each request takes the node that is best for itself, and queues build up at fast
    nodes while slower nodes are idle.
    """
    works = _sample_of_running(queue)
    usual_s = sum(work.service_s for work in works) / len(works)
    size = min(SIZE_MAX, own_s / usual_s) if usual_s > 0.0 else 1.0
    load = min(UTILIZATION_MAX, share)
    return load / (1.0 - load) * size * (queue_s + own_s / slots)


def _sample_of_running(queue: Queue) -> list[Work]:
    """The running requests, or an evenly spaced sample of many, oldest first.

    Only their mean is needed, and the cost of a decision must not grow with the load.
    """
    running = queue.in_flight
    if len(running) <= RUNNING_SAMPLED_MAX:
        return list(running.values())
    return list(islice(running.values(), 0, None, -(-len(running) // RUNNING_SAMPLED_MAX)))


def queue_wait_s(queue: Queue, slots: int, expected: RequestEstimate) -> float:
    """Seconds until this prefill can start: after the present prefills; or, if no slot is free, after the queue.

    If lengths are unpredictable, the elapsed time of an answer says nothing about the rest (exponential distribution),
    and the first of many answers ends sooner than any single one is expected to. `irregularity` interpolates between
    that and a countdown.
    """
    now, running = expected.at, queue.in_flight
    pending_s = queue.pending_before_s(expected.request) if queue.pending else 0.0
    if len(running) < slots and not pending_s:
        return _prefill_wait_s(queue, now) if running else 0.0
    chance, soonest_s = 0.0, math.inf
    for work in running.values():
        left_s = remaining_s(work, now)
        soonest_s = min(soonest_s, left_s)
        chance += 1.0 / max(left_s, work.service_s, 1e-3)
    if not running:
        soonest_s = 0.0
    first_s = expected.irregularity / chance + (1.0 - expected.irregularity) * soonest_s if chance else soonest_s
    return first_s + pending_s / slots


def _prefill_wait_s(queue: Queue, now: float) -> float:
    """Seconds until the earlier prompts are processed, one after the other; the first of them has already started."""
    total_s, elapsed_s = 0.0, 0.0
    works = _sample_of_running(queue)
    for work in works:
        if work.prefill_s:
            if not total_s:
                elapsed_s = min(max(0.0, now - work.ready_at), PREFILL_DONE_MAX * work.prefill_s)
            total_s += work.prefill_s
    return total_s * len(queue.in_flight) / len(works) - elapsed_s


def reload_for_window_s(candidate: Candidate, speed: Speed, expected: RequestEstimate) -> tuple[float, float]:
    """A context window larger than the loaded one makes the engine wait for its running requests and reload the
    model."""
    loaded = candidate.model_info.loaded
    if (
        loaded is None
        or not loaded.window_tokens
        or (expected.request.wanted_window_tokens or 0) <= loaded.window_tokens
    ):
        return 0.0, 0.0
    works = candidate.queue.in_flight.values() if candidate.queue is not None else ()
    return max((remaining_s(work, expected.at) for work in works), default=0.0), speed.load_s
