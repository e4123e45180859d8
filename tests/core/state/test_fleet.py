"""A heartbeat that repeats the node's models costs little and changes nothing that the full path would change."""

from __future__ import annotations

from dataclasses import replace

from builders import a_model_info, a_report
from herd.core.state.fleet import Fleet, canonical
from herd.core.state.loads import LOAD_OVERDUE_S

M = canonical("m")


def test_a_repeated_report_updates_the_readings_of_the_machine() -> None:
    fleet, report = Fleet(), a_report(models=[a_model_info(loaded=True)], used_gb=4.0)
    node = fleet.apply_heartbeat(report, 1.0)
    models = node.report.models
    fleet.apply_heartbeat(replace(report, memory=a_report(used_gb=20.0).memory, draining=True), 6.0)
    assert node.report.models is models and node.report.draining
    assert (node.last_heartbeat_at, node.free_model_memory_bytes) == (6.0, 12 * 10**9)


def test_a_repeated_report_lists_a_dropped_model_again() -> None:
    fleet, report = Fleet(), a_report(models=[a_model_info()])
    node = fleet.apply_heartbeat(report, 1.0)
    fleet.drop_model(node, M)
    assert not fleet.knows(M)
    fleet.apply_heartbeat(replace(report), 6.0)
    assert fleet.knows(M)


def test_a_repeated_report_ends_an_overdue_load() -> None:
    fleet, report = Fleet(), a_report(models=[a_model_info()])
    node = fleet.apply_heartbeat(report, 1.0)
    node.loading_until[M] = 10.0
    fleet.apply_heartbeat(replace(report), 11.0 + LOAD_OVERDUE_S)
    assert not node.loading_until


def test_a_repeated_report_of_a_new_boot_is_not_a_repetition() -> None:
    fleet, report = Fleet(), a_report(models=[a_model_info()])
    node = fleet.apply_heartbeat(report, 1.0)
    node.loading_until[M] = 100.0
    fleet.apply_heartbeat(replace(report, boot_id="boot-2"), 6.0)
    assert not node.loading_until and node.report.boot_id == "boot-2"


def test_other_names_of_a_loaded_file_stay_loaded_when_the_report_is_repeated() -> None:
    loaded = a_model_info("m", loaded=True, digest="d")
    report = a_report(models=[loaded, a_model_info("n", digest="d")])
    fleet = Fleet()
    node = fleet.apply_heartbeat(report, 1.0)
    fleet.apply_heartbeat(replace(report), 6.0)
    assert node.is_loaded(canonical("n")) and node.report.models[canonical("n")].loaded is not None


def test_confirmed_changes_are_not_undone_by_a_repeated_report() -> None:
    fleet, report = Fleet(), a_report(models=[a_model_info()])
    node = fleet.apply_heartbeat(report, 1.0)
    fleet.replace_report(node, replace(node.report, models={}), 2.0)
    assert not fleet.knows(M)
    fleet.apply_heartbeat(replace(report), 6.0)
    assert fleet.knows(M)
