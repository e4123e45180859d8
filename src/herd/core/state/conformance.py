"""What is known of a model from `herd certify`: the clients that it works with, on one node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """The newest result of a model on a node. It is valid for weights with this digest; `at` is in Unix seconds."""

    node_id: str
    digest: str
    badges: tuple[str, ...]
    failing_step: str
    version: str
    at: float
