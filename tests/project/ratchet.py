"""Reads ratchet.json: how many findings of a rule a file or an area may still have. A number may only shrink."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from project.source import ROOT
from project.tidy import Finding

FILE = ROOT / "tests" / "project" / "ratchet.json"


def budget() -> dict[str, dict[str, int]]:
    """`{"long_file": {"agent_protocol/heartbeat_decode.py": 545}}`: the largest sum of amounts that a file may have."""
    found: dict[str, dict[str, int]] = json.loads(FILE.read_text("utf-8"))
    return found


def totals(findings: Iterable[Finding]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for finding in findings:
        counted[finding.path] += finding.amount
    return dict(counted)


def grown(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """The files that exceed their budget."""
    return sorted(path for path, amount in found.items() if amount > allowed.get(path, 0))


def shrinkable(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """One line for each number that can be lowered."""
    lower = {path: found.get(path, 0) for path, amount in allowed.items() if found.get(path, 0) < amount}
    return [f"{path}: {allowed[path]} -> {amount or 'nothing'}" for path, amount in sorted(lower.items())]
