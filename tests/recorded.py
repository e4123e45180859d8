"""Builds the records that the core passes to the store, with defaults for the fields that a test does not name."""

from __future__ import annotations

from herd.core.state.commands import Record
from herd.core.state.decision import Decision, Rejected, Scored
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Attempt, Counters, Failure, Outcome, Request, RequestId, RequestKind

SIGNALS = ("thermal", "memory_fit", "queue_depth", "wait_time", "role_affinity", "availability_trend", "context_fit")


def a_decision(chosen: str | None = "studio", others: int = 2, model: str = "llama3:latest") -> Decision:
    scored = [
        Scored(node_id=NodeId(name), total=60.5 - rank, terms=dict.fromkeys(SIGNALS, 5.25), depth=rank)
        for rank, name in enumerate([chosen, *(f"spare-{n}" for n in range(others))])
        if name is not None and chosen is not None
    ]
    rejected = [Rejected(NodeId("tiny"), "memory", "needs 42.5 GB, 11.0 GB free")]
    return Decision(
        model=ModelName(model),
        policy="signals",
        chosen=NodeId(chosen) if chosen else None,
        scored=scored,
        rejected=rejected,
    )


def a_record(
    request_id: str = "r1",
    outcome: Outcome = Outcome.COMPLETED,
    at: float = 102.0,
    arrived_at: float = 100.0,
    node: str | None = "studio",
    model: str = "llama3:latest",
    tags: tuple[str, ...] = (),
    kind: RequestKind = RequestKind.CHAT,
    counters: Counters | None = None,
    failure: Failure | None = None,
    retries: int = 0,
    error: str = "",
    requested_name: str = "llama3",
    client_ip: str = "192.168.1.7",
) -> Record:
    request = Request(
        id=RequestId(request_id),
        model=ModelName(model),
        kind=kind,
        tags=tags,
        prompt_tokens=40,
        size_bytes=900,
        client_ip=client_ip,
        requested_name=requested_name,
    )
    attempt = None
    if node is not None:
        attempt = Attempt(
            number=1,
            node_id=NodeId(node),
            model=ModelName(model),
            started_at=arrived_at + 0.5,
            first_byte_at=arrived_at + 0.75,
            failure=failure,
        )
    return Record(
        at=at,
        request=request,
        outcome=outcome,
        arrived_at=arrived_at,
        model=ModelName(model),
        decision=a_decision(node, model=model),
        attempt=attempt,
        counters=counters or Counters(prompt_tokens=40, completion_tokens=10),
        retries=retries,
        error=error,
        first_byte_at=attempt.first_byte_at if attempt is not None else None,
        held_s=0.5,
    )
