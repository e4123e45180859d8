"""Every field of the schemas that the vendors' packages publish has a value in the corpus."""

from __future__ import annotations

import anthropic.types.message_create_params
import ollama._types
import openai.types.chat.completion_create_params
import openai.types.completion_create_params
import openai.types.embedding_create_params
import openai.types.responses.response_create_params
import pytest

from fidelity import field_values
from fidelity.field_values import Values

REQUIRED = {"model", "stream"}
"""Fields that every request of the corpus has."""
RUNNER_OPTIONS = {
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "num_predict"),
    *("numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "embedding_only"),
    *("tfs_z", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"),
}
"""Options that reload a model, set by the base of a request, or removed from Ollama."""

SCHEMAS: list[tuple[Values, type]] = [
    (field_values.CHAT, openai.types.chat.completion_create_params.CompletionCreateParamsStreaming),
    (field_values.COMPLETION, openai.types.completion_create_params.CompletionCreateParamsStreaming),
    (field_values.EMBEDDING, openai.types.embedding_create_params.EmbeddingCreateParams),
    (field_values.RESPONSES, openai.types.responses.response_create_params.ResponseCreateParamsStreaming),
    (field_values.MESSAGES, anthropic.types.message_create_params.MessageCreateParamsStreaming),
    (field_values.OLLAMA_CHAT, ollama._types.ChatRequest),
    (field_values.OLLAMA_GENERATE, ollama._types.GenerateRequest),
    (field_values.OLLAMA_EMBED, ollama._types.EmbedRequest),
]


@pytest.mark.parametrize(("values", "schema"), SCHEMAS, ids=lambda one: getattr(one, "__name__", ""))
def test_every_published_field_has_a_value(values: Values, schema: type) -> None:
    # The fields of a parameter type include inherited ones; pydantic models list theirs by name.
    published = set(getattr(schema, "model_fields", None) or schema.__annotations__)
    assert published - REQUIRED <= set(values)


def test_every_option_of_ollama_has_a_value() -> None:
    assert set(ollama._types.Options.model_fields) - RUNNER_OPTIONS <= set(field_values.OPTIONS)
