"""Tests the size of a KV cache that follows from a model's info, and compares it with what Ollama reported."""

from __future__ import annotations

import pytest

from herd.core.estimates.memory_need import CacheShape, shape_of

MIB = 1 << 20
SMOLLM2 = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.embedding_length": 576,
}


WEIGHTS_BYTES = 98_362_432
COMPUTE_BYTES, COMPUTE_BYTES_PER_TOKEN = 12 << 20, 4 << 10
"""Memory for the computation, fitted to what Ollama 0.32 reported for SmolLM2 135M (154, 201 and 318 MiB at 2k, 4k and
8k tokens)."""


@pytest.mark.parametrize(
    ("tokens", "slots", "measured_mib"),
    [(2048, 1, 154), (4096, 1, 201), (8192, 1, 318), (2048, 4, 306), (4096, 4, 490), (8192, 4, 858)],
)
def test_cache_weights_and_computation_agree_with_ollama_within_ten_percent(
    tokens: int, slots: int, measured_mib: int
) -> None:
    shape = shape_of(SMOLLM2)
    assert shape == CacheShape(30 * 3 * 64 * 2 * 2)
    assert shape is not None
    other_bytes = WEIGHTS_BYTES + COMPUTE_BYTES + COMPUTE_BYTES_PER_TOKEN * tokens
    assert (shape.cache_bytes(tokens) * slots + other_bytes) / MIB == pytest.approx(measured_mib, rel=0.10)


def test_sliding_layer_stores_at_most_its_window() -> None:
    info = {
        "general.architecture": "gemma3",
        "gemma3.block_count": 18,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 1,
        "gemma3.attention.key_length": 256,
        "gemma3.attention.sliding_window": 512,
    }
    shape = shape_of(info)
    assert shape is not None and (shape.full_bytes, shape.sliding_bytes, shape.window_tokens) == (
        3 * 1024,
        15 * 1024,
        512,
    )
    assert shape.cache_bytes(4096) == 3 * 1024 * 4096 + 15 * 1024 * 512


def test_layers_without_attention_need_no_cache() -> None:
    assert shape_of({**SMOLLM2, "llama.block_count": 4, "llama.attention.head_count_kv": [0, 0, 0, 2]}) == CacheShape(
        2 * 64 * 2 * 2
    )


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"general.architecture": "llama"},
        {**SMOLLM2, "llama.block_count": "thirty"},
        {**SMOLLM2, "llama.attention.head_count_kv": None},
    ],
)
def test_incomplete_model_info_gives_no_shape(info: dict[str, object]) -> None:
    assert shape_of(info) is None
