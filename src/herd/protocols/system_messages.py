"""Makes conversations begin with their only system message, because many chat templates accept no other form.

Claude Code sends a system prompt and more system messages between the user's; Codex sends instructions and developer
messages. The templates of Qwen and others raise an error on both ("System message must be at the beginning").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from herd.protocols.conversation import Message

ROLES = frozenset(("system", "developer"))
BEGIN, END = "<system-message>", "</system-message>"


def with_one_system_message(messages: Sequence[Message]) -> list[Message]:
    """The messages with at most one system message, the first.

    Leading system messages are joined with a blank line between them. A later one stays where it is, as marked text of
    a user message: moved to the front, it would apply to earlier turns too and change the beginning of the prompt,
    which engines have in their caches. It joins a user message beside it, because templates also require that roles
    alternate, and it never separates tool calls from their results.
    """
    count = next((at for at, message in enumerate(messages) if message.role not in ROLES), len(messages))
    if count <= 1 and not any(message.role in ROLES for message in messages[1:]):
        return list(messages)
    leading = messages[:count]
    text = "\n\n".join(message.text for message in leading if message.text)
    images = [image for message in leading for image in message.images]
    return ([Message("system", text, images=images)] if leading else []) + _with_notes(messages[count:])


def note(text: str) -> str:
    """The text of a later system message, marked for its place in a user message."""
    return f"{BEGIN}\n{text}\n{END}"


def _with_notes(messages: Sequence[Message]) -> list[Message]:
    """The later messages; the text of each system message waits as a note for the next place that fits."""
    written: list[Message] = []
    notes: list[str] = []
    for at, message in enumerate(messages):
        following = messages[at + 1].role if at + 1 < len(messages) else ""
        if message.role in ROLES:
            notes += [note(message.text)] if message.text else []
        elif message.role == "user" and notes:
            written.append(dataclasses.replace(message, text="\n\n".join((*notes, message.text))))
            notes.clear()
        else:
            written.append(message)
        if not notes or following in ROLES or following == "tool":
            continue
        if written and written[-1].role == "user":
            last = written.pop()
            written.append(dataclasses.replace(last, text="\n\n".join((last.text, *notes))))
            notes.clear()
        elif following != "user":
            written.append(Message("user", "\n\n".join(notes)))
            notes.clear()
    return written
