"""Builds requests for models that think, fill in the middle or see, and for those that cannot, in every API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fidelity.corpus import Json, Sample
from fidelity.field_values import PIXEL
from fidelity.published import LIMITS, endpoint_of, images

THINKS, INSERTS, SEES, PLAIN = "thinks", "inserts", "sees", "chat"
"""The roles of the models."""

LEVELS = ("low", "medium", "high", "max")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
ANSWERED: list[Any] = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hm.", "thinking": "They greet."},
    {"role": "user", "content": "And?"},
]


def thinking_fields() -> Iterator[tuple[str, Json]]:
    """Every way to switch thinking on and off, and to set its level."""
    for path in ("/api/chat", "/api/generate"):
        yield from ((path, {"think": value}) for value in (True, False, None, *LEVELS))
    yield "/api/chat", {"messages": ANSWERED, "think": True}
    yield from (("/v1/chat/completions", {"reasoning_effort": effort}) for effort in EFFORTS)
    yield from (("/v1/responses", {"reasoning": {"effort": effort}}) for effort in EFFORTS)
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, {"type": "disabled"}):
        yield "/v1/messages", {"thinking": thinking}


def suffix_fields() -> Iterator[tuple[str, Json]]:
    for suffix in ("return c", "", "\n\n", "Ünï 🙂"):
        yield "/v1/completions", {"prompt": "def add(a, b):", "suffix": suffix}
        yield "/api/generate", {"prompt": "def add(a, b):", "suffix": suffix}
    yield "/api/generate", {"prompt": "a", "suffix": "b", "raw": True}
    yield "/api/generate", {"prompt": "a", "suffix": "b", "system": "Be brief."}


def for_models(fields: Iterator[tuple[str, Json]], *roles: str, limit_tokens: int = 6) -> Iterator[Sample]:
    """These requests to each of the models, streamed and not."""
    for path, more in fields:
        for role in roles:
            endpoint = replace(endpoint_of(path), model=role)
            for streams in (False, True):
                body = _limited({**endpoint.base, **more, "stream": streams}, limit_tokens)
                yield Sample(endpoint, body, (role, str(more)))


def _limited(body: Json, limit_tokens: int) -> Json:
    if "options" in body:
        return body | {"options": body["options"] | {"num_predict": limit_tokens}}
    return body | {name: limit_tokens for name in LIMITS if name in body}


def pictures(*roles: str) -> Iterator[Sample]:
    for sample in (*images(), *_several_images()):
        for role in roles:
            yield replace(sample, endpoint=replace(sample.endpoint, model=role), fields=(role, *sample.fields))


def _several_images() -> Iterator[Sample]:
    endpoint = endpoint_of("/api/chat")
    messages = [{"role": "user", "content": "Compare.", "images": [PIXEL, PIXEL]}]
    yield Sample(endpoint, {**endpoint.base, "messages": messages, "stream": False}, ("two images",))
