"""Reads files in content parts of OpenAI's APIs as text: `file` in chats, `input_file` in Responses.

Engines know no files, and some refuse the whole request for one. A text reaches every model as a text; for any other
file the model gets its name, so that it can say that it could not read it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

FILE_TYPES: Final = ("file", "input_file")
"""Types of content parts that are files. Clients use both in both APIs."""


def data_uri(url: str, default_type: str) -> tuple[str, str] | None:
    """Base64 and media type of a `data:` URI; None for another URI."""
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        return None
    return data, head[len("data:") : -len(";base64")].partition(";")[0] or default_type


def file_text(part: Mapping[str, Any]) -> str | None:
    """The text of a file that the request contains; None for binary files and those that are elsewhere."""
    given = _description(part)
    data, name = given.get("file_data"), given.get("filename")
    if not isinstance(data, str):
        return None
    uri = data_uri(data, "")
    try:
        text = base64.b64decode(uri[0] if uri is not None else data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    if "\0" in text or text.startswith("%PDF-"):
        return None
    return f"{name}:\n{text}\n" if isinstance(name, str) and name else f"{text}\n"


def unread_file(part: Mapping[str, Any]) -> str:
    """What the model gets in place of a file without text: which file it is, in words that it can repeat."""
    return f"[Document that cannot be read here: {_origin(part)}]\n"


def _origin(part: Mapping[str, Any]) -> str:
    given = _description(part)
    for name in ("filename", "file_url", "file_id"):
        if isinstance(given.get(name), str) and given[name]:
            return str(given[name])
    data = given.get("file_data")
    uri = data_uri(data, "") if isinstance(data, str) else None
    return uri[1] if uri is not None and uri[1] else "unknown source"


def _description(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object with the name and the data, which is the part itself in Responses."""
    nested = part.get("file")
    return nested if isinstance(nested, Mapping) else part
