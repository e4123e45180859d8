"""Recognizes the end of an answer that repeats itself: Ollama stops a model at the 31st equal token in a row.

It then ends the answer in order, but without its last line: a stream has no `done`, a document has `"done":false`
(measured with 0.32.15). The reason is the answer's text: another node would end it there too, and the node is healthy.
"""

from __future__ import annotations

from typing import Final

REPEATED_MIN: Final = 30
"""Equal tokens at the end. Ollama ignores white space around them."""
TOKEN_MAX_CHARS: Final = 40
"""Characters of the longest token that is looked for."""
REPETITION_MAX_BYTES: Final = 8 * REPEATED_MIN * TOKEN_MAX_CHARS
"""The end of a text in UTF-8 that is long enough to see it."""
FINISH_REASON: Final = "stop"
"""How such an answer ends for the client: no limit was reached."""


def is_repeated(text: str) -> bool:
    """Whether the text ends with the same token again and again, or with nothing but white space."""
    blank = len(text) - len(text.rstrip())
    if blank >= REPEATED_MIN:
        return True
    end = "".join(text[-2 * REPEATED_MIN * TOKEN_MAX_CHARS :].split())
    sizes = range(1, min(TOKEN_MAX_CHARS, len(end) // REPEATED_MIN) + 1)
    return any(end.endswith(end[-size:] * REPEATED_MIN) for size in sizes)
