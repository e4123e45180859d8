"""Recognizes errors in the answers of engines, reads their message, and finds out whose fault they are.

Servers write errors in many formats: `{"error": "text"}` (Ollama, LM Studio, TGI), `{"error": {"message": ...}}`
(OpenAI, llama.cpp, newer vLLM and SGLang), `{"object": "error", "message": ...}` (older vLLM), `{"type": "error", ...}`
(Anthropic), `{"detail": ...}` (FastAPI); in a stream with or without `event: error`, in a field `error:` of llama.cpp,
as plain text (mistral.rs), or as a finish reason (`failed_ends.py`). Some send them with status 200, so the status must
be found in the error itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from herd.protocols.failed_ends import is_failed, tells_failure
from herd.protocols.request_fields import ABSENT, has_content
from herd.protocols.valid_text import valid_text

ERROR_MAX_CHARACTERS = 300
"""A longer error text of an engine is truncated."""


ENDED_BY_ENGINE = "the engine ended the answer before it was complete"
ENDED_WITHOUT_REASON = "the engine ended the answer with [DONE], but gave no finish reason"
"""A server whose chunks have `finish_reason`, always null, has given up: LMDeploy and a path of vLLM end an aborted
request like that, and a cut answer that counts as whole is worse than a retry. Old versions of SGLang (0.4.4) and vLLM
(0.10, with tools) ended whole answers like that too. Those without the field are whole with [DONE]."""


@dataclass(frozen=True, slots=True)
class EngineError:
    """An error that an engine reported. `status` is None if the error does not show whether the request caused it."""

    message: str
    status: int | None = None
    body: bytes = b""
    """The JSON that the engine sent, without the framing of a stream."""


def read_error(data: bytes) -> EngineError | None:
    """The error in a document or in the events of a stream; None if these bytes report no error."""
    is_marked = data.startswith(_ERROR_FIELDS)
    for body in _documents(data):
        error = _decode(body)
        if error is not None and (error.is_reported or is_marked):
            return EngineError(_message(error, body), _status(error), body)
        if tells_failure(body):
            return EngineError(ENDED_BY_ENGINE, 500, msgspec.json.encode({"error": ENDED_BY_ENGINE}))
    plain = _PLAIN_TEXT.search(data)
    if is_marked or plain is not None:
        text = _beginning(_documents(data)[0] if plain is None else plain[1]) or "an error without a message"
        return EngineError(text, _status_of_text(text), msgspec.json.encode({"error": text}))
    return None


def split_at_error(lines: bytes) -> tuple[bytes, bytes]:
    """The bytes before the first line that reports an error, and the rest. `lines` must be complete lines."""
    if not may_report_error(lines):
        return lines, b""
    at = 0
    for line in lines.splitlines(keepends=True):
        if _reports_error(line):
            return lines[:at], lines[at:]
        at += len(line)
    return lines, b""


class ErrorSearch:
    """Finds errors in a stream. Lines that begin and end like earlier ones cost one search instead of several."""

    __slots__ = ("_end", "_line_breaks", "_start")

    def __init__(self) -> None:
        self._start, self._end, self._line_breaks = b"", b"", -1

    def split(self, lines: bytes) -> tuple[bytes, bytes]:
        """Like `split_at_error`."""
        if self.are_usual(lines):
            return lines, b""
        found = split_at_error(lines)
        if not found[1] and lines.endswith(b"\n"):
            self._learn(lines)
        return found

    def are_usual(self, lines: bytes) -> bool:
        """Whether these are whole lines that begin and end like earlier ones, so that they report no error."""
        return (
            lines.endswith(self._end)
            and lines.startswith(self._start)
            and b"rror" not in lines
            and lines.count(b"\n") == self._line_breaks
        )

    def _learn(self, lines: bytes) -> None:
        """Remembers the beginning and the end of an event without an error, one of which has its finish reason.

        The text, which is different every time, must be in neither of them.
        """
        self._line_breaks = lines.count(b"\n")
        at = lines.rfind(_NO_REASON)
        if at < 0 and lines.startswith(b"event:"):
            self._start, self._end = lines[: lines.find(b"\n") + 1], lines[lines.rfind(b'"') :]
        elif at < 0:
            self._start, self._end = lines[:12], lines[-14:]
        elif at < len(lines) - at:
            self._start, self._end = lines[: at + len(_NO_REASON)], lines[-3:]
        else:
            self._start, self._end = lines[:6], lines[at:]


def may_report_error(lines: bytes) -> bool:
    """A quick test, which is True for few lines that report no error."""
    if b"rror" in lines or tells_failure(lines):
        return True
    if lines.startswith(_RESPONSE_STARTS) and any(status in lines for status in _FAILED_STATUSES):
        return True
    if lines.startswith(b"{"):
        return b'"done"' not in lines and b'"choices"' not in lines
    return lines.count(b"data:") != lines.count(b'data: {"') or not (b'"choices"' in lines or b'"type"' in lines)


def _reports_error(line: bytes) -> bool:
    if line.startswith(_ERROR_FIELDS) or _PLAIN_TEXT.match(line):
        return True
    is_possible = any(member in line for member in _ERROR_MEMBERS)
    return (is_possible and _is_error_line(line)) or tells_failure(line)


def is_incomplete(error: bytes) -> bool:
    """Whether the error of a stream has begun, but the line with its text has not arrived yet."""
    return error.startswith(_ERROR_FIELDS) and not error.replace(b"\r", b"").endswith(b"\n\n")


def error_text(body: bytes) -> str:
    """The message in an error answer of an engine; for an unknown format, the beginning of the body."""
    for document in _documents(body):
        error = _decode(document)
        if error is not None:
            return _message(error, document)
    return _beginning(body)


def error_in(member: msgspec.Raw) -> EngineError | None:
    """The error in the member `error` of an answer; None if it is absent or empty."""
    return read_error(b'{"error":' + member + b"}") if has_content(member, _NO_ERROR) else None


def blames_request(body: bytes) -> bool:
    """Whether an error with status 500 says that the engine could not read the request, which no node could."""
    return _UNREADABLE_REQUEST.search(body) is not None


def tells_crash(body: bytes) -> bool:
    """Whether an error says that the process of the model died, and not for want of memory on this node."""
    return _CRASHED.search(body) is not None and not _OUT_OF_MEMORY.search(body)


class _Details(msgspec.Struct, kw_only=True):
    """The object in which most servers describe an error."""

    message: msgspec.Raw = ABSENT
    type: msgspec.Raw = ABSENT
    code: msgspec.Raw = ABSENT


class _Error(_Details, kw_only=True):
    error: msgspec.Raw = ABSENT
    errors: msgspec.Raw = ABSENT
    error_type: msgspec.Raw = ABSENT
    error_message: msgspec.Raw = ABSENT
    object: msgspec.Raw = ABSENT
    detail: msgspec.Raw = ABSENT
    success: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    choices: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    done: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT

    @property
    def is_reported(self) -> bool:
        kind = _text(self.type)
        if has_content(self.error, _NO_ERROR) or _text(self.object) == "error" or kind in _ERROR_TYPES:
            return True
        if kind in _RESPONSE_ENDS:
            response = _decode(bytes(self.response))
            return response is not None and is_failed(_text(response.status))
        if has_content(self.error_message, _NO_ERROR) or has_content(self.error_type, _NO_ERROR):
            return not has_content(self.choices)
        return not self._has_answer and self._is_description

    @property
    def _has_answer(self) -> bool:
        """Whether it has a member of an answer, so that the members of a description mean something else."""
        answer = (self.choices, self.response, self.done, self.usage, self.data)
        return any(has_content(member, _NO_ANSWER) for member in answer) or bool(_text(self.type))

    @property
    def _is_description(self) -> bool:
        """Whether it describes an error without a member of that name."""
        if has_content(self.errors, _NO_ERROR) or has_content(self.detail, _NO_ERROR):
            return True
        is_failure = bytes(self.success) == b"false" or _text(self.status) in ("error", "failed", "failure")
        return is_failure or bool(_text(self.message) and (_text(self.code) or _text(self.status)))


class _Detail(msgspec.Struct):
    """One finding of FastAPI's validation."""

    msg: str = ""


_ERROR = msgspec.json.Decoder(_Error)
_DETAILS = msgspec.json.Decoder(_Details)
_FINDINGS = msgspec.json.Decoder(list[_Detail])
_TEXT = msgspec.json.Decoder(str | int | float | None)
_NO_ERROR = frozenset((b"null", b"{}", b"[]", b'""', b"false"))
_ERROR_TYPES = frozenset(("error", "response.failed", "response.cancelled", "response.error"))
_RESPONSE_ENDS = frozenset(("response.completed", "response.incomplete"))
_RESPONSE_STARTS = (b"event: response.", b'data: {"type":"response.', b'data: {"type": "response.')
_FAILED_STATUSES = (b'"status":"cancelled"', b'"status":"failed"', b'"status": "cancelled"', b'"status": "failed"')
_NO_REASON = b'_reason":null'
_NO_ANSWER = frozenset((b"null",))
_ERROR_MEMBERS = (b"rror", b'"detail"', b'"success"', b'"status"', b'"code"')
_ERROR_FIELDS = (b"event: error", b"event:error", b"error:")
_PLAIN_TEXT = re.compile(rb"(?:data:[ ]?(?=[A-Za-z<])(?!null\b|true\b|false\b)|(?=<[!A-Za-z]))(.*)")
"""An event of plain words, or the page of a proxy in front of the engine, where only JSON may be."""
_UNREADABLE_REQUEST = re.compile(
    rb"Failed to parse (?!input\b)\w|\[json\.exception\.|must be of (?:type|an? )\b|\binvalid format\b"
    rb"|\b(?:image|audio|video|tool|function|embedding)s?\b[^\"]{0,40}\bnot support"
    rb"|\bnot support[^\"]{0,40}\b(?:image|audio|video|tool|function|embedding)s?\b"
)
"""llama.cpp's and Ollama's words for messages, tools, options and formats of a wrong type (found by `tests/fidelity`),
and for an image or another input that the model cannot read, whatever kind of server forwards them.
"Failed to parse input" is about the model's answer."""
_CRASHED = re.compile(
    rb"process (?:has terminated|no longer running)|has unexpectedly stopped|while running the model: unexpected EOF"
    rb"|model has crashed"
)
"""The words of Ollama's versions for a runner that died while it loaded or generated, and those of LM Studio."""
_OUT_OF_MEMORY = re.compile(rb"memory|alloc", re.IGNORECASE)
_FIELD = re.compile(rb"^(?:data|error):[ ]?(.*)$", re.MULTILINE)
_UNWRAPPED_MAX = 3
"""How often a message that is itself JSON is read: Ollama puts the error of its runner into a string."""

_STATUS_BY_TYPE = (
    (404, re.compile("not_?found", re.IGNORECASE)),
    (429, re.compile("rate_?limit", re.IGNORECASE)),
    (503, re.compile("overloaded|unavailable", re.IGNORECASE)),
    (400, re.compile("invalid|bad_?request|validation|exceed_context|context_length|not_supported", re.IGNORECASE)),
    (500, re.compile("server|internal|api_error|generation", re.IGNORECASE)),
)
"""The status that belongs to the type of an error. Types are words such as `invalid_request_error`."""

_STATUS_BY_TEXT = (
    (
        404,
        re.compile(
            r"model\b.*\bnot found|no models? loaded|no such model|unknown model|(?:could|can) ?not find model"
            r"|not a valid model\b|model\b(?:\W+\S+){0,2}?\W+(?:(?:does |do )?not|doesn.t) exist",
            re.IGNORECASE,
        ),
    ),
    (
        500,
        re.compile(
            r"crash|unexpected eof|out of memory|failed to (?:load|allocate)|compute error|internal|runner|cuda|metal"
            r"|timed? ?out|terminated|segmentation|unloaded|channel error|fatal",
            re.IGNORECASE,
        ),
    ),
    (
        400,
        re.compile(
            r"context|too (?:long|large|many)|exceed|invalid|not support|unsupported|must (?:be|have|not)|expected"
            r"|required|missing|malformed|unexpected endpoint|unrecognized|unknown|schema|template|jinja|grammar|parse"
            r"|prompt|token|image|parameter|messages?\b",
            re.IGNORECASE,
        ),
    ),
)
"""The status that a message without type and code implies. A fault of the server counts first."""


def _documents(data: bytes) -> list[bytes]:
    """The JSON documents in a body: the data of its events, each line and all together, or else the body itself."""
    found = [value.strip() for value in _FIELD.findall(data)] or [data.strip()]
    return found if len(found) == 1 else [*found, b"\n".join(found)]


def _is_error_line(line: bytes) -> bool:
    error = _decode(line.removeprefix(b"data:").strip())
    return error is not None and error.is_reported


def _decode(body: bytes) -> _Error | None:
    try:
        return _ERROR.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        valid = valid_text(body)
        return _decode(valid) if valid != body else None


def _details(error: _Error) -> _Details:
    """The object that describes the error: the member `error`, that of a failed response, or the answer itself."""
    if not has_content(error.error, _NO_ERROR):
        response = _decode(bytes(error.response)) if has_content(error.response) else None
        return error if response is None else _details(response)
    try:
        return _DETAILS.decode(error.error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error


def _text(value: msgspec.Raw) -> str:
    """The value as a text; empty if it is absent, null, a list or an object."""
    if not memoryview(value).nbytes:
        return ""
    try:
        text = _TEXT.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return "" if text is None else str(text)


def _message(error: _Error, body: bytes) -> str:
    details = _details(error)
    text = _text(error.error) if bytes(error.error) != b"true" else ""
    text = text or _text(details.message) or _text(error.message) or _text(error.error_message)
    text = text or _detail_text(error.detail)
    for _ in range(_UNWRAPPED_MAX):
        inner = _decode(text.encode("utf-8", "replace")) if text.lstrip().startswith("{") else None
        more = (_text(inner.error) or _text(_details(inner).message)) if inner is not None else ""
        if not more:
            break
        text = more
    return text[:ERROR_MAX_CHARACTERS].strip() or _beginning(body)


def _detail_text(detail: msgspec.Raw) -> str:
    if _text(detail):
        return _text(detail)
    try:
        return "; ".join(finding.msg for finding in _FINDINGS.decode(detail) if finding.msg)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _beginning(body: bytes) -> str:
    return body.decode("utf-8", "replace")[:ERROR_MAX_CHARACTERS].strip()


def _status(error: _Error) -> int | None:
    """The status in the error's code, else the status that its type or its message implies."""
    details = _details(error)
    for code in (_text(details.code), _text(error.code), _text(error.status)):
        if code.isascii() and code.isdigit() and len(code) == 3 and 400 <= int(code) <= 599:
            return int(code)
    for kind in (_text(details.code), _text(details.type), _text(error.error_type)):
        status = next((status for status, words in _STATUS_BY_TYPE if kind and words.search(kind)), None)
        if status is not None:
            return status
    return _status_of_text(
        _text(error.error) or _text(details.message) or _text(error.message) or _text(error.error_message)
    )


def _status_of_text(text: str) -> int | None:
    return next((status for status, words in _STATUS_BY_TEXT if words.search(text)), None)
