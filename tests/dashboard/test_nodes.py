"""A node's state with its reason, and the summary sentence of the whole fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import a_capacity, a_model_info, a_report, an_engine
from herd.coordinator.storage import node_history
from herd.core.state.fleet import Liveness, Loaded, Node, Pressure, canonical
from herd.core.state.queues import Queue, Work
from herd.core.state.request import RequestId
from herd.dashboard.fleet_summary import PLANNED_ABSENCES, SERVING, FleetSummary, summarize_fleet
from herd.dashboard.nodes import STATES, NodeCard, node_card


def a_node(running: int = 0, **more: Any) -> tuple[Node, dict[Any, Queue]]:
    more.setdefault("engines", (an_engine(2),))
    report = a_report(models=[a_model_info(loaded=True, slots=2)], **more)
    node = Node(id=report.node_id, report=report, last_heartbeat_at=99.0, first_heartbeat_at=0.0)
    node.loaded = {name: card.loaded for name, card in report.models.items() if card.loaded is not None}
    model = canonical("m")
    return node, {model: Queue(node.id, model, {RequestId(f"r{n}"): Work() for n in range(running)})}


def card(node_and_queues: tuple[Node, dict[Any, Queue]], **fields: Any) -> NodeCard:
    node, queues = node_and_queues
    for name, value in fields.items():
        setattr(node, name, value)
    return node_card(node, queues, 100.0, 1e9)


@pytest.mark.parametrize(
    ("made", "state", "why"),
    [
        (card(a_node()), "online", "2 slots free"),
        (card(a_node(running=2)), "busy", "2 of 2 slots in use"),
        (card(a_node(running=1, draining=True)), "draining", "finishing 1 request, accepts no new ones"),
        (card(a_node(capacity=a_capacity(paused=True))), "yielding", "paused for local use"),
        (card(a_node(), liveness=Liveness.OFFLINE, last_heartbeat_at=0.0), "gone", "last heartbeat 100 s ago"),
        (card(a_node(), liveness=Liveness.DEGRADED, last_heartbeat_at=80.0), "degraded", "no heartbeat for 20 s"),
        (card(a_node(), unreachable_until=104.0), "degraded", "connections fail; next attempt in 4.0 s"),
        (card(a_node(pressure=Pressure.CRITICAL)), "degraded", "critically low on memory"),
        (card(a_node(engines=())), "degraded", "no inference engine responds"),
        (card(a_node(), untrusted_until=120.0), "waking", "online again after repeated outages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_card_has_the_most_severe_state_that_applies_and_its_reason(made: NodeCard, state: str, why: str) -> None:
    assert made.state == state in STATES and made.why.startswith(why)


def test_the_history_counts_every_state() -> None:
    assert {state for state, _ in node_history.COUNTED_AS} == set(STATES)


@pytest.mark.parametrize(
    ("expires_at", "left_s"),
    [("2001-09-09T01:47:40Z", 60.0), ("2318-01-01T00:00:00Z", None), ("", None), ("soon", None)],
)
def test_a_card_has_the_time_until_each_model_is_unloaded(expires_at: str, left_s: float | None) -> None:
    node, queues = a_node()
    node.report = replace(node.report, models={canonical("m"): a_model_info(loaded=True)})
    loaded = replace(node.report.models[canonical("m")], loaded=Loaded(1, 4096, expires_at=expires_at))
    node.report = replace(node.report, models={canonical("m"): loaded})
    assert card((node, queues)).models[0].unload_in_s == left_s


def named(name: str, made: NodeCard) -> NodeCard:
    return type(made)(**{field: getattr(made, field) for field in made.__struct_fields__} | {"node_id": name})


def test_the_summary_mentions_every_state_in_which_a_node_serves_nothing() -> None:
    mentioned = SERVING | {state for state, _ in PLANNED_ABSENCES} | {"gone"}
    assert mentioned == set(STATES)


def test_the_summary_counts_the_online_nodes_and_names_the_others() -> None:
    good, paused = named("a", card(a_node())), named("b", card(a_node(capacity=a_capacity(paused=True))))
    gone = named("c", card(a_node(), liveness=Liveness.OFFLINE))
    assert summarize_fleet([good], 0) == FleetSummary("good", "All good: 1 of 1 node online.")
    two = summarize_fleet([good, paused], 2)
    assert two.sentence == "All good: 1 of 2 nodes online, 1 paused for local use. 2 requests queued."
    assert summarize_fleet([good, gone], 0) == FleetSummary("attention", "1 of 2 nodes online, c is offline.")
    assert summarize_fleet([gone], 1) == FleetSummary(
        "bad", "No node can serve requests: c is offline. 1 request queued."
    )
    assert summarize_fleet([], 0).level == "empty" and summarize_fleet([good], 0, is_draining=True).level == "attention"
