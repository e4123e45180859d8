"""Defines the errors that clients can get, which each dialect renders in its own JSON format.

    HerdError
    ├── BadRequest        400  the request itself is wrong
    ├── UnknownModel      404  no node has it
    ├── NotFound          404  something else that the request names does not exist
    ├── MethodNotAllowed  405  with Allow
    ├── TooLarge          413  body over the limit
    ├── HeadersTooLarge   431  head over the limit
    └── Unavailable       503  the model exists, but no node can serve it now; with Retry-After

Internally a rejected request is a value (`Refusal`). The exceptions carry such a value; they are for parsers of input,
which must stop at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is rejected: an HTTP status, a stable code and a message for people.

    `code` is a standard term in snake case ("model_not_found", "body_too_large"), which dialects map to their own
    type names. `retry_after_s` is set where a retry may succeed.
    """

    status: int
    code: str
    message: str
    retry_after_s: float | None = None
    allow: str | None = None


class HerdError(Exception):
    """An exception that carries a refusal."""

    status = 500
    code = "internal_error"

    def __init__(
        self, message: str, code: str | None = None, retry_after_s: float | None = None, allow: str | None = None
    ) -> None:
        super().__init__(message)
        self.refusal = Refusal(self.status, code or self.code, message, retry_after_s, allow)


class BadRequest(HerdError):
    status = 400
    code = "invalid_request"


class UnknownModel(HerdError):
    status = 404
    code = "model_not_found"


class NotFound(HerdError):
    status = 404
    code = "not_found"


class MethodNotAllowed(HerdError):
    status = 405
    code = "method_not_allowed"


class TooLarge(HerdError):
    status = 413
    code = "body_too_large"


class HeadersTooLarge(HerdError):
    status = 431
    code = "headers_too_large"


class Unavailable(HerdError):
    status = 503
    code = "unavailable"
