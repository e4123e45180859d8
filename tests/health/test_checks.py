"""Tests that every check finds its problem, with numbers and a command, and finds nothing on a healthy fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest

import herd.health.checks
from builders import a_model_info, an_engine, an_engine_of
from health.fleets import AT, a_healthy_report, a_memory, a_node, a_pair, a_sample, a_snapshot, an_hour
from herd.core.lifecycle.node_names import boot_id_at
from herd.core.state.fleet import GB, Disk, Liveness, Loaded, NodeId, Pressure, Report, canonical
from herd.discover import discover
from herd.health import Check, Finding, Severity
from herd.health.examination import examine
from herd.health.snapshot import Snapshot, StoreNow, Traffic

CHECKS = discover(herd.health.checks, Check, "CHECK")
NODE_NAMES = ("alpha", "beta")


def test_there_are_enough_checks() -> None:
    assert len(CHECKS) >= 18


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_finds_nothing_on_a_healthy_fleet(check: Check) -> None:
    assert list(check.find(a_snapshot())) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_finds_nothing_before_the_first_node_joins(check: Check) -> None:
    assert list(check.find(Snapshot(at=AT, version="0.1.0"))) == []


def with_alpha(report: object = None, **more: object) -> Snapshot:
    """A fleet in which node alpha has these values and node beta is healthy."""
    return a_snapshot(a_node("alpha", report, **more), a_node("beta"))  # type: ignore[arg-type]


def with_report(**more: object) -> Snapshot:
    return with_alpha(a_healthy_report("alpha", **more))


def a_full_disk(node_id: str) -> Report:
    return a_healthy_report(node_id, disk=Disk(500 * GB, 495 * GB, 5 * GB), models=(a_model_info("m", 2.0),))


def with_model_info(loaded: Loaded | None, **more: object) -> Snapshot:
    return with_report(models=(replace(a_model_info("m", 2.0, digest="sha256:aa", **more), loaded=loaded),))


def ollama(version: str) -> Snapshot:
    return with_report(
        models=(a_model_info("m", engine=an_engine_of(version), digest="sha256:aa"),), engines=(an_engine_of(version),)
    )


def versions(*reported_versions: str) -> Snapshot:
    return a_snapshot(
        *(
            a_node(name, a_healthy_report(name, engines=(an_engine_of(version),)))
            for name, version in zip(NODE_NAMES, reported_versions, strict=True)
        )
    )


def alternating() -> Snapshot:
    """Two models that evict each other every minute."""
    samples = tuple(a_sample(n, loaded=frozenset({canonical("ab"[n // 4 % 2])})) for n in reversed(range(240)))
    return with_alpha(samples=samples)


def filling() -> Snapshot:
    samples = tuple(a_sample(n, disk_free_bytes=(200 + n) * GB) for n in reversed(range(240)))
    return with_alpha(samples=samples)


def of_pair(**more: object) -> Snapshot:
    return a_snapshot(pairs=(a_pair("alpha", **more), a_pair("beta")))


def drifted() -> Snapshot:
    other = a_healthy_report(
        "beta", models=(a_model_info("m", 2.0, loaded=True, digest="sha256:bb", modified_at="2026-11-01T00:00:00Z"),)
    )
    return a_snapshot(a_node("alpha"), a_node("beta", other))


PROBLEMS: dict[str, tuple[Snapshot, Severity, str]] = {
    "alias_target_missing": (a_snapshot(dead_aliases={"fast": ("gone", "lost")}), Severity.WARNING, "gone, lost"),
    "clock_skew": (with_alpha(clock_ahead_s=-90.0), Severity.WARNING, "90 s behind"),
    "cold_loads": (
        of_pair(cold_loads=20, load_s=60.0),
        Severity.WARNING,
        "20 cold loads in 99 requests, 60 s of waiting",
    ),
    "context_waste": (
        with_model_info(Loaded(20 * GB, 131_072), kv_bytes_per_token=100_000),
        Severity.INFO,
        "1800 tokens used of 131072; 12.7 GB unused",
    ),
    "cpu_fallback": (with_model_info(Loaded(3 * GB, 4096, 0)), Severity.CRITICAL, "0.0 GB of 3.0 GB on the GPU"),
    "disk_full": (
        with_alpha(
            a_healthy_report("alpha", disk=Disk(500 * GB, 495 * GB, 5 * GB)), samples=an_hour(disk_free_bytes=5 * GB)
        ),
        Severity.WARNING,
        "5.0 GB of 500.0 GB",
    ),
    "errors": (of_pair(failed=40, completed=60), Severity.CRITICAL, "40 of 100 requests failed"),
    "flapping": (with_alpha(returns=3), Severity.WARNING, "3 times recently"),
    "hung_runners": (of_pair(silent=70, completed=20), Severity.CRITICAL, "70 attempts without a token, 20 completed"),
    "idle_nodes": (with_report(models=(), engines=()), Severity.WARNING, "no engine"),
    "kv_bloat": (
        with_model_info(Loaded(12 * GB, 32768, 12 * GB), slots=4),
        Severity.WARNING,
        "10.0 GB for 4 x 32768 tokens, 2.0 GB for the weights",
    ),
    "memory_pressure": (with_report(memory=a_memory(1.5, Pressure.CRITICAL)), Severity.CRITICAL, "1.5 GB of 32.0 GB"),
    "model_drift": (drifted(), Severity.WARNING, "alpha"),
    "offline": (with_alpha(liveness=Liveness.OFFLINE, silent_s=300.0), Severity.WARNING, "5 min ago"),
    "open_fleet": (a_snapshot(is_open=True), Severity.WARNING, "true"),
    "pins": (with_model_info(None), Severity.WARNING, "on disk only"),
    "queues": (with_alpha(pending=9, running=2), Severity.INFO, "9 queued, 2 running"),
    "retries": (of_pair(retried=30), Severity.WARNING, "30 of 130 attempts retried"),
    "slow_link": (of_pair(link_s=0.9), Severity.WARNING, "900 ms per request"),
    "store_trouble": (a_snapshot(store=StoreNow(5, 3, 0, AT - 60, "no space left")), Severity.CRITICAL, "3 traces"),
    "swap": (
        with_report(memory=a_memory(1.0, Pressure.WARN, 9.0)),
        Severity.WARNING,
        "9.0 GB, 9.0 GB more than an hour ago",
    ),
    "thrashing": (alternating(), Severity.WARNING, "reloaded 29 times in an hour"),
    "throttling": (
        with_alpha(
            a_healthy_report("alpha", thermal_state="warning", temperature_c=97.0), samples=an_hour(is_hot=True)
        ),
        Severity.WARNING,
        "97 °C",
    ),
    "timeouts": (a_snapshot(traffic=Traffic((), 100, 30, 5)), Severity.CRITICAL, "30 requests in the last hour"),
    "truncation": (
        of_pair(overlong=4, cut_short=1),
        Severity.WARNING,
        "4 prompts too long, 1 answer truncated, of 100 requests",
    ),
    "unbalanced": (
        a_snapshot(pairs=(a_pair("alpha", busy_s=990.0, waited_s=500.0), a_pair("beta", busy_s=10.0))),
        Severity.INFO,
        "99 %",
    ),
    "frozen_engine": (
        with_report(engines=(replace(an_engine(), silent_s=8.0),)),
        Severity.CRITICAL,
        "no answer for 8 s",
    ),
    "unreachable": (with_alpha(is_reachable=False), Severity.CRITICAL, "http://127.0.0.1:11434"),
    "unusable_engine": (
        with_report(engines=(an_engine(), replace(an_engine(), problem="the server of q listens on 127.0.0.1 only"))),
        Severity.WARNING,
        "the server of q listens on 127.0.0.1 only",
    ),
    "version_skew": (with_report(agent_version="0.0.9"), Severity.INFO, "0.0.9"),
    "vulnerable_engine": (
        ollama("0.1.30"),
        Severity.CRITICAL,
        "a crafted model can execute code on the machine (fixed in 0.1.34)",
    ),
    "zombies": (a_snapshot(alarms=2, alarmed_at=AT - 9), Severity.CRITICAL, "2 violations"),
}


def found_by(name: str, snapshot: Snapshot) -> list[Finding]:
    return list(next(check for check in CHECKS if check.name == name).find(snapshot))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_finds_its_problem_with_evidence_and_a_remedy(check: Check) -> None:
    snapshot, severity, evidence = PROBLEMS[check.name]
    findings = list(check.find(snapshot))
    assert [finding.severity for finding in findings] == [severity]
    assert evidence in [fact.value for fact in findings[0].evidence]
    assert findings[0].title and findings[0].cause.endswith(".") and findings[0].remedy.endswith(".")
    assert all(
        command.command and command.os in ("linux", "macos", "windows", "any") for command in findings[0].commands
    )


SYSTEMS = (("linux", "sudo systemctl restart ollama"), ("darwin", "open -a Ollama"), ("windows", "taskkill"))


@pytest.mark.parametrize(("os", "command"), SYSTEMS)
def test_the_command_fits_the_operating_system_of_the_node(os: str, command: str) -> None:
    report = replace(
        a_healthy_report("alpha", os=os),
        models={canonical("m"): replace(a_model_info("m"), loaded=Loaded(GB, 4096, 0))},
    )
    [finding] = found_by("cpu_fallback", a_snapshot(a_node("alpha", report)))
    assert [command in one.command for one in finding.commands] == [True]


def test_one_cause_on_many_nodes_is_one_finding() -> None:
    nodes = [a_node(f"n{i}", a_healthy_report(f"n{i}", memory=a_memory(1.0, Pressure.CRITICAL))) for i in range(9)]
    [finding] = found_by("memory_pressure", a_snapshot(*nodes))
    assert len(finding.nodes) == 9 and finding.title == "n0, n1, n2, n3 and 5 more: low on memory"


def test_a_model_larger_than_the_gpu_may_run_on_the_cpu() -> None:
    large = replace(a_model_info("m", 60.0), loaded=Loaded(60 * GB, 4096, 0))
    assert found_by("cpu_fallback", with_report(models=(large,))) == []


def test_a_node_without_a_gpu_has_no_cpu_fallback() -> None:
    assert (
        found_by("cpu_fallback", with_report(gpus=(), models=(replace(a_model_info("m"), loaded=Loaded(GB, 4096, 0)),)))
        == []
    )


def test_a_short_temperature_peak_is_not_throttling() -> None:
    samples = (*an_hour()[:-10], *(a_sample(n, is_hot=True) for n in reversed(range(10))))
    assert found_by("throttling", with_alpha(a_healthy_report("alpha", thermal_state="warning"), samples=samples)) == []


def test_the_start_of_memory_pressure_is_read_from_the_samples() -> None:
    samples = (*an_hour()[:-10], *(a_sample(n, pressure=Pressure.CRITICAL) for n in reversed(range(10))))
    [finding] = found_by(
        "memory_pressure",
        with_alpha(a_healthy_report("alpha", memory=a_memory(1.0, Pressure.CRITICAL)), samples=samples),
    )
    assert finding.since == AT - 9 * 15


@pytest.mark.parametrize(("oldest_s", "titles"), [(9.0, []), (10.0, ["Traces are written late"])])
def test_traces_that_wait_for_seconds_are_reported(oldest_s: float, titles: list[str]) -> None:
    store = StoreNow(waiting=4000, free_bytes=100 * GB, oldest_s=oldest_s)
    assert [finding.title for finding in found_by("store_trouble", a_snapshot(store=store))] == titles


def test_a_disk_that_fills_up_within_a_day_is_reported() -> None:
    [finding] = found_by("disk_full", filling())
    assert finding.key == "filling" and finding.evidence[0].value.endswith("full in 50 min")


def test_a_node_that_is_offline_in_alternating_samples_is_flapping() -> None:
    samples = tuple(
        a_sample(n, liveness=Liveness.OFFLINE if n // 20 % 2 else Liveness.ONLINE) for n in reversed(range(240))
    )
    [finding] = found_by("flapping", with_alpha(samples=samples))
    assert finding.nodes == (NodeId("alpha"),)


def test_an_agent_of_ollama_herd_has_versions_of_its_own() -> None:
    for boot_id, count in ((boot_id_at("192.0.2.1"), 0), ("boot-1", 1)):
        assert len(found_by("version_skew", with_report(agent_version="0.11.4", boot_id=boot_id))) == count


def test_minor_engine_versions_that_differ_are_reported_and_patch_versions_are_not() -> None:
    assert [finding.nodes for finding in found_by("version_skew", versions("0.31.2", "0.32.15"))] == [
        (NodeId("alpha"),)
    ]
    assert found_by("version_skew", versions("0.32.1", "0.32.15")) == []


@pytest.mark.parametrize(
    ("version", "vulnerabilities"), [("0.1.28", 5), ("0.1.33", 4), ("0.17.0", 1), ("0.17.1", 0), ("", 0), ("dev", 0)]
)
def test_an_engine_version_has_its_known_vulnerabilities(version: str, vulnerabilities: int) -> None:
    found = found_by("vulnerable_engine", ollama(version))
    assert sum(len(finding.evidence) for finding in found) == vulnerabilities


def test_the_newer_version_of_a_drifted_model_is_the_right_one() -> None:
    [finding] = found_by("model_drift", drifted())
    assert finding.nodes == (NodeId("alpha"),) and finding.commands[0].command == "herd update m:latest"


def test_a_model_name_is_quoted_in_a_command() -> None:
    nodes = [
        a_node(name, a_healthy_report(name, models=(a_model_info("x;reboot", digest=name),))) for name in NODE_NAMES
    ]
    [finding] = found_by("model_drift", a_snapshot(*nodes))
    assert finding.commands[0].command == "herd update 'x;reboot:latest'"


def test_a_node_that_answers_401_or_403_gets_the_command_to_pair_it() -> None:
    [finding] = found_by("unreachable", with_alpha(is_authorized=False))
    assert finding.commands[0].command == "herd nodes invite"


def test_an_offline_node_does_not_miss_a_pin() -> None:
    offline = a_node("alpha", a_healthy_report("alpha", models=()), liveness=Liveness.OFFLINE)
    assert found_by("pins", a_snapshot(offline, a_node("beta"))) == []


def test_any_node_satisfies_a_pin_without_a_node() -> None:
    anywhere = {NodeId(""): (canonical("m"),)}
    assert found_by("pins", a_snapshot(pinned=anywhere)) == []
    not_loaded = [a_node(name, a_healthy_report(name, models=(a_model_info("m"),))) for name in NODE_NAMES]
    [finding] = found_by("pins", a_snapshot(*not_loaded, pinned=anywhere))
    assert finding.evidence[0].label == "m:latest on any node" and finding.nodes == ()


def test_a_missing_pinned_model_is_loaded_if_it_is_on_disk_and_else_downloaded() -> None:
    on_disk, missing = with_model_info(None), with_report(models=())
    commands = [[one.command for one in found_by("pins", snapshot)[0].commands] for snapshot in (on_disk, missing)]
    unpin = "herd unpin m:latest"
    assert commands == [["herd load m:latest --node alpha", unpin], ["herd pull m:latest --node alpha", unpin]]


def test_a_command_for_one_node_names_it() -> None:
    [no_model] = found_by("idle_nodes", with_report(models=()))
    assert no_model.commands[0].command == "herd pull llama3.2:3b --node alpha"
    [full] = found_by("disk_full", a_snapshot(a_node("alpha", a_full_disk("alpha"))))
    assert full.commands[0].command == "herd rm m --node alpha"


def test_the_command_for_failures_names_a_failed_request() -> None:
    [finding] = found_by("errors", of_pair(failed=40, completed=60, newest_failed_id="abc"))
    assert finding.commands[0].command == "herd why abc"


def test_findings_are_sorted_by_severity_and_scored() -> None:
    snapshot = a_snapshot(a_node("alpha", is_reachable=False), a_node("beta", pending=9), is_open=True)
    result = examine(CHECKS, snapshot, {"queues": AT - 50})
    assert [one.id for one in result.findings] == ["unreachable:refused", "open_fleet", "queues"]
    assert result.score == 63
    assert result.arithmetic == "63/100 (1 critical finding, 1 warning, 1 note)"
    assert result.summary == "2 problems found." and result.findings[2].since == AT - 50
    assert {name for name, _ in result.passed} == {check.name for check in CHECKS} - {
        "unreachable",
        "open_fleet",
        "queues",
    }


def test_a_score_is_at_least_zero() -> None:
    def many(_: Snapshot) -> list[Finding]:
        return [
            Finding(
                severity=Severity.CRITICAL, title="t", cause="c.", evidence=(), remedy="r.", commands=(), key=str(n)
            )
            for n in range(300)
        ]

    result = examine([Check("many", "none", many)], a_snapshot(), {})
    assert result.score == 0 and result.arithmetic == "0/100 (300 critical findings)" and len(result.findings) == 200


def test_a_healthy_fleet_scores_100() -> None:
    result = examine(CHECKS, a_snapshot(), {})
    assert (result.score, result.summary, len(result.passed)) == (100, "No problems found.", len(CHECKS))
    assert result.arithmetic == "100/100 (no findings)"


def test_a_fleet_without_nodes_has_nothing_to_check() -> None:
    assert examine(CHECKS, Snapshot(at=AT, version="0.1.0"), {}).summary == "No nodes to check."
