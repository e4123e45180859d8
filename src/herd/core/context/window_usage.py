"""How much of their windows people really use, learnt per model, and which window that asks for. Loads nothing and knows no engine.

Each answer's tokens (prompt and answer) fall into one of 49 sizes, four to an octave; when there are many, all counts are halved, so that
the past fades. What 99 of 100 requests needed, and a quarter more, is the window that is worth its memory.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from herd.core.context.windows import rounded
from herd.core.state.fleet import Liveness, ModelInfo, ModelName, Node, NodeId
from herd.core.state.learned_values import Changes, LearnedValue

LEAST_TOKENS = 256
SIZES_PER_OCTAVE = 4
SIZES = 12 * SIZES_PER_OCTAVE + 1
"""The largest is a million tokens; what is longer counts as that."""
FADING_AT = 4096.0
SAMPLES_MIN = 50
"""Fewer requests than this tell nothing of the hundredth."""
SHARE = 0.99
SLACK = 1.25
MODELS_MAX = 2048
WINDOW_USE = "window_use"
"""The kind of its memories, of a model: counts by size."""


class WindowUsage:
    def __init__(self) -> None:
        self._counts: OrderedDict[ModelName, list[float]] = OrderedDict()
        self._changes = Changes()

    def learn(self, model: ModelName, tokens: int) -> None:
        """One request used so many tokens of its window."""
        counts = self._counts.pop(model, None) or [0.0] * SIZES
        self._counts[model] = counts
        counts[_size(tokens)] += 1.0
        if sum(counts) > FADING_AT:
            counts[:] = [count / 2.0 for count in counts]
        if len(self._counts) > MODELS_MAX:
            self._counts.popitem(last=False)
        self._changes.note(WINDOW_USE, "", model)

    def samples(self, model: ModelName) -> int:
        """How many requests are behind it, of which old ones count for less."""
        return int(sum(self._counts.get(model, ())))

    def usual_tokens(self, model: ModelName) -> int | None:
        """What 99 of 100 requests stayed within; None while too few were seen."""
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
        """What was learnt since this was last asked, for a store."""
        known = [(key, self._counts.get(ModelName(key[2]))) for key in self._changes.take()]
        return [
            LearnedValue(*key, {str(size): count for size, count in enumerate(counts) if count})
            for key, counts in known
            if counts is not None
        ]

    def recall(self, memory: LearnedValue) -> None:
        """Believes what an earlier process learnt. Raises `ValueError` for counts that cannot be."""
        counts = [0.0] * SIZES
        for name in memory.numbers:
            count = memory.number(name, 0.0, FADING_AT)
            if count is None or not name.isdecimal() or int(name) >= SIZES:
                raise ValueError("its counts are out of bounds")
            counts[int(name)] = count
        if ModelName(memory.model) not in self._counts and len(self._counts) < MODELS_MAX:
            self._counts[ModelName(memory.model)] = counts


@dataclass(frozen=True, slots=True)
class WindowChange:
    """What choosing a window by use would do to one loaded model. `frees_bytes` below zero is what a larger window takes."""

    node_id: NodeId
    model: ModelName
    loaded_tokens: int
    usual_tokens: int | None
    samples: int
    chosen_tokens: int | None
    frees_bytes: int | None


def chosen_tokens(usual_tokens: int | None, most: int | None) -> int | None:
    """The window that such use asks for; None where nothing is known."""
    return rounded(math.ceil(usual_tokens * SLACK), most) if usual_tokens is not None else None


def window_changes(nodes: Iterable[Node], use: WindowUsage) -> list[WindowChange]:
    """For every model in the memory of an engine that takes windows, by node and name."""
    return sorted(
        (
            _change(node.id, model, card, use)
            for node in nodes
            if node.liveness is not Liveness.OFFLINE
            for model, card in node.report.models.items()
            if card.loaded is not None
            and card.loaded.window_tokens
            and not card.loaded.is_other_name
            and card.engine.abilities.takes_window
            and "embedding" not in card.capabilities
        ),
        key=lambda change: (change.node_id, change.model),
    )


def _change(node_id: NodeId, model: ModelName, card: ModelInfo, use: WindowUsage) -> WindowChange:
    loaded = card.loaded.window_tokens if card.loaded is not None else None
    usual = use.usual_tokens(model)
    chosen = chosen_tokens(usual, card.context_max_tokens)
    frees = None
    if loaded and chosen is not None and card.kv_bytes_per_token:
        frees = (loaded - chosen) * card.kv_bytes_per_token * card.engine.slots
    return WindowChange(node_id, model, loaded or 0, usual, use.samples(model), chosen, frees)


def edge_tokens(size: int) -> int:
    """The most tokens that count as this size."""
    return math.ceil(LEAST_TOKENS * math.pow(2.0, size / SIZES_PER_OCTAVE))


def _size(tokens: int) -> int:
    if tokens <= LEAST_TOKENS:
        return 0
    return min(SIZES - 1, math.ceil(math.log2(tokens / LEAST_TOKENS) * SIZES_PER_OCTAVE - 1e-9))
