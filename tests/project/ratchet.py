"""Reads from ratchet.json how many findings of a rule a file or an area may still have; a number may only shrink."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from project.finding import Finding
from project.source import ROOT

FILE = ROOT / "tests" / "project" / "ratchet.json"


def budget() -> dict[str, dict[str, int]]:
    """By rule, then by file or area: the largest sum of amounts, such as `{"any": {"src/herd/cli/client.py": 1}}`."""
    found: dict[str, dict[str, int]] = json.loads(FILE.read_text("utf-8"))
    return {rule: places for rule, places in found.items() if rule != "reasons"}


def reasons() -> dict[str, str]:
    """By rule: why its remaining findings are accepted."""
    found: dict[str, str] = json.loads(FILE.read_text("utf-8"))["reasons"]
    return found


def path_of(path: str) -> str:
    return path


def area_of(path: str) -> str:
    """The part of the repository for which findings are counted: "src/herd/agent", "docs", "tests/cli"."""
    parts = path.split("/")
    depth = 3 if parts[0] == "src" else 2 if parts[0] in ("tests", "frontend", "sim", "bench") else 1
    return "/".join(parts[:depth] if len(parts) > depth else parts[:-1]) or "(top)"


def totals(findings: Iterable[Finding], place_of: Callable[[str], str] = path_of) -> dict[str, int]:
    """The sum of the amounts by file, or by area."""
    counted: Counter[str] = Counter()
    for finding in findings:
        counted[place_of(finding.path)] += finding.amount
    return dict(counted)


def grown(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """The files or areas that exceed their budget."""
    return sorted(path for path, amount in found.items() if amount > allowed.get(path, 0))


def shrinkable(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """One line for each number that can be lowered."""
    lower = {path: found.get(path, 0) for path, amount in allowed.items() if found.get(path, 0) < amount}
    return [f"{path}: {allowed[path]} -> {amount or 'nothing'}" for path, amount in sorted(lower.items())]
