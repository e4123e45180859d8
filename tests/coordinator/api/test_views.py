"""Tests the view of waiting requests: position, reason and time, without prompts, addresses and keys."""

from __future__ import annotations

from builders import a_model_info, a_report, a_world
from herd.coordinator.api import views


def test_a_waiting_request_has_its_queue_position_reason_and_expected_wait() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    for number in range(3):
        world.arrives(f"past{number}")
        world.now += 2.0
        world.finishes(f"past{number}")
    world.arrives("runs", tenant="app batch")
    world.arrives("waits", tenant="key 0123456789", client_ip="192.0.2.7")
    seen = views.queue_view(world.dispatcher, world.now + 0.5)
    runs, waits = seen["requests"]
    assert (runs["position"], runs["waits_for"], runs["tenant"]) == (None, None, "app batch")
    assert (waits["position"], waits["waits_for"], waits["expected_wait_s"]) == (1, "a free slot on alpha", 1.5)
    assert waits["tenant"] == "key 0123…"
    assert "192.0.2.7" not in str(seen) and seen["waiting"] == 1


def test_a_held_request_shows_when_it_times_out() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info()], paused=True))
    world.arrives("waits")
    (waits,) = views.queue_view(world.dispatcher, world.now + 10.0)["requests"]
    assert waits["gives_up_in_s"] == 20.0 and waits["waits_for"].startswith("alpha: ")
