"""Budgets of nodes: how amounts are written, and what a budget leaves for models in memory and on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import a_model_info, a_report
from herd.core.planning.transfer_queue import disk_problem
from herd.core.state.fleet import GB, Disk, Fleet, canonical
from herd.core.state.nodes.administration import Administration
from herd.core.state.nodes.budget import NO_BUDGET, Budget, parse_amount


@pytest.mark.parametrize(
    ("text", "amount_bytes"),
    [("20GB", 20 * GB), ("1.5 tb", 1_500 * GB), ("2GiB", 2 << 30), ("50%", 16 * GB), ("none", None), ("", None)],
)
def test_an_amount_is_bytes_or_a_share_of_the_machine(text: str, amount_bytes: int | None) -> None:
    assert parse_amount(text, 32 * GB) == amount_bytes


@pytest.mark.parametrize("text", ["20", "GB", "-1GB", "101%", "1kb", "20 GBit", "nan%"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_amount(text, 32 * GB)


def test_the_smaller_limit_holds() -> None:
    assert Budget(20, None).within(Budget(30, 5)) == Budget(20, 5)
    assert NO_BUDGET.within(NO_BUDGET) == NO_BUDGET


def test_only_models_count_against_a_memory_budget() -> None:
    models = [a_model_info("m", 8.0, loaded=True), a_model_info("n", 4.0)]
    report = a_report(models=models, memory_gb=64.0, used_gb=30.0)
    assert report.model_memory_free_bytes == 34 * GB
    limited = replace(report, own_budget=Budget(20 * GB), administration=Administration(budget=Budget(40 * GB)))
    assert (limited.memory_ceiling_bytes, limited.model_memory_free_bytes) == (20 * GB, 12 * GB)
    assert Fleet().apply_heartbeat(limited, 1.0).free_model_memory_bytes == 12 * GB


def test_loaded_models_beyond_the_budget_leave_less_than_nothing() -> None:
    """Else evicting them would seem to make more room than the budget has."""
    models = [a_model_info("m", 8.0, loaded=True), a_model_info("n", 8.0, loaded=True)]
    report = a_report(models=models, memory_gb=64.0, own_budget=Budget(10 * GB))
    assert report.model_memory_free_bytes == -6 * GB


def test_two_names_of_one_file_count_once_on_disk_and_the_refusal_has_the_numbers() -> None:
    models = [a_model_info("m", 8.0, digest="d"), a_model_info("copy", 8.0, digest="d"), a_model_info("n", 2.0)]
    report = a_report(models=models, own_budget=Budget(None, 12 * GB))
    node = Fleet().apply_heartbeat(report, 1.0)
    assert report.model_disk_bytes == 10 * GB and disk_problem(node, 2 * GB) is None
    problem = disk_problem(node, 3 * GB)
    assert problem is not None and "budget of 12.0 GB" in problem and "10.0 GB are used" in problem


def test_an_update_counts_only_what_the_model_grows() -> None:
    """Its old files are removed, unless another name has them; the disk itself needs room for both at first."""
    models = [a_model_info("m", 8.0, digest="d"), a_model_info("copy", 8.0, digest="d"), a_model_info("n", 3.0)]
    node = Fleet().apply_heartbeat(a_report(models=models, own_budget=Budget(None, 12 * GB)), 1.0)
    assert disk_problem(node, 4 * GB, canonical("n")) is None
    refused = disk_problem(node, 5 * GB, canonical("n"))
    assert refused is not None and "8.0 GB are used" in refused
    assert disk_problem(node, 2 * GB, canonical("m")) is not None and disk_problem(node, 2 * GB, canonical("o"))
    small = a_report(models=models, disk=Disk(20 * GB, 16 * GB, 4 * GB))
    assert disk_problem(Fleet().apply_heartbeat(small, 1.0), 4 * GB, canonical("n")) is not None
