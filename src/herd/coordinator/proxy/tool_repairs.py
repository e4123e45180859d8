"""Holds what one request needs for the repair of its tool calls, and of schemas that its engine refuses.

A request without tools has none of it. With FLEET_TOOL_REPAIR=off only wrong indices of calls are corrected. The rules
are in `protocols/tool_repair.py`, `protocols/passed_tool_calls.py` (answers that are passed on) and
`protocols/schema_simplifying.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from herd.coordinator.proxy.pass_through import PassThrough
from herd.coordinator.proxy.translation import Translation
from herd.engines import EngineRequest
from herd.protocols.conversation import Conversation, Tool
from herd.protocols.passed_tool_calls import PassedToolCalls
from herd.protocols.schema_simplifying import is_schema_refused, with_simple_tools
from herd.protocols.tool_repair import ToolRepair


class ToolRepairs:
    """Repairs one request's tools. `sent` is the present attempt: its request and header lines."""

    __slots__ = ("_has_simple_schemas", "_has_tools", "is_on", "sent")

    def __init__(self, has_tools: bool, is_on: bool) -> None:
        """`has_tools`: the client offers tools. `is_on`: they are repaired."""
        self._has_tools = has_tools
        self.is_on = has_tools and is_on
        self.sent: tuple[EngineRequest, bytes] | None = None
        self._has_simple_schemas = False

    def of_passed(self, body: bytes) -> PassedToolCalls | None:
        """For an answer that is passed on; `body` is the request."""
        return PassedToolCalls(body, self.is_on) if self._has_tools else None

    def of_translated(self, conversation: Conversation) -> ToolRepair | None:
        return self.of_tools(conversation.tools)

    def of_tools(self, tools: Sequence[Tool]) -> ToolRepair | None:
        return ToolRepair(tools) if self.is_on else None

    def begin_attempt(self, request: EngineRequest, lines: bytes) -> None:
        self.sent = (request, lines) if self.is_on else None

    def simpler_request(
        self, status: int, error: bytes, answer: PassThrough | Translation | None, forwarded_bytes: int
    ) -> tuple[EngineRequest, bytes] | None:
        """The attempt with simple schemas, if the engine cannot make a grammar of the client's; else None.

        Not if a part of the answer was read already, such as an error with status 200.
        """
        if forwarded_bytes or answer is None or answer.has_failed:
            return None
        if self.sent is None or not is_schema_refused(status, error):
            return None
        request, lines = self.sent
        body = with_simple_tools(request.body)
        if body is None:
            return None
        self._has_simple_schemas = True
        return request._replace(body=body), lines

    def described(self, answer: PassThrough | Translation | None) -> str | None:
        """What was repaired, for the trace; None if nothing was."""
        if not self.is_on or answer is None:
            return None
        parts = ["tool schemas simplified"] if self._has_simple_schemas else []
        if calls := answer.repaired_calls:
            parts.append(f"{calls} tool call{'s' if calls > 1 else ''} repaired")
        return ", ".join(parts) or None
