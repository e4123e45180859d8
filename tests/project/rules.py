"""Applies every rule to its files and prints the findings of a path: `python -m project.rules src/herd/agent`."""

from __future__ import annotations

import sys
from pathlib import Path

from project.finding import Finding, Rule
from project.package_rules import PACKAGE_RULES
from project.python_rules import PYTHON_RULES
from project.source import modules, python_files
from project.testing_rules import TESTING_RULES

ALL_RULES: tuple[Rule, ...] = (*PACKAGE_RULES, *PYTHON_RULES, *TESTING_RULES)


def findings_of(rule: Rule) -> list[Finding]:
    searched = modules() if rule in PACKAGE_RULES else python_files()
    return [finding for module in searched for finding in rule(module)]


def main(arguments: list[str]) -> int:
    starts = tuple(Path(argument).as_posix() for argument in arguments) or ("",)
    count = 0
    for rule in ALL_RULES:
        for finding in findings_of(rule):
            if any(not start or f"{finding.path}/".startswith(f"{start}/") for start in starts):
                print(f"{finding} ({rule.__name__})")
                count += 1
    print(f"{count} found", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
