"""The beginnings of a conversation as chained hashes, so that the node that has read them can be found. Keeps no text.

The client's own bytes are hashed from where its messages begin: a later turn repeats them, so equal beginnings give
equal hashes. The interpreter salts hashes of bytes afresh in every process, so they tell nothing anywhere else; and the
chain begins with whose conversation it is, so that one key's prompts are never matched with another's.
"""

from __future__ import annotations

from typing import Final

from herd.core.estimates.prefix_cache import BLOCK_TOKENS, BLOCKS_MAX

BYTES_PER_TOKEN: Final = 4
BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN
_BEGINNINGS: Final = (b'"messages"', b'"prompt"')


def prefix_hashes(body: bytes, owner: str = "") -> tuple[int, ...]:
    """One hash for each whole block of about BLOCK_TOKENS tokens, each of them of everything up to there."""
    start = next((at for word in _BEGINNINGS if (at := body.find(word)) >= 0), -1)
    if start < 0:
        return ()
    chain = hash((owner, body[start : start + len(_BEGINNINGS[0])]))
    hashes: list[int] = []
    end = min(len(body), start + BLOCK_BYTES * BLOCKS_MAX)
    for at in range(start, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, body[at : at + BLOCK_BYTES]))
        hashes.append(chain)
    return tuple(hashes)
