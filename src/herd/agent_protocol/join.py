"""Defines the messages by which a node joins a fleet.

The node sends a JoinRequest to POST /fleet/join, and the answer is a JoinAnswer. Status 200 means that the node has
joined or that the fleet is open, 202 that the node waits for approval, 401 that the code is wrong, and 422 that the
request is invalid.
"""

from __future__ import annotations

import msgspec

PATH = "/fleet/join"


class JoinRequest(msgspec.Struct):
    """A node's request. `public` is its key agreement public key, in hex; `proof` is empty without a join code."""

    name: str
    public: str
    proof: str = ""


class JoinAnswer(msgspec.Struct, omit_defaults=True):
    """The coordinator's answer. `status` is "joined", "pending", or "open" if nodes need not join."""

    status: str
    fleet_public: str
    node_id: str = ""
    proof: str = ""
    fingerprint: str = ""
    next: str = ""


class Denied(msgspec.Struct):
    """An error answer: its stable code and, for the code "new_session", the session for signatures."""

    error: str = ""
    code: str = ""
    session: str = ""
