"""Compiled modules behave as the same files do without the compiler; run with `dev.py test --compiled`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import herd
from compile_modules import module_name, selected
from herd.build_form import COMPILED, build_form

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("describe.py")
MODULES = tuple(module_name(Path(path)) for path in selected())


def test_the_selected_modules_run_compiled_and_no_others() -> None:
    every = [module_name(path.relative_to(ROOT / "src")) for path in (ROOT / "src/herd").rglob("*.py")]
    compiled = {name for name in every if origin(name).endswith(tuple(EXTENSION_SUFFIXES))}
    assert compiled == (set(MODULES) if build_form() == COMPILED else set())


def origin(name: str) -> str:
    found = find_spec(name)
    assert found is not None, name
    return found.origin or ""


@pytest.fixture(scope="module")
def forms() -> tuple[dict[str, Any], dict[str, Any]]:
    """The description of every compiled module: of the files in src, and of what these tests import."""
    return described(ROOT / "src"), described(Path(herd.__file__).parents[1])


def described(sources: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=" ".join(MODULES),
        env={**os.environ, "PYTHONPATH": str(sources), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", MODULES)
def test_classes_and_records_are_the_same_in_both_forms(
    name: str, forms: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    pure, here = forms
    assert here[name] == pure[name]
