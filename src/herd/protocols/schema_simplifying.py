"""Simplifies the schemas of tools for engines that turn them into a grammar and do not support all of JSON Schema.

llama.cpp refuses the whole request because of one pattern without anchors, a value without a type, a `not`, a
reference to another document or a length of thousands of characters, in a tool that the model may not even call. The
simplified schemas say less, but the same: each value that was valid before is valid after. What they no longer say is
in the model's description of the tool only, and `tool_repair` still uses the client's own schemas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

DEPTH_MAX: Final = 12
"""Deeper schemas, and references that contain themselves, become "any object"."""
LENGTH_MAX: Final = 256
"""Larger limits of lengths and counts are left out: a grammar repeats its rule as often."""
CHOICES_MAX: Final = 64
NODES_MAX: Final = 2000
"""A schema that refers to itself several times would otherwise grow with every level."""
_TYPES: Final = ("string", "number", "integer", "boolean", "null", "array", "object")
_KEPT: Final = frozenset({"title", "description", "default"})
_LENGTHS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_MESSAGES: Final = (
    b"JSON schema conversion failed",
    b"Unrecognized schema",
    b"failed to parse grammar",
    b"Failed to parse grammar",
    b"Failed to initialize samplers",
    b"Unable to generate parser for this template",
    b"Pattern must start with",
    b"not supported by xgrammar",
    b"Invalid grammar",
    b"Failed to convert the grammar",
    b"Failed to compile",
    b"Unsupported JSON schema",
    b"unsupported JSON schema",
    b"invalid JSON schema",
)
"""Parts of the error messages of llama.cpp, servers that contain it, vLLM and SGLang."""
_MENTION: Final = re.compile(rb"\b(?:grammar|json[ _-]?schema)\b", re.IGNORECASE)
_STATUSES: Final = (400, 422, 500)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOOLS: Final = msgspec.json.Decoder(list[Any])


@dataclass(slots=True)
class _Document:
    """The whole schema, which references are relative to, and how many nodes may still be written."""

    root: object
    nodes_left: int = NODES_MAX


def is_schema_refused(status: int, body: bytes) -> bool:
    """Whether an engine's error says that it cannot turn a schema into a grammar."""
    return status in _STATUSES and (
        any(message in body for message in _MESSAGES) or (status != 500 and _MENTION.search(body) is not None)
    )


def with_simple_tools(body: bytes) -> bytes | None:
    """The request, of any dialect, with simplified schemas of its tools; None if that changes nothing.

    Other fields keep their bytes. A schema that the client wants for the answer itself is not touched.
    """
    try:
        fields = _FIELDS.decode(body)
        tools = _TOOLS.decode(fields["tools"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return None
    simple = [_simple_tool(tool) for tool in tools]
    if simple == tools:
        return None
    fields["tools"] = msgspec.Raw(msgspec.json.encode(simple))
    return msgspec.json.encode(fields)


def simplified(schema: object) -> dict[str, Any]:
    """The schema of an object of parameters, with what every grammar supports."""
    found = _simplified(schema, _Document(schema), 0)
    return {"properties": {}, **found} if found.get("type") == "object" else {"type": "object", "properties": {}}


def _simple_tool(tool: object) -> object:
    if not isinstance(tool, dict):
        return tool
    if isinstance(function := tool.get("function"), dict):
        return {**tool, "function": _simple_tool({**function})}
    return {
        name: simplified(value)
        if name in ("parameters", "input_schema") and isinstance(value, dict)
        else False
        if name == "strict"
        else value
        for name, value in tool.items()
    }


def _simplified(schema: object, document: _Document, depth: int) -> dict[str, Any]:
    schema = _resolved(schema, document)
    document.nodes_left -= 1
    if not isinstance(schema, dict) or depth > DEPTH_MAX or document.nodes_left < 0:
        return {"type": "object"}
    found = {name: value for name, value in schema.items() if name in _KEPT}
    choices = schema.get("enum") if isinstance(schema.get("enum"), list) else None
    if "const" in schema:
        choices = [schema["const"]]
    if choices and len(choices) <= CHOICES_MAX and all(isinstance(c, str | int | float | None) for c in choices):
        return {**found, "enum": choices}
    kind = _kind(schema)
    if kind is None:
        return {**found, **_any_of(schema, document, depth)}
    found["type"] = kind
    found |= {
        name: value
        for name, value in schema.items()
        if name in _LENGTHS and isinstance(value, int) and 0 < value <= LENGTH_MAX
    }
    if kind == "object":
        return found | _members(schema, document, depth)
    if kind == "array" and isinstance(schema.get("items"), dict):
        found["items"] = _simplified(schema["items"], document, depth + 1)
    return found


def _kind(schema: dict[str, Any]) -> str | None:
    """The one type of the schema; None if there are several, or none is named."""
    kind = schema.get("type")
    if isinstance(kind, list):
        named = [name for name in kind if name in _TYPES and name != "null"]
        return named[0] if len(named) == 1 and "null" not in kind else None
    if kind in _TYPES:
        return str(kind)
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else None


def _any_of(schema: dict[str, Any], document: _Document, depth: int) -> dict[str, Any]:
    """Several types, or none: a choice of simple ones. Any value becomes a choice of all types."""
    kind = schema.get("type")
    if isinstance(kind, list):
        rest = {name: value for name, value in schema.items() if name != "type" and name not in _KEPT}
        named = [{**rest, "type": name} for name in kind if name in _TYPES]
    else:
        named = [c for key in ("anyOf", "oneOf") for c in _listed(schema.get(key))][:CHOICES_MAX]
        parts = _listed(schema.get("allOf"))
        if not named and parts:
            merged = [_simplified(part, document, depth + 1) for part in parts]
            return next((part for part in merged if part.get("type") == "object"), merged[0])
    choices = [_simplified(choice, document, depth + 1) for choice in named]
    if not choices:
        choices = [{"type": name} for name in ("string", "number", "boolean", "null", "object", "array")]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _members(schema: dict[str, Any], document: _Document, depth: int) -> dict[str, Any]:
    members = schema.get("properties")
    if not isinstance(members, dict) or not members:
        return {"properties": {}} if depth == 0 else {}
    named = {str(name): _simplified(inner, document, depth + 1) for name, inner in members.items()}
    required = [name for name in _listed(schema.get("required")) if isinstance(name, str) and name in named]
    return {"properties": named, "required": required} if required else {"properties": named}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolved(schema: object, document: _Document) -> object:
    for _ in range(DEPTH_MAX):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            return schema
        target: Any = document.root
        if not schema["$ref"].startswith("#"):
            return None
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        schema = target
    return None
