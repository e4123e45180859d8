"""Decides whether an engine's error response is a failure of the node or an error in the client's request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from herd.coordinator.upstream import forwarded_headers
from herd.core.state.commands import Dispatch
from herd.core.state.refusals import prompt_too_long
from herd.core.state.request import Failure, FailureKind
from herd.engines import Engine
from herd.errors import Refusal
from herd.http1.contract import Header
from herd.protocols.apply_options import retry_prompt_tokens
from herd.protocols.conversation import ParsedRequest
from herd.protocols.engine_errors import error_text
from herd.protocols.openai.responses_history import with_own_places
from herd.protocols.valid_text import valid_text

_EVERYWHERE = frozenset(("completion",))
_FIELD_END = re.compile(r"[.\[]")
_UNSUPPORTED = re.compile(
    r"(?:\bnot|n't)\b.{0,20}\bsupport|unsupported|not an? multi-?modal|not enabled|not implemented|requires --",
    re.IGNORECASE,
)
"""The words of engines for a feature that they, or the model as they run it, do not have."""
JSON_HEADERS: tuple[Header, ...] = ((b"content-type", b"application/json"),)
"""The headers of an error that was a part of a stream."""


def classify_error(
    engine: Engine, command: Dispatch, status: int, headers: list[Header], body: bytes, is_continuation: bool
) -> Failure | Refusal | None:
    """A failure to retry on another node, a refusal to send to the client, or None to forward the error response.

    An error that the request caused has a status below 500: clients send a request again after 500 and 501.
    `is_continuation`: the client has already received a part of the answer from another node.
    """
    options, model_info, too_long = command.options, command.model_info, engine.rejected_prompt_tokens(status, body)
    if retry_prompt_tokens(too_long, options, model_info):
        return Failure(kind=FailureKind.WINDOW, detail=f"the prompt has {too_long} tokens", prompt_tokens=too_long)
    if too_long and options is not None and options.forbids_truncation and not is_continuation:
        return prompt_too_long(too_long, options, model_info)
    kind = engine.failure_kind(status, body, is_continuation=is_continuation)
    if kind is None:
        code = "not_supported" if status == 501 or b"not support" in body else "invalid_request"
        return Refusal(400, code, error_text(body)) if status >= 500 else None
    retry_after_s = forwarded_headers.retry_after_s(headers) if kind is FailureKind.BUSY else None
    return Failure(
        kind=kind,
        detail=f"the engine answered {status}",
        status=status,
        retry_after_s=retry_after_s,
        engine_text=error_text(body),
    )


def refusal_of_feature(parsed: ParsedRequest, status: int, body: bytes) -> Failure | None:
    """The failure, if the engine refuses a feature of the request that an engine of another kind may have; else None.

    Its error must say so, or name the field: an error in the request itself would be the same everywhere.
    """
    fields = [*parsed.special_fields, *(parsed.needs - _EVERYWHERE)]
    if not fields or status in (401, 403, 404):
        return None
    text = error_text(body)
    names = "|".join(re.escape(_FIELD_END.split(name, maxsplit=1)[0]) for name in fields)
    if not _UNSUPPORTED.search(text) and not re.search(rf"\b(?:{names})\b", text):
        return None
    return Failure(
        kind=FailureKind.UNSUPPORTED, detail=f"the engine answered {status}", status=status, engine_text=text
    )


def refusal_body(held: Sequence[bytes], passed: ParsedRequest | None) -> bytes:
    """An engine's error in valid text. The places that it names are those in the request that was passed to it."""
    return with_own_places(valid_text(b"".join(held)), passed.earlier_items if passed is not None else 0)


def refusal_of_error(status: int, body: bytes) -> Refusal:
    """The engine's error for a client whose protocol has another format for errors."""
    return Refusal(status, "invalid_request", error_text(body) or f"the node answered {status}")


def has_own_options(parsed: ParsedRequest, command: Dispatch) -> bool:
    """Whether the node got options of the client that decide how it starts the model."""
    options = command.options
    is_changed = options is not None and (options.drops_options or options.window_tokens is not None)
    return not is_changed and (parsed.has_runner_options or parsed.window_tokens is not None)
