"""Finds the calls of tools in the history of a request, which a template without tools leaves out of the prompt."""

from __future__ import annotations

import re

_CALLS = re.compile(
    rb'"(?P<field>tool_calls|function_call)"\s*:\s*(?:\[\s*)?\{'
    rb'|"type"\s*:\s*"(?P<item>tool_use|(?:function|custom_tool|local_shell|shell|apply_patch)_call)"'
)
"""A match is never inside of a text, where quotes are escaped."""


def tool_calls(body: bytes) -> str:
    """The name of the first field, block or item with a call, in the client's API; "" without any."""
    found = _CALLS.search(body)
    if found is None:
        return ""
    field, item = found["field"], found["item"]
    if field is not None:
        return "messages.tool_calls" if field == b"tool_calls" else "function_call"
    return "messages.content.tool_use" if item == b"tool_use" else f"input ({item.decode()})"
