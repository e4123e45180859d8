"""Turns the system prompt and the messages of Anthropic's requests into neutral messages."""

from __future__ import annotations

import msgspec

from herd.errors import BadRequest
from herd.protocols.anthropic.content_blocks import (
    Block,
    Content,
    block_type,
    documents_images,
    image,
    joined_text,
    name_once,
    text_of,
)
from herd.protocols.conversation import Message, ToolCall


class History:
    """The messages so far, the fields that they lack (`ignored`), and the tools that they refer to."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ignored: list[str] = []
        self.referenced_tools: set[str] = set()
        self._called: dict[str, str] = {}
        """The names of the tools by the ids of their calls."""
        self._changes: list[Block] = []

    def add_system(self, content: Content) -> None:
        if content:
            self.messages.append(Message("system", joined_text(content, self.ignored, "system")))

    def add(self, role: str, content: Content) -> None:
        """A message of blocks becomes one neutral message, preceded by one for each tool result in it."""
        if not isinstance(content, list):
            self.messages.append(Message(role, content or ""))
            return
        turn = Message(role)
        for block in content:
            self._add_block(block, turn)
        if turn.text or turn.images or turn.tool_calls or turn.thinking or not content:
            self.messages.append(turn)

    def changed_tools(self, declared: list[Block]) -> list[Block]:
        """The declared tools after the changes that system messages made to them."""
        by_name = {str(tool.get("name") or at): tool for at, tool in enumerate(declared)}
        for change in self._changes:
            tool = change.get("tool")
            tool = tool if isinstance(tool, dict) else {}
            definition = tool.get("definition")
            name = str(definition.get("name") if isinstance(definition, dict) else tool.get("name"))
            if change.get("type") == "tool_removal":
                by_name.pop(name, None)
            elif isinstance(definition, dict):
                by_name[name] = definition
            self.referenced_tools.add(name)
        return list(by_name.values())

    def _add_block(self, block: Block, turn: Message) -> None:
        """Adds a block to the turn. Images in a tool result become images of the turn that follows the result."""
        kind = block_type(block)
        if kind == "thinking":
            turn.thinking += _string(block, "thinking")
        elif (shown := image(block)) is not None:
            turn.images.append(shown)
        elif kind == "tool_use":
            turn.tool_calls.append(self._call(block, len(turn.tool_calls)))
        elif kind == "tool_result":
            self._add_result(block, turn)
        elif kind == "compaction":
            self._compact(block, turn)
        elif kind in ("tool_addition", "tool_removal"):
            self._changes.append(block)
        else:
            text = self._text(block, turn)
            turn.text += text if kind == "text" or not text else f"{text}\n"

    def _text(self, block: Block, turn: Message) -> str:
        turn.images += documents_images(block)
        self._note_references(block)
        return text_of(block, self.ignored, "messages.content")

    def _call(self, block: Block, index: int) -> ToolCall:
        given = block.get("input")
        arguments = msgspec.json.encode(given if isinstance(given, dict) else {}).decode()
        call = ToolCall(index, _string(block, "id"), _string(block, "name"), arguments)
        if not call.name:
            raise BadRequest("messages: each tool_use must have a name")
        self._called[call.id] = call.name
        return call

    def _add_result(self, block: Block, turn: Message) -> None:
        content = block.get("content")
        if content is not None and not isinstance(content, str | list):
            raise BadRequest("messages: the content of a tool_result must be a string or a list")
        text = content if isinstance(content, str) else ""
        if isinstance(content, list):
            turn.images += [shown for part in content if (shown := image(_object(part))) is not None]
            texts = [self._text(part, turn) for part in content if image(part) is None]
            text = "\n".join(filter(None, texts))
        call_id = _string(block, "tool_use_id")
        text = f"Error: {text}" if block.get("is_error") is True else text
        self.messages.append(Message("tool", text, tool_call_id=call_id, tool_name=self._called.get(call_id, "")))

    def _note_references(self, block: Block) -> None:
        """Remembers which deferred tools a tool search found; the result of Anthropic's own search has a list."""
        content = block.get("content")
        inner = content.get("tool_references") if isinstance(content, dict) else None
        for reference in (block, *(inner if isinstance(inner, list) else ())):
            if isinstance(reference, dict) and isinstance(name := reference.get("tool_name"), str):
                self.referenced_tools.add(name)

    def _compact(self, block: Block, turn: Message) -> None:
        """A summary replaces everything before it, as in Anthropic's API; a failed compaction has no summary."""
        name_once(self.ignored, "messages.content.compaction")
        summary = block.get("content")
        if not isinstance(summary, str) or not summary:
            return
        self.messages[:] = [message for message in self.messages[:1] if message.role == "system"]
        self.messages.append(Message("user", summary))
        turn.text, turn.thinking = "", ""
        turn.images.clear()
        turn.tool_calls.clear()


def _string(block: Block, name: str) -> str:
    value = block.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    raise BadRequest(f"messages: {name} must be a string")


def _object(block: object) -> Block:
    if isinstance(block, dict):
        return block
    raise BadRequest("messages: each block of a tool_result must be an object")
