"""What must not be seen of a text that is handed on: keys, codes, tokens, cookies, signatures. Knows no file.

It errs on the side of too much: a model's digest looks like a node's key and is masked with it.
"""

from __future__ import annotations

import re

MASK = "(masked)"

_WHOLE = re.compile(
    r"""(?xi)
      herd_[a-z0-9]{1,64}_[a-z0-9]+               # our keys
    | \bsk-[a-z0-9_-]{6,}                         # those of others
    | \b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b          # codes to join with
    | \b(?-i:[A-Z2-7]{16})\b                      # the same as it is kept
    | \b[0-9a-f]{32,}\b                           # signatures, nodes' keys, login tokens, digests
    | \beyJ[a-z0-9_-]{8,}\.[a-z0-9_.-]+           # web tokens
    | -----BEGIN[^-]*PRIVATE[ ]KEY-----.*?(?:-----END[^-]*-----|$)
    """,
    re.DOTALL,
)
_AFTER = re.compile(
    r"""(?xi)
    (
      \b(?:bearer|basic)\s+
    | \b(?:token|api_?key|password|secret|proof|signature|herd_session|code)=
    | \b(?:x-api-key|x-fleet-signature|x-fleet-session)["']?\s*[:=]\s*["']?
    )
    (?!\(masked\))[^\s"'&;,<>\\]+
    """
)
_HEADER = re.compile(r"""(?i)(\b(?:(?:proxy-)?authorization|(?:set-)?cookie)["']?\s*[:=]\s*["']?)[^"'\r\n\\]+""")
"""A header whose whole line goes."""
_IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s\"'@]{1,200}@", re.IGNORECASE)


def masked(text: str) -> str:
    """The text without anything that would open something."""
    without = _WHOLE.sub(MASK, text)
    without = _HEADER.sub(rf"\1{MASK}", without)
    return _AFTER.sub(rf"\1{MASK}", _IN_URL.sub(rf"\g<scheme>{MASK}@", without))
