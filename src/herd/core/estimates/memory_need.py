"""Computes the size of a model's KV cache from the shape of the model.

For each token of each slot the cache takes 2 (keys, values) x layers x KV heads x head size x 2 bytes (f16); a layer
with a sliding window stores at most that window. The result is compared with Ollama in
tests/live/test_memory_need_on_real_ollama.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

F16_BYTES = 2
LAYERS_MAX = 4096
_SLIDING_EVERY = (("gemma3", 6), ("gemma2", 2), ("gptoss", 2), ("gpt-oss", 2))
"""One of this number of layers has full attention, the others a sliding window (source: the models' papers)."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bytes of cache for one token, in the layers with full attention and in those with a sliding window of
    `window_tokens`."""

    full_bytes: int
    sliding_bytes: int = 0
    window_tokens: int = 0

    def cache_bytes(self, tokens: int) -> int:
        """The cache of one slot."""
        return self.full_bytes * tokens + self.sliding_bytes * min(tokens, self.window_tokens)


def shape_of(info: Mapping[str, object]) -> CacheShape | None:
    """The shape in `model_info` of /api/show; None if fields are missing."""
    family = info.get("general.architecture")
    layers, heads = (
        _positive_int(info.get(f"{family}.block_count")),
        _positive_int(info.get(f"{family}.attention.head_count")),
    )
    width = _positive_int(info.get(f"{family}.attention.key_length"))
    if not width and heads:
        width = _positive_int(info.get(f"{family}.embedding_length")) // heads
    heads_of_layers = _heads_of_layers(info.get(f"{family}.attention.head_count_kv"), layers)
    if not layers or not width or not heads_of_layers:
        return None
    per_head = 2 * width * F16_BYTES
    window = _positive_int(info.get(f"{family}.attention.sliding_window"))
    every = dict(_SLIDING_EVERY).get(str(family), 1) if window else 1
    sliding = sum(count for number, count in enumerate(heads_of_layers) if (number + 1) % every)
    return CacheShape((sum(heads_of_layers) - sliding) * per_head, sliding * per_head, window if sliding else 0)


def _heads_of_layers(value: object, layers: int) -> list[int]:
    """The KV heads of each layer: `value` is one number for all layers, or a list (hybrid models have layers
    without)."""
    if isinstance(value, Sequence) and not isinstance(value, str) and 0 < len(value) <= LAYERS_MAX:
        return [_positive_int(count) for count in value]
    return [_positive_int(value)] * min(layers, LAYERS_MAX) if _positive_int(value) else []


def _positive_int(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 40 else 0
