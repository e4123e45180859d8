"""Answers what agents ask an engine beside inference: models, slots, versions, and the sign of life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.faults.answers import count_tokens

Json = dict[str, Any]
MODEL, EMBEDDER = "history", "history-embed"
WINDOW_TOKENS = 32768
TEMPLATE = "<think>{{ messages }}"


def llamacpp(slots: int, busy: int, thinks: bool) -> Mapping[tuple[str, str], Callable[[Json], Json | list[Json]]]:
    """By method and path."""
    props = {
        "default_generation_settings": {"n_ctx": WINDOW_TOKENS},
        "total_slots": slots,
        "build_info": "b11549-scripted",
        "model_ftype": "Q4_K - Medium",
        "chat_template": TEMPLATE if thinks else "{{ messages }}",
        "chat_template_caps": {"supports_tools": True},
        "modalities": {"vision": False, "audio": False},
    }
    meta = {"n_ctx_train": WINDOW_TOKENS, "n_params": 1_000_000_000, "size": 600_000_000, "n_ctx": WINDOW_TOKENS}
    models = [
        {"id": name, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": meta}
        for name in (MODEL, EMBEDDER)
    ]
    return {
        ("GET", "/health"): lambda _: {"status": "ok"},
        ("GET", "/props"): lambda _: props,
        ("GET", "/v1/models"): lambda _: {"object": "list", "data": models},
        ("GET", "/slots"): lambda _: [{"id": slot, "is_processing": slot < busy} for slot in range(slots)],
        ("POST", "/tokenize"): lambda body: {"tokens": list(range(count_tokens(str(body.get("content")))))},
    }


def ollama(is_loaded: bool, thinks: bool) -> Mapping[tuple[str, str], Callable[[Json], Json | list[Json]]]:
    """By method and path."""
    details = {"family": "llama", "parameter_size": "1.0B", "quantization_level": "Q4_K_M", "format": "gguf"}
    abilities = ["completion", "tools", *(["thinking"] if thinks else [])]
    models = [
        {"name": f"{name}:latest", "model": f"{name}:latest", "size": 600_000_000, "digest": digest * 64}
        | {"details": details, "modified_at": "2026-01-01T00:00:00Z", "capabilities": able}
        for name, digest, able in ((MODEL, "a", abilities), (EMBEDDER, "b", ["embedding"]))
    ]
    resident = [
        model | {"size_vram": 600_000_000, "context_length": WINDOW_TOKENS, "expires_at": "2318-01-01T00:00:00Z"}
        for model in models
    ]
    info = {"general.architecture": "llama", "llama.context_length": WINDOW_TOKENS, "llama.block_count": 16}

    def show(body: Json) -> Json:
        is_embedder = EMBEDDER in str(body.get("model"))
        return {"capabilities": ["embedding"] if is_embedder else abilities, "model_info": info, "details": details}

    return {
        ("GET", "/api/version"): lambda _: {"version": "0.32.15"},
        ("GET", "/api/tags"): lambda _: {"models": models},
        ("GET", "/api/ps"): lambda _: {"models": resident if is_loaded else []},
        ("POST", "/api/show"): show,
    }
