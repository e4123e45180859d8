"""Hashes the beginning of a conversation in chained blocks, to find the node that has it in its prompt cache.

The client's own bytes are hashed from the start of its messages: a later turn repeats them, so equal beginnings give
equal hashes. Python salts the hashes of bytes per process, so they mean nothing outside it. The chain starts with the
owner of the conversation, so prompts of one API key never match those of another. No prompt text is stored.
"""

from __future__ import annotations

from typing import Final

import msgspec

from herd.core.estimates.prefix_cache import BLOCK_TOKENS, BLOCKS_MAX
from herd.protocols.answer_ends import decode
from herd.protocols.openai.responses_history import input_items
from herd.protocols.request_fields import ABSENT, is_list

BYTES_PER_TOKEN: Final = 4
BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN
_START_FIELDS: Final = (b'"messages"', b'"prompt"')
_START_BYTES: Final = len(_START_FIELDS[0])


class _Prompt(msgspec.Struct):
    instructions: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT


_PROMPT = msgspec.json.Decoder(_Prompt)


def prefix_hashes(body: bytes, owner: str = "") -> tuple[int, ...]:
    """One hash for each complete block of about BLOCK_TOKENS tokens; each covers everything from the start."""
    for name in _START_FIELDS:
        start = body.find(name)
        if start >= 0:
            return _chain(hash((owner, body[start : start + _START_BYTES])), body, start)
    return ()


def responses_prefix_hashes(body: bytes, owner: str = "") -> tuple[int, ...]:
    """The same for a request to /v1/responses, whose prompt begins with its instructions and continues with its input.

    A text as input is hashed as the message that it stands for, because later turns repeat it in that form.
    """
    prompt = decode(body, _PROMPT)
    if prompt is None:
        return ()
    items = prompt.input
    text = bytes(items) if is_list(items) else b"[" + b",".join(input_items(items) or ())
    return _chain(hash((owner, bytes(prompt.instructions))), text, 0)


def _chain(chain: int, body: bytes, start: int) -> tuple[int, ...]:
    hashes: list[int] = []
    end = min(len(body), start + BLOCK_BYTES * BLOCKS_MAX)
    for at in range(start, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, body[at : at + BLOCK_BYTES]))
        hashes.append(chain)
    return tuple(hashes)
