"""Hashes the beginning of a conversation in chained blocks, to find the node that has it in its prompt cache.

The client's own bytes are hashed from the start of its messages: a later turn repeats them, so equal beginnings give
equal hashes. Python salts the hashes of bytes per process, so they mean nothing outside it. The chain starts with the
owner of the conversation, so prompts of one API key never match those of another. No prompt text is stored.
"""

from __future__ import annotations

from typing import Final

from herd.core.estimates.prefix_cache import BLOCK_TOKENS, BLOCKS_MAX

BYTES_PER_TOKEN: Final = 4
BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN
_START_FIELDS: Final = (b'"messages"', b'"prompt"')


def prefix_hashes(body: bytes, owner: str = "") -> tuple[int, ...]:
    """One hash for each complete block of about BLOCK_TOKENS tokens; each covers everything from the start."""
    start = next((at for field in _START_FIELDS if (at := body.find(field)) >= 0), -1)
    if start < 0:
        return ()
    chain = hash((owner, body[start : start + len(_START_FIELDS[0])]))
    hashes: list[int] = []
    end = min(len(body), start + BLOCK_BYTES * BLOCKS_MAX)
    for at in range(start, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, body[at : at + BLOCK_BYTES]))
        hashes.append(chain)
    return tuple(hashes)
