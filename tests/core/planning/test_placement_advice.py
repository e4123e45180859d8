"""Tests that recommendations follow from requests, with numbers and uncertainty, and within all limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import a_model_info, a_report, an_engine
from herd.core.estimates.hardware_priors import Speed
from herd.core.planning.placement_advice import (
    UNUSED_AFTER_S,
    FleetSnapshot,
    ModelUsage,
    PlacementAdvice,
    UsageHistory,
    advise,
    before_and_after,
)
from herd.core.state.fleet import GB, Disk, ModelName, NodeId, Report, canonical

NOW = 1_795_448_000.0
ALPHA, BETA = NodeId("alpha"), NodeId("beta")
M = canonical("m")


def a_machine(
    node_id: str,
    *names: str,
    loaded: bool = True,
    free_gb: float = 300.0,
    memory_gb: float = 32.0,
    size_gb: float = 5.0,
) -> Report:
    model_infos = [a_model_info(name, size_gb, loaded=loaded) for name in names]
    return a_report(
        node_id,
        model_infos,
        memory_gb,
        disk=Disk(500 * GB, int((500 - free_gb) * GB), int(free_gb * GB)),
        engines=(an_engine(),),
        memory_bandwidth_gbps=200.0,
    )


def machines(
    *reports: Report,
    serve_s: float = 5.0,
    load_s: float = 8.0,
    pinned: frozenset[tuple[NodeId, ModelName]] = frozenset(),
) -> FleetSnapshot:
    speed = Speed(1000.0, serve_s / 100, 0.2, load_s, load_s)
    by_id = {report.node_id: report for report in reports}
    return FleetSnapshot(
        by_id, lambda *_: speed, lambda *_: True, lambda node, model: by_id[node].models[model].size_bytes, pinned
    )


def a_usage(
    node: str = "alpha", model: str = "m", requests: int = 20_000, hours: int = 40, cold: int = 0, load_s: float = 0.0
) -> ModelUsage:
    """A usual request reads next to nothing and writes a hundred tokens."""
    return ModelUsage(
        node_id=NodeId(node),
        model=canonical(model),
        requests=requests,
        prompt_tokens=requests,
        completion_tokens=100 * requests,
        cold_loads=cold,
        load_s=load_s,
        hours=hours,
    )


def past(*usages: ModelUsage, began_days: float = 60.0, last_days: dict[str, float] | None = None) -> UsageHistory:
    return UsageHistory(
        usages,
        {canonical(name): NOW - days * 86400 for name, days in (last_days or {"m": 0.0}).items()},
        NOW - began_days * 86400,
    )


def kinds(found: list[PlacementAdvice]) -> list[tuple[str, str, str]]:
    return [(advice.kind, advice.node_id, advice.model) for advice in found]


def test_nothing_is_recommended_without_requests() -> None:
    assert advise(machines(a_machine("alpha", "m")), UsageHistory(), NOW) == []


def test_second_copy_is_recommended_for_a_model_that_fills_its_node() -> None:
    found = advise(machines(a_machine("alpha", "m"), a_machine("beta")), past(a_usage()), NOW)
    assert kinds(found)[0] == ("pull", BETA, M)
    pull = found[0]
    assert (pull.rule, pull.cost_bytes, pull.cost_s) == ("second_home", 5 * GB, 400.0)
    assert pull.gain_s > pull.plus_minus_s > 0 and pull.reason.startswith(
        "Last week alpha served all 20,000 requests in "
    )


def test_no_second_copy_is_recommended_for_a_model_with_few_requests() -> None:
    found = advise(machines(a_machine("alpha", "m"), a_machine("beta")), past(a_usage(requests=200)), NOW)
    assert kinds(found) == [("leave", ALPHA, M)] and "200 requests last week" in found[0].reason


@pytest.mark.parametrize(
    "beta",
    [
        a_machine("beta", free_gb=20.0),
        a_machine("beta", memory_gb=4.0),
        replace(a_machine("beta"), engines=()),
        replace(a_machine("beta"), engines=(an_engine(kind="vllm"),)),
        replace(a_machine("beta"), disk=None),
    ],
    ids=["no disk", "no memory", "no engine", "another engine", "unknown disk"],
)
def test_node_that_cannot_hold_the_model_is_not_recommended(beta: Report) -> None:
    assert "pull" not in {
        advice.kind for advice in advise(machines(a_machine("alpha", "m"), beta), past(a_usage()), NOW)
    }


def test_much_slower_node_is_not_recommended() -> None:
    slow = replace(a_machine("beta"), memory_bandwidth_gbps=2.0)
    assert "pull" not in {
        advice.kind for advice in advise(machines(a_machine("alpha", "m"), slow), past(a_usage(requests=6000)), NOW)
    }


def test_load_is_computed_from_active_hours_only() -> None:
    fleet = machines(a_machine("alpha", "m"), a_machine("beta"))
    spread, crowded = past(a_usage(requests=3000, hours=168)), past(a_usage(requests=3000, hours=10))
    assert kinds(advise(fleet, spread, NOW))[0][0] == "leave" and kinds(advise(fleet, crowded, NOW))[0][0] == "pull"


def test_pinning_is_recommended_after_repeated_cold_loads() -> None:
    found = advise(
        machines(a_machine("alpha", "m", loaded=False)), past(a_usage(requests=100, cold=50, load_s=400.0)), NOW
    )
    assert kinds(found)[0] == ("pin", ALPHA, M)
    assert (found[0].gain_s, found[0].cost_bytes) == (400.0, 5 * GB)
    assert found[0].plus_minus_s == pytest.approx(400 / 50**0.5)
    assert found[0].reason == "Last week 50 of 100 requests on this node waited for a cold load, 8.0 s each."


def test_pinned_model_is_not_recommended_for_pinning() -> None:
    fleet = machines(a_machine("alpha", "m", loaded=False), pinned=frozenset({(ALPHA, M)}))
    assert "pin" not in {
        advice.kind for advice in advise(fleet, past(a_usage(requests=100, cold=50, load_s=400.0)), NOW)
    }


def test_pinning_is_recommended_only_within_the_memory() -> None:
    names = [f"m{i}" for i in range(8)]
    usages = [a_usage(model=name, requests=100, cold=50, load_s=400.0) for name in names]
    found = advise(machines(a_machine("alpha", *names, loaded=False, memory_gb=16.0)), past(*usages), NOW)
    assert len([advice for advice in found if advice.kind == "pin"]) == 3


def test_model_without_requests_for_a_month_is_reported_with_its_disk_space() -> None:
    found = advise(
        machines(a_machine("alpha", "m", "old", loaded=False)),
        past(a_usage(requests=200), last_days={"m": 0, "old": 31}),
        NOW,
    )
    [removal] = [advice for advice in found if advice.kind == "delete"]
    assert (removal.model, removal.frees_bytes, removal.rule) == (canonical("old"), 5 * GB, "unused")
    assert removal.reason == "No requests for 31 days; it takes 5.0 GB of disk."


def test_time_before_the_first_record_does_not_count_as_unused() -> None:
    fleet = machines(a_machine("alpha", "old", loaded=False))
    assert advise(fleet, past(began_days=10), NOW) == []
    assert [advice.kind for advice in advise(fleet, past(began_days=31), NOW)] == ["delete"]
    assert UNUSED_AFTER_S == 30 * 86400


def test_deletion_of_a_pinned_model_is_not_recommended() -> None:
    fleet = machines(a_machine("alpha", "old", loaded=False), pinned=frozenset({(ALPHA, canonical("old"))}))
    assert advise(fleet, past(), NOW) == []


def test_before_and_after_follow_from_the_changes() -> None:
    fleet = machines(a_machine("alpha", "m", "old", loaded=False), a_machine("beta"))
    changes = [
        PlacementAdvice(kind="pull", node_id=BETA, model=M, title="", reason="", rule="", cost_bytes=5 * GB),
        PlacementAdvice(
            kind="delete", node_id=ALPHA, model=canonical("old"), title="", reason="", rule="", frees_bytes=5 * GB
        ),
        PlacementAdvice(kind="pin", node_id=ALPHA, model=M, title="", reason="", rule="", cost_bytes=6 * GB),
    ]
    assert before_and_after(fleet, changes) == {ALPHA: (10 * GB, 5 * GB, 0, 6 * GB), BETA: (0, 5 * GB, 0, 5 * GB)}
