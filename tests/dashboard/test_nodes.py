"""A node's state in a word and a reason, and the sentence over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import a_capacity, a_card, a_report, an_engine
from herd.coordinator.storage import node_history
from herd.core.state.fleet import Liveness, Loaded, Node, Pressure, canonical
from herd.core.state.queues import Queue, Work
from herd.core.state.request import RequestId
from herd.dashboard.fleet_summary import summarize_fleet
from herd.dashboard.nodes import STATES, NodeCard, node_card


def a_node(running: int = 0, **more: Any) -> tuple[Node, dict[Any, Queue]]:
    more.setdefault("engines", (an_engine(2),))
    report = a_report(models=[a_card(loaded=True, slots=2)], **more)
    node = Node(report.node_id, report, 99.0, 0.0)
    node.loaded = {name: card.loaded for name, card in report.models.items() if card.loaded is not None}
    model = canonical("m")
    return node, {model: Queue(node.id, model, {RequestId(f"r{n}"): Work() for n in range(running)})}


def card(node_and_books: tuple[Node, dict[Any, Queue]], **belief: Any) -> NodeCard:
    node, books = node_and_books
    for name, value in belief.items():
        setattr(node, name, value)
    return node_card(node, books, 100.0, 1e9)


@pytest.mark.parametrize(
    ("made", "state", "why"),
    [
        (card(a_node()), "online", "2 slots free"),
        (card(a_node(running=2)), "busy", "2 of 2 slots are taken"),
        (card(a_node(running=1, draining=True)), "draining", "it finishes 1 request and takes no more"),
        (card(a_node(capacity=a_capacity(paused=True))), "yielding", "lent back to its owner"),
        (card(a_node(), liveness=Liveness.OFFLINE, heard_at=0.0), "gone", "it was last heard 100 s ago"),
        (card(a_node(), liveness=Liveness.DEGRADED, heard_at=80.0), "degraded", "it has been silent for 20 s"),
        (card(a_node(), unreachable_until=104.0), "degraded", "connections to it fail; tried again in 4.0 s"),
        (card(a_node(pressure=Pressure.CRITICAL)), "degraded", "its memory is critically short"),
        (card(a_node(engines=())), "degraded", "its engine does not answer"),
        (card(a_node(), untrusted_until=120.0), "waking", "it came back just now"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_worst_that_is_true_is_said_with_its_reason(made: NodeCard, state: str, why: str) -> None:
    assert made.state == state in STATES and made.why.startswith(why)


def test_every_state_is_counted_in_the_history() -> None:
    assert {state for state, _ in node_history.COUNTED_AS} == set(STATES)


@pytest.mark.parametrize(
    ("expires_at", "left_s"),
    [("2001-09-09T01:47:40Z", 60.0), ("2318-01-01T00:00:00Z", None), ("", None), ("soon", None)],
)
def test_when_a_model_leaves_memory(expires_at: str, left_s: float | None) -> None:
    node, books = a_node()
    node.report = replace(node.report, models={canonical("m"): a_card(loaded=True)})
    loaded = replace(node.report.models[canonical("m")], loaded=Loaded(1, 4096, expires_at=expires_at))
    node.report = replace(node.report, models={canonical("m"): loaded})
    assert card((node, books)).models[0].unload_in_s == left_s


def named(name: str, made: NodeCard) -> NodeCard:
    return type(made)(**{field: getattr(made, field) for field in made.__struct_fields__} | {"node_id": name})


def test_the_sentence_counts_who_serves_and_names_who_does_not() -> None:
    good, lent = named("a", card(a_node())), named("b", card(a_node(capacity=a_capacity(paused=True))))
    gone = named("c", card(a_node(), liveness=Liveness.OFFLINE))
    assert summarize_fleet([good], 0) == type(summarize_fleet([], 0))("good", "All good: 1 of 1 machine serves.")
    assert (
        summarize_fleet([good, lent], 2).sentence
        == "All good: 1 of 2 machines serves, 1 is lent back to its owner. 2 requests wait."
    )
    assert summarize_fleet([good, gone], 0) == type(summarize_fleet([], 0))(
        "attention", "1 of 2 machines serves, c is gone."
    )
    assert summarize_fleet([gone], 1) == type(summarize_fleet([], 0))(
        "bad", "Nobody can be served: c is gone. 1 request waits."
    )
    assert summarize_fleet([], 0).level == "empty" and summarize_fleet([good], 0, is_draining=True).level == "attention"
