"""What SGLang, TabbyAPI, KoboldCpp, mlx_lm.server, llamafile and Lemonade answer, written down from their sources.

None of them ran on the machine where this was written. Each style names its source; the paths are those that herd asks,
and those of other kinds that the server answers too.
"""

from __future__ import annotations

from fakes.scripted.keyed import Style

SGLANG = Style(
    "sglang",
    {
        "/v1/models": {
            "object": "list",
            "data": [
                {
                    "id": "m",
                    "object": "model",
                    "created": 1,
                    "owned_by": "sglang",
                    "root": "m",
                    "parent": None,
                    "max_model_len": 40_960,
                }
            ],
        },
        "/get_model_info": {"model_path": "m", "tokenizer_path": "m", "is_generation": True},
        "/api/tags": {"models": [{"name": "m", "model": "m", "size": 0, "digest": ""}]},
        "/api/version": {"version": "0.5.6"},
    },
    {"error": "Unauthorized"},
    server="uvicorn",
)
"""sgl-project/sglang, python/sglang/srt/entrypoints: http_server.py and ollama/."""

TABBY = Style(
    "tabbyapi",
    {
        "/.well-known/serviceinfo": {
            "version": 0.1,
            "software": {"name": "TabbyAPI", "repository": "https://github.com/theroyallab/tabbyAPI"},
            "api": {"openai": {"name": "OpenAI API", "relative_url": "/v1"}},
        },
        "/v1/models": {
            "object": "list",
            "data": [
                {"id": "m", "object": "model", "created": 1, "owned_by": "tabbyAPI"},
                {"id": "on-disk-only", "object": "model", "created": 1, "owned_by": "tabbyAPI"},
            ],
        },
        "/v1/model": {
            "id": "m",
            "object": "model",
            "created": 1,
            "owned_by": "tabbyAPI",
            "parameters": {"max_seq_len": 32_768, "cache_size": 65_536, "max_batch_size": 2, "use_vision": False},
        },
        "/props": {"total_slots": 2, "chat_template": "{{ x }}", "default_generation_settings": {"n_ctx": 32_768}},
    },
    {"detail": "Please provide an API key"},
    ("/.well-known/serviceinfo", "/health"),
    "uvicorn",
)
"""theroyallab/tabbyAPI at e632af4: endpoints/core/router.py, common/auth.py."""

KOBOLD = Style(
    "koboldcpp",
    {
        "/v1/models": {
            "object": "list",
            "data": [
                {
                    "id": "koboldcpp/m",
                    "object": "model",
                    "created": 1,
                    "owned_by": "koboldcpp",
                    "permission": [],
                    "root": "koboldcpp",
                }
            ],
        },
        "/api/extra/version": {
            "result": "KoboldCpp",
            "version": "1.76",
            "protected": True,
            "txt2img": False,
            "vision": False,
            "transcribe": False,
        },
        "/api/extra/true_max_context_length": {"value": 8192},
        "/api/extra/generate/check": {"results": [{"text": ""}]},
        "/api/tags": {"models": [{"name": "koboldcpp", "model": "koboldcpp/m", "size": 394_998_579, "digest": "b5"}]},
        "/api/version": {"version": "0.7.0"},
        "/props": {"total_slots": 1, "chat_template": "", "default_generation_settings": {"n_ctx": 8192}},
    },
    {"detail": {"error": "Unauthorized", "msg": "Authentication key is missing or invalid.", "type": "unauthorized"}},
    (
        *("/v1/models", "/api/extra/version", "/api/extra/true_max_context_length"),
        *("/api/tags", "/api/version", "/props"),
    ),
    "ConcedoLlamaForKoboldServer",
)
"""LostRuins/koboldcpp 1.76, koboldcpp.py; /api/version and /props are of later versions."""

MLX = Style(
    "mlx",
    {"/v1/models": {"object": "list", "data": [{"id": "mlx-community/m-4bit", "object": "model", "created": 1}]}},
    {},
)
"""ml-explore/mlx-lm 0.32.0, mlx_lm/server.py; the fake's own `Server` header is that of mlx_lm's server too."""

LLAMAFILE = Style(
    "llamafile",
    {
        "/v1/models": {
            "object": "list",
            "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "llamafile"}],
        },
        "/flagz": {"model": "m", "is_base_model": False},
    },
    {},
    server="llamafiler/0.9.3",
)
"""mozilla-ai/llamafile 0.9.3, llamafile/server/v1_models.cpp."""

LEMONADE = Style(
    "lemonade",
    {
        "/v1/models": {
            "object": "list",
            "data": [
                {
                    "id": "m",
                    "created": 1_744_173_590,
                    "object": "model",
                    "owned_by": "lemonade",
                    "checkpoint": "unsloth/m-GGUF:Q4_0",
                    "recipe": "llamacpp",
                    "size": 0.38,
                    "max_context_window": 40_960,
                    "context_length": 8192,
                    "downloaded": True,
                    "labels": ["reasoning"],
                },
                {"id": "seer", "object": "model", "recipe": "llamacpp", "size": 3.61, "labels": ["hot", "vision"]},
                {"id": "nomic-embed", "object": "model", "recipe": "llamacpp", "labels": ["embeddings"]},
                {"id": "SD-Turbo", "object": "model", "recipe": "sd-cpp", "size": 5.2, "labels": ["image"]},
                {"id": "fireworks.kimi", "object": "model", "recipe": "cloud", "cloud_provider": "fireworks"},
                {"id": "later", "object": "model", "recipe": "llamacpp", "downloaded": False},
            ],
        },
        "/v1/health": {
            "status": "ok",
            "version": "9.3.3",
            "model_loaded": "m",
            "all_models_loaded": [
                {"model_name": "m", "type": "llm", "recipe": "llamacpp", "recipe_options": {"ctx_size": 4096}}
            ],
            "max_models": {"llm": 1, "embedding": 1},
        },
        "/api/tags": {"models": [{"name": "m", "model": "m", "size": 380_000_000, "digest": "d"}]},
        "/api/version": {"version": "9.3.3"},
    },
    {"error": "Invalid or missing API key"},
    server="cpp-httplib",
)
"""lemonade-sdk/lemonade at e385039: its documents lemonade.md and openai.md, and server.cpp."""

STYLES = (SGLANG, TABBY, KOBOLD, MLX, LLAMAFILE, LEMONADE)
