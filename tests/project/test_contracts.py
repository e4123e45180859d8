"""Every import contract of importlinter.ini holds, and the contracts include every package."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys

from project.package_rules import PURE
from project.source import ROOT, modules, packages

FILE = ROOT / "importlinter.ini"
CONTRACT = "importlinter:contract:"
PROGRAM = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(sys.argv[1], no_cache=True, no_logo=True))
"""
"""Runs in its own process, because the linter configures logging and disables every existing logger."""


def contract(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser()
    parser.read(FILE, "utf-8")
    return parser[CONTRACT + name]


def listed(text: str) -> set[str]:
    """The module names in a list or in layers."""
    return set(text.replace("|", " ").replace("(", " ").replace(")", " ").split())


def test_every_import_contract_holds() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(FILE)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_layer() -> None:
    top_files = {module.path.removesuffix(".py") for module in modules() if not module.package} - {
        "__init__",
        "__main__",
    }
    assert {f"herd.{name}" for name in packages() | top_files} <= listed(contract("layers")["layers"])


def test_every_pure_package_is_in_the_contract_for_pure_packages() -> None:
    existing = {pure for pure in PURE if any(module.is_in(pure) for module in modules())}
    names = {"herd." + pure.removesuffix(".py").replace("/", ".") for pure in existing}
    assert names <= listed(contract("pure")["source_modules"])
