"""What a machine and a coordinator say to each other when the machine wants to take part. Decides nothing; proves nothing.

POST /fleet/join   Joining -> JoinAnswer    200 joined or open, 202 waits for approval, 401 wrong code, 422 makes no sense
"""

from __future__ import annotations

import msgspec

PATH = "/fleet/join"


class JoinRequest(msgspec.Struct):
    """What a machine says. `public` is its half of the key agreement, in hex; `proof` is empty where it has no code."""

    name: str
    public: str
    proof: str = ""


class JoinAnswer(msgspec.Struct, omit_defaults=True):
    """What it is told. `status` is "joined", "pending", or "open" where nobody has to join."""

    status: str
    fleet_public: str
    node_id: str = ""
    proof: str = ""
    fingerprint: str = ""
    next: str = ""


class Denied(msgspec.Struct):
    """An answer that is an error: its stable code, and for "new_session" the session to sign under."""

    error: str = ""
    code: str = ""
    session: str = ""
