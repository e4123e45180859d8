"""How much memory a model takes at a window and with so many requests at a time. Knows no node and no engine.

weights + KV cache + what the computation needs: the cache is 2 (keys, values) x layers x KV heads x head size x 2 bytes (f16) for each token
of each slot, where a layer with a sliding window keeps no more than that. The computation's share was fitted to what Ollama 0.32
told of SmolLM2 135M (154, 201 and 318 MiB at 2k, 4k and 8k tokens); the cache's is measured in tests/live/test_memory_need_on_real_ollama.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

F16_BYTES = 2
COMPUTE_BYTES = 12 << 20
COMPUTE_BYTES_PER_TOKEN = 4 << 10
LAYERS_MAX = 4096
_SLIDING_EVERY = (("gemma3", 6), ("gemma2", 2), ("gptoss", 2), ("gpt-oss", 2))
"""Of so many layers one sees everything; the others a window (the models' own papers; Ollama tells the window only)."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bytes of cache that one token takes in all layers that see everything, and in those that slide over `window_tokens`."""

    full_bytes: int
    sliding_bytes: int = 0
    window_tokens: int = 0

    def cache_bytes(self, context_tokens: int) -> int:
        """Of one slot."""
        return self.full_bytes * context_tokens + self.sliding_bytes * min(context_tokens, self.window_tokens)


def need_bytes(weights_bytes: int, shape: CacheShape, context_tokens: int, slots: int) -> int:
    """What /api/ps will say it takes, within a tenth."""
    return (
        weights_bytes
        + shape.cache_bytes(context_tokens) * slots
        + COMPUTE_BYTES
        + COMPUTE_BYTES_PER_TOKEN * context_tokens
    )


def shape_of(info: Mapping[str, object]) -> CacheShape | None:
    """From `model_info` of /api/show; None where it does not tell enough."""
    family = info.get("general.architecture")
    layers, heads = _whole(info.get(f"{family}.block_count")), _whole(info.get(f"{family}.attention.head_count"))
    width = _whole(info.get(f"{family}.attention.key_length"))
    if not width and heads:
        width = _whole(info.get(f"{family}.embedding_length")) // heads
    each = _heads_of_layers(info.get(f"{family}.attention.head_count_kv"), layers)
    if not layers or not width or not each:
        return None
    per_head = 2 * width * F16_BYTES
    window = _whole(info.get(f"{family}.attention.sliding_window"))
    every = dict(_SLIDING_EVERY).get(str(family), 1) if window else 1
    sliding = sum(count for number, count in enumerate(each) if (number + 1) % every)
    return CacheShape((sum(each) - sliding) * per_head, sliding * per_head, window if sliding else 0)


def _heads_of_layers(told: object, layers: int) -> list[int]:
    """One number for all layers, or one for each (hybrids have layers without)."""
    if isinstance(told, Sequence) and not isinstance(told, str) and 0 < len(told) <= LAYERS_MAX:
        return [_whole(count) for count in told]
    return [_whole(told)] * min(layers, LAYERS_MAX) if _whole(told) else []


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 40 else 0
