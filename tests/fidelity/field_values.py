"""Lists values for every field of the published request schemas, from which `corpus.py` builds requests.

The names come from the official SDK packages: a test fails if a new version of a package has a field without a value
here. A value is valid JSON for the API of its vendor; whether an engine accepts it is decided by the engine.
"""

from __future__ import annotations

from typing import Any

Values = dict[str, list[Any]]

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FUNCTION = {"name": "weather", "description": "Tells the weather.", "parameters": WEATHER}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
STRICT_TOOL = {"type": "function", "function": FUNCTION | {"strict": True}}
CUSTOM_TOOL = {"type": "custom", "custom": {"name": "shell", "description": "Runs a command."}}
FLAT_TOOL = {"type": "function", **FUNCTION}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}

CALLED: list[Any] = [
    {"role": "user", "content": "What is the weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
]

CHAT: Values = {
    "messages": [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi."}],
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Say hi."}],
        [{"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": " hi."}]}],
        [{"role": "user", "name": "ada", "content": "Say hi."}],
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "?"}],
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "refusal": "No.", "content": None}],
        [{"role": "user", "content": "Ünï çødé 🙂 東京"}],
        CALLED,
        [*CALLED, {"role": "user", "content": "And tomorrow?"}],
    ],
    "audio": [{"voice": "alloy", "format": "mp3"}],
    "frequency_penalty": [0.5],
    "function_call": ["auto", "none"],
    "functions": [[FUNCTION]],
    "logit_bias": [{"5": 1.0}, {}],
    "logprobs": [False, True],
    "max_completion_tokens": [6],
    "max_tokens": [3, 8],
    "metadata": [{"run": "7"}, {"tags": ["a", "b"]}, {}],
    "modalities": [["text"]],
    "moderation": [{"model": "omni-moderation-latest"}],
    "n": [1, 2],
    "parallel_tool_calls": [True, False],
    "prediction": [{"type": "content", "content": "hello"}],
    "presence_penalty": [0.5],
    "prompt_cache_key": ["k"],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["24h"],
    "reasoning_effort": ["low", "none"],
    "response_format": [{"type": "text"}, {"type": "json_object"}, SCHEMA_FORMAT],
    "safety_identifier": ["someone"],
    "seed": [7],
    "service_tier": ["auto"],
    "stop": ["zz", ["zz", "yy"], None],
    "store": [True, False],
    "stream_options": [{"include_usage": True}, {"include_usage": False}],
    "temperature": [0, 0.0],
    "tool_choice": ["auto", "none"],
    "tools": [[CHAT_TOOL], [STRICT_TOOL], [CHAT_TOOL, CUSTOM_TOOL], []],
    "top_logprobs": [2],
    "top_p": [1, 0.9],
    "user": ["someone"],
    "verbosity": ["low"],
    "web_search_options": [{}],
}

COMPLETION: Values = {
    "prompt": ["Once upon", "Ünï 🙂"],
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0.5],
    "logit_bias": [{"5": 1.0}],
    "logprobs": [None],
    "max_tokens": [3, 8],
    "n": [1],
    "presence_penalty": [0.5],
    "seed": [7],
    "stop": ["zz", ["zz"]],
    "stream_options": [{"include_usage": True}],
    "suffix": ["the end."],
    "temperature": [0],
    "top_p": [0.9],
    "user": ["someone"],
}

EMBEDDING: Values = {
    "input": ["a text", ["a", "b"], ["Ünï 🙂"]],
    "dimensions": [3],
    "encoding_format": ["float", "base64"],
    "user": ["someone"],
}

RESPONSES: Values = {
    "input": [
        [{"role": "user", "content": "Say hi."}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hi."}]}],
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Say hi."}],
        [
            {"role": "user", "content": "What is the weather?"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
        ],
    ],
    "access_programs": [[]],
    "background": [False],
    "background_options": [{}],
    "context_management": [None],
    "conversation": [None],
    "image": [None],
    "include": [["reasoning.encrypted_content"], []],
    "instructions": ["Be brief."],
    "max_output_tokens": [16],
    "max_tool_calls": [3],
    "metadata": [{"run": "7"}],
    "moderation": [None],
    "parallel_tool_calls": [True, False],
    "previous_response_id": [None],
    "prompt": [None],
    "prompt_cache_key": ["k"],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["24h"],
    "reasoning": [{"effort": "low"}, {"effort": "none"}, {"summary": "auto"}],
    "safety_identifier": ["someone"],
    "service_tier": ["auto"],
    "store": [True, False],
    "stream_options": [{"include_obfuscation": False}],
    "temperature": [0],
    "text": [{"format": {"type": "text"}}, {"verbosity": "low"}],
    "tool_choice": ["auto", "none"],
    "tools": [[FLAT_TOOL], [FLAT_TOOL, {"type": "web_search"}], []],
    "top_logprobs": [0],
    "top_p": [0.9],
    "truncation": ["auto", "disabled"],
    "user": ["someone"],
}

MESSAGES: Values = {
    "messages": [
        [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}}]}],
        [
            {"role": "user", "content": "What is the weather?"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Rain."}]},
        ],
    ],
    "cache_control": [{"type": "ephemeral"}],
    "container": [None],
    "diagnostics": [None],
    "inference_geo": ["us"],
    "max_tokens": [3, 8],
    "metadata": [{"user_id": "someone"}],
    "output_config": [{"effort": "low"}],
    "service_tier": ["auto"],
    "speed": ["standard"],
    "stop_sequences": [["zz"]],
    "system": ["Be brief.", [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]],
    "temperature": [0],
    "thinking": [{"type": "disabled"}, {"type": "adaptive"}],
    "tool_choice": [{"type": "auto"}, {"type": "auto", "disable_parallel_tool_use": True}],
    "tools": [
        [{"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}],
        [{"name": "weather", "input_schema": WEATHER}, {"type": "web_search_20250305", "name": "web_search"}],
    ],
    "top_k": [40],
    "top_p": [0.9],
    "user_profile_id": [None],
    "workspace_id": [None],
}

OPTIONS: dict[str, Any] = {
    "num_keep": 4,
    "seed": 7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 16,
    "temperature": 0,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "stop": ["zz"],
}
MORE_OPTIONS: tuple[dict[str, Any], ...] = (
    *({"stop": stop} for stop in ([], ["zz", "yy"], ["\n\n", "User:", "zz"])),
    *({"mirostat": number} for number in (0, 1, 2)),
    {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.2},
    {"typical_p": 0.5},
    {"num_keep": 0},
    {"num_keep": -1},
    *({"penalize_newline": value} for value in (True, False)),
    *({"num_gpu": number} for number in (0, 1)),
    {"num_ctx": 4096},
    {"num_ctx": 4096, "num_batch": 128},
    {"num_thread": 1},
    {"use_mmap": False},
    *({name: True} for name in ("numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock")),
    {"tfs_z": 0.9},
    {"unknown_option": 7},
)
"""Several options at once, other values, those that reload a model, and those that Ollama no longer reads."""
THINKING = (False, None)
"""Values of `think` that a model without thinking takes; the other ones are in `capable_models.py`."""

OLLAMA_CHAT: Values = {
    "messages": [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi."}],
        [
            {"role": "user", "content": "What is the weather?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bonn"}}}]},
            {"role": "tool", "tool_name": "weather", "content": "Rain."},
        ],
    ],
    "options": [*({name: value} for name, value in OPTIONS.items()), *MORE_OPTIONS],
    "format": ["json", PERSON, ""],
    "keep_alive": ["5m", 300, -1],
    "tools": [[CHAT_TOOL], []],
    "think": [*THINKING],
    "logprobs": [True, False],
    "top_logprobs": [2],
}

OLLAMA_GENERATE: Values = {
    "prompt": ["Once upon", "Ünï 🙂"],
    "suffix": ["the end."],
    "system": ["Be brief."],
    "template": ["{{ .Prompt }}"],
    "context": [[1, 2, 3]],
    "raw": [True, False],
    "images": [[]],
    "options": [*({name: value} for name, value in OPTIONS.items()), *MORE_OPTIONS],
    "format": ["json", PERSON],
    "keep_alive": ["5m", 300],
    "think": [*THINKING],
    "logprobs": [True],
    "top_logprobs": [2],
    "width": [0],
    "height": [0],
    "steps": [0],
}

OLLAMA_EMBED: Values = {
    "input": ["a text", ["a", "b"]],
    "truncate": [True, False],
    "options": [{"num_batch": 512}, {}],
    "keep_alive": ["5m"],
    "dimensions": [3],
}
