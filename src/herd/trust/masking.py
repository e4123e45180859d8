"""Masks secrets in a text that leaves this machine: keys, codes, tokens, cookies and signatures.

It masks too much rather than too little: a model's digest has the same form as a node's key and is masked too.
"""

from __future__ import annotations

import re

MASK = "(masked)"

_WHOLE = re.compile(
    r"""(?xi)
      herd_[a-z0-9]{1,64}_[a-z0-9]+               # our keys
    | \bsk-[a-z0-9_-]{6,}                         # keys of other services
    | \b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b          # join codes
    | \b(?-i:[A-Z2-7]{16})\b                      # join codes as they are stored
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
"""Headers whose whole value is masked."""
_IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s\"'@]{1,200}@", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """The text with every secret replaced by `MASK`."""
    without = _WHOLE.sub(MASK, text)
    without = _HEADER.sub(rf"\1{MASK}", without)
    return _AFTER.sub(rf"\1{MASK}", _IN_URL.sub(rf"\g<scheme>{MASK}@", without))
