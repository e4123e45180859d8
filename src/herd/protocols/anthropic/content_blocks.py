"""Reads the content blocks of Anthropic's messages, and renders as text those that the neutral form has no word for.

Blocks of Anthropic's own tools, documents and references stay in a conversation for all its later turns. None of them
is therefore an error: a block is rendered as text or left out, and named. Encrypted contents, signatures and binary
data are left out of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from herd.errors import BadRequest

Block = dict[str, Any]
Content = str | list[Block] | None

DEPTH_MAX = 8
"""Depth to which unknown blocks are searched for text; the blocks of the published schema are not deeper than this."""

NAME_MAX_CHARS = 64

_LEFT_OUT = frozenset(("redacted_thinking", "fallback", "mcp_tool_listing", "tool_addition", "tool_removal"))
"""Blocks without any text for the model."""

_TEXT_FIELDS = (
    *("title", "name", "tool_name", "url", "source", "context", "text", "content", "stdout", "stderr", "lines"),
    *("tool_references", "error_code", "error_message", "file_id", "file_path", "tabs", "state_changes"),
)
"""The fields of rendered blocks that the model may read, in the order of the text."""

_CALLS = frozenset(("server_tool_use", "mcp_tool_use"))
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def type_name(block: Mapping[str, Any]) -> str:
    """The type of a block or tool as it may appear in the name of an ignored field."""
    kind = block.get("type")
    return field_name(kind) if isinstance(kind, str) and kind else "unknown"


def field_name(name: str) -> str:
    """A name from the client in a form that is safe in headers and logs."""
    return _UNSAFE.sub("_", name[:NAME_MAX_CHARS])


def block_type(block: Block, where: str = "messages") -> str:
    """The type of a block. Raises BadRequest, which names `where`, for a block without one."""
    kind = block.get("type")
    if isinstance(kind, str) and kind:
        return kind
    raise BadRequest(f"{where}: each content block must have a type")


def text_of(block: Block, ignored: list[str], where: str) -> str:
    """The text of any block: its own if it is a `text` block, else the text that shows it. Raises BadRequest."""
    if block_type(block, where) != "text":
        return rendered(block, ignored, where)
    text = block.get("text")
    if isinstance(text, str):
        return text
    raise BadRequest(f"{where}: the text of a text block must be a string")


def joined_text(content: Content, ignored: list[str], where: str) -> str:
    """The text of content without images, one line or more for each block. Raises BadRequest."""
    if not isinstance(content, list):
        return content or ""
    return _lines([text_of(block, ignored, where) for block in content])


def image(block: Block) -> tuple[str, str] | None:
    """The base64 data and media type of an image block; None for other blocks and for images that are elsewhere."""
    source = block.get("source")
    if block.get("type") != "image" or not isinstance(source, dict) or source.get("type") != "base64":
        return None
    data, media_type = source.get("data"), source.get("media_type")
    if not isinstance(data, str):
        raise BadRequest("messages: the data of an image must be a string in base64")
    return data, media_type if isinstance(media_type, str) else "image/png"


def rendered(block: Block, ignored: list[str], where: str = "messages.content") -> str:
    """A block as text, which is empty for one without any. Whatever the text lacks is named in `ignored`."""
    kind = block_type(block)
    if kind == "document":
        return _document(block, ignored, where)
    name_once(ignored, f"{where}.{type_name(block)}")
    if kind in _LEFT_OUT:
        return ""
    if kind == "image":
        return f"[Image that cannot be shown here: {_origin(block.get('source'))}]"
    if kind == "tool_reference":
        return f"[Tool available: {block.get('tool_name')}]"
    if kind == "container_upload":
        return f"[Uploaded file that cannot be read here: {block.get('file_id')}]"
    if kind in _CALLS:
        return f"[Call of {block.get('name')}: {msgspec.json.encode(block.get('input')).decode()}]"
    return _readable(block, 0)


def documents_images(block: Block) -> list[tuple[str, str]]:
    """The images inside a document whose source is a list of blocks."""
    source = block.get("source")
    parts = source.get("content") if isinstance(source, dict) else None
    blocks = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [found for part in blocks if (found := image(part)) is not None]


def _document(block: Block, ignored: list[str], where: str) -> str:
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        name_once(ignored, f"{where}.document.citations")
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    heading = "\n".join(text for name in ("title", "context") if isinstance(text := block.get(name), str) and text)
    if source.get("type") == "text" and isinstance(source.get("data"), str):
        text = source["data"]
    elif source.get("type") == "content":
        text = _content_source(source.get("content"), ignored, where)
    else:
        name_once(ignored, f"{where}.document")
        text = f"[Document that cannot be read here: {_origin(source)}]"
    return f"{heading}\n{text}" if heading else text


def _content_source(content: object, ignored: list[str], where: str) -> str:
    if isinstance(content, str):
        return content
    blocks = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return joined_text([part for part in blocks if image(part) is None], ignored, where)


def _origin(source: object) -> str:
    """Where the data of an image or a document is, in words that the model can repeat to the user."""
    given: Mapping[str, Any] = source if isinstance(source, dict) else {}
    for name in ("url", "file_id", "media_type"):
        if isinstance(given.get(name), str):
            return str(given[name])
    return "unknown source"


def _readable(value: object, depth: int) -> str:
    """All text in a value that a model may read, one line or more for each field."""
    if isinstance(value, str):
        return value
    if depth >= DEPTH_MAX:
        return ""
    if isinstance(value, list):
        return _lines([_readable(item, depth + 1) for item in value])
    if not isinstance(value, dict):
        return ""
    data = value.get("data") if value.get("type") == "text" else None
    return _lines([_readable(value.get(name), depth + 1) for name in _TEXT_FIELDS] + [_readable(data, depth + 1)])


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(text for text in texts if text)


def name_once(ignored: list[str], path: str) -> None:
    """Adds a field to those that are ignored: a long history has the same ones in every turn."""
    if path not in ignored:
        ignored.append(path)
