"""Defines the contract of a signal: a function that returns how many points a node gets for a request.

There is one signal in each file, which defines `SIGNAL = Signal("name", low, high, points, label="what people see")`.
A signal is pure: it reads only the request, the candidate and the weights. Names, ranges and steps are public: the
names are the keys of `scores_breakdown` in stored traces, and the weights are the FLEET_SCORE_* settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from herd.core.state.decision import Candidate
from herd.core.state.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The points of the signals, from the settings."""

    model_hot: float = field(
        default=50.0, metadata={"env": "FLEET_SCORE_MODEL_HOT", "help": "Points if the model is in memory."}
    )
    model_warm: float = field(
        default=30.0,
        metadata={"env": "FLEET_SCORE_MODEL_WARM", "help": "Points if the model was unloaded in the last 30 minutes."},
    )
    model_cold: float = field(
        default=10.0, metadata={"env": "FLEET_SCORE_MODEL_COLD", "help": "Points if the model is only on disk."}
    )
    memory_fit_max: float = field(
        default=20.0, metadata={"env": "FLEET_SCORE_MEMORY_FIT_MAX", "help": "Maximum points for free memory."}
    )
    queue_depth_max_penalty: float = field(
        default=30.0,
        metadata={"env": "FLEET_SCORE_QUEUE_DEPTH_MAX_PENALTY", "help": "Maximum penalty for queue length, in points."},
    )
    queue_depth_penalty_per: float = field(
        default=6.0,
        metadata={
            "env": "FLEET_SCORE_QUEUE_DEPTH_PENALTY_PER",
            "help": "Penalty for each queued or running request, in points.",
        },
    )
    wait_time_max_penalty: float = field(
        default=25.0,
        metadata={
            "env": "FLEET_SCORE_WAIT_TIME_MAX_PENALTY",
            "help": "Maximum penalty for the expected wait, in points.",
        },
    )
    role_affinity_max: float = field(
        default=15.0,
        metadata={
            "env": "FLEET_SCORE_ROLE_AFFINITY_MAX",
            "help": "Maximum points if the model size suits the machine size.",
        },
    )
    role_large_threshold_gb: float = field(
        default=20.0,
        metadata={"env": "FLEET_SCORE_ROLE_LARGE_THRESHOLD_GB", "help": "Size in GB above which a model is large."},
    )
    role_small_threshold_gb: float = field(
        default=8.0,
        metadata={"env": "FLEET_SCORE_ROLE_SMALL_THRESHOLD_GB", "help": "Size in GB below which a model is small."},
    )
    availability_trend_max: float = field(
        default=10.0,
        metadata={
            "env": "FLEET_SCORE_AVAILABILITY_TREND_MAX",
            "help": "Maximum points for a machine whose user is becoming idle.",
        },
    )
    context_fit_max: float = field(
        default=15.0,
        metadata={
            "env": "FLEET_SCORE_CONTEXT_FIT_MAX",
            "help": "Maximum points, positive or negative, for the context window compared with the prompt.",
        },
    )


@dataclass(frozen=True, slots=True)
class Signal:
    """`points(request, candidate, weights)` is between `low` and `high` with the default weights."""

    name: str
    low: float
    high: float
    points: Callable[[Request, Candidate, Weights], float]
    label: str
    """What people see in the terminal and on the dashboard, e.g. "free memory"."""
    setting: str = ""
    """The FLEET_SCORE_* setting with the maximum points; empty if the points are fixed."""
