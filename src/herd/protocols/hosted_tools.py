"""Tells which kinds of tools a request declares: functions, others, or only tools that its API's own servers would run.

No engine of a fleet has those last ones, such as a web search. A translation leaves them out and names them, so a
request with no other tool needs a model that can chat, but none that can call tools.
"""

from __future__ import annotations

import re

import msgspec

HOSTED_ONLY = "tools (hosted)"
"""The field, as `ParsedRequest.translatable_fields` names it: a model without tools needs the translation."""

_OPENAI_CLIENT_TOOLS = frozenset(
    ("function", "custom", "namespace", "local_shell", "shell", "apply_patch", "tool_search", "grammar")
)
"""The types of tools that an OpenAI client runs itself; a translation makes functions of them."""
_ANTHROPIC_CLIENT_TOOL = re.compile(r"custom|(?:bash|text_editor|memory|computer)_\d{8}")
_MAY_BE_HOSTED = re.compile(
    rb'"type"\s*:\s*"(?:web_|file_search|code_|image_generation|mcp|computer_use|advisor_|tool_search_tool_)'
)
"""A search in the bytes that finds every body with a hosted tool; most bodies have none and are not decoded."""


_OTHER_TOOL = re.compile(rb'"type"\s*:\s*"(?:custom|grammar|mcp|web_search\w*|file_search|code_interpreter)"')


class _Tool(msgspec.Struct):
    type: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()


_TOOLS = msgspec.json.Decoder(list[_Tool])


def has_other_tool(tools: bytes) -> bool:
    """Whether a tool is not a function. The words may also be in the schema of one, so a match is decoded."""
    if not _OTHER_TOOL.search(tools):
        return False
    try:
        return any(tool.type not in (None, "function") for tool in _TOOLS.decode(tools))
    except msgspec.DecodeError:
        return True


def has_only_hosted_tools(tools: bytes, is_anthropic: bool = False) -> bool:
    """Whether the JSON list `tools` has tools, and each of them would run on the servers of OpenAI or Anthropic."""
    if not _MAY_BE_HOSTED.search(tools):
        return False
    try:
        declared = _TOOLS.decode(tools)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    is_client_tool = _is_anthropic_client_tool if is_anthropic else _is_openai_client_tool
    return bool(declared) and not any(is_client_tool(tool) for tool in declared)


def _is_openai_client_tool(tool: _Tool) -> bool:
    return tool.type is None or tool.type in _OPENAI_CLIENT_TOOLS


def _is_anthropic_client_tool(tool: _Tool) -> bool:
    """A type that this version does not know belongs to the client if it comes with a schema."""
    return tool.type is None or bool(_ANTHROPIC_CLIENT_TOOL.fullmatch(tool.type)) or bool(bytes(tool.input_schema))
