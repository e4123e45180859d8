"""Learns how much of the context window the requests of each model use, and which window size follows from that.

The tokens of each request (prompt and answer) are counted in one of 49 sizes, four for each doubling; when there are
many, all counts are halved, so that old requests count less. The window that is worth its memory is the need of 99 % of
the requests, plus a quarter.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from herd.core.context.windows import round_up_window
from herd.core.state.fleet import Liveness, ModelInfo, ModelName, Node, NodeId
from herd.core.state.learned_values import Changes, LearnedValue

LEAST_TOKENS = 256
SIZES_PER_OCTAVE = 4
SIZES = 12 * SIZES_PER_OCTAVE + 1
"""The largest size is a million tokens; longer requests count as that."""
HALVED_AT = 4096.0
SAMPLES_MIN = 50
"""Fewest requests from which the 99th percentile is estimated."""
SHARE = 0.99
SLACK = 1.25
MODELS_MAX = 2048
WINDOW_USE = "window_use"
"""The kind of its learned values, of a model: counts by size."""


class WindowUsage:
    def __init__(self) -> None:
        self._counts: OrderedDict[ModelName, list[float]] = OrderedDict()
        self._changes = Changes()

    def learn(self, model: ModelName, tokens: int) -> None:
        """One request used this number of tokens."""
        counts = self._counts.pop(model, None) or [0.0] * SIZES
        self._counts[model] = counts
        counts[_size(tokens)] += 1.0
        if sum(counts) > HALVED_AT:
            counts[:] = [count / 2.0 for count in counts]
        if len(self._counts) > MODELS_MAX:
            self._counts.popitem(last=False)
        self._changes.note(WINDOW_USE, "", model)

    def samples(self, model: ModelName) -> int:
        """The number of counted requests; old ones count less."""
        return int(sum(self._counts.get(model, ())))

    def usual_tokens(self, model: ModelName) -> int | None:
        """The size that 99 % of the requests did not exceed; None while there are too few requests."""
        counts = self._counts.get(model, [])
        wanted = SHARE * sum(counts)
        if self.samples(model) < SAMPLES_MIN:
            return None
        for size, count in enumerate(counts):
            wanted -= count
            if wanted <= 0.0:
                return edge_tokens(size)
        return edge_tokens(SIZES - 1)

    def changes(self) -> list[LearnedValue]:
        """Values that changed since the last call."""
        known = [(key, self._counts.get(ModelName(key[2]))) for key in self._changes.take()]
        return [
            LearnedValue(*key, {str(size): count for size, count in enumerate(counts) if count})
            for key, counts in known
            if counts is not None
        ]

    def restore(self, value: LearnedValue) -> None:
        """Restores a value that an earlier process learned. Raises `ValueError` for an invalid value."""
        counts = [0.0] * SIZES
        for name in value.numbers:
            count = value.number(name, 0.0, HALVED_AT)
            if count is None or not name.isdecimal() or int(name) >= SIZES:
                raise ValueError("counts out of range")
            counts[int(name)] = count
        if ModelName(value.model) not in self._counts and len(self._counts) < MODELS_MAX:
            self._counts[ModelName(value.model)] = counts


@dataclass(frozen=True, slots=True)
class WindowChange:
    """The effect of a window size by use on one loaded model. A larger window has negative `frees_bytes`."""

    node_id: NodeId
    model: ModelName
    loaded_tokens: int
    usual_tokens: int | None
    samples: int
    chosen_tokens: int | None
    frees_bytes: int | None


def chosen_tokens(usual_tokens: int | None, context_max_tokens: int | None) -> int | None:
    """The window size that follows from this use; None if the use is unknown."""
    return round_up_window(math.ceil(usual_tokens * SLACK), context_max_tokens) if usual_tokens is not None else None


def window_changes(nodes: Iterable[Node], use: WindowUsage) -> list[WindowChange]:
    """One for each loaded model of an engine that takes a context window, ordered by node and name."""
    return sorted(
        (
            _change(node.id, model, model_info, use)
            for node in nodes
            if node.liveness is not Liveness.OFFLINE
            for model, model_info in node.report.models.items()
            if model_info.loaded is not None
            and model_info.loaded.window_tokens
            and not model_info.loaded.is_other_name
            and model_info.engine.abilities.takes_window
            and "embedding" not in model_info.capabilities
        ),
        key=lambda change: (change.node_id, change.model),
    )


def _change(node_id: NodeId, model: ModelName, model_info: ModelInfo, use: WindowUsage) -> WindowChange:
    loaded = model_info.loaded.window_tokens if model_info.loaded is not None else None
    usual = use.usual_tokens(model)
    chosen = chosen_tokens(usual, model_info.context_max_tokens)
    frees = None
    if loaded and chosen is not None and model_info.kv_bytes_per_token:
        frees = (loaded - chosen) * model_info.kv_bytes_per_token * model_info.engine.slots
    return WindowChange(node_id, model, loaded or 0, usual, use.samples(model), chosen, frees)


def edge_tokens(size: int) -> int:
    """The largest number of tokens that counts as this size."""
    return math.ceil(LEAST_TOKENS * math.pow(2.0, size / SIZES_PER_OCTAVE))


def _size(tokens: int) -> int:
    if tokens <= LEAST_TOKENS:
        return 0
    return min(SIZES - 1, math.ceil(math.log2(tokens / LEAST_TOKENS) * SIZES_PER_OCTAVE - 1e-9))
