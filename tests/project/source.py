"""Reads and parses the repository's files once for all project tests."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "herd"
SKIPPED_FOLDERS = frozenset({".git", ".venv", ".cache", "node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed Python file. `path` is relative to `root`: "core/lifecycle/holding.py" in "src/herd"."""

    path: str
    text: str
    tree: ast.Module
    root: str = "src/herd"

    @property
    def file(self) -> str:
        """The path in the repository: "src/herd/core/lifecycle/holding.py"."""
        return f"{self.root}/{self.path}" if self.root else self.path

    @property
    def package(self) -> str:
        """ "core" for core/scheduling/filters/online.py, "" for a module of the top level."""
        return self.path.partition("/")[0] if "/" in self.path else ""

    def is_in(self, *places: str) -> bool:
        """Whether this is one of the files, or is below one of the folders."""
        return any(self.path == place or self.path.startswith(f"{place}/") for place in places)


def parse(path: str, text: str, root: str = "src/herd") -> Module:
    return Module(path, text, ast.parse(text, path), root)


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the package, in the order of their names."""
    files = sorted(PACKAGE.rglob("*.py"))
    return tuple(parse(file.relative_to(PACKAGE).as_posix(), file.read_text("utf-8")) for file in files)


@functools.cache
def python_files() -> tuple[Module, ...]:
    """Every Python file of the repository; `root` is empty."""
    files = [file for file in repository_files() if file.suffix == ".py"]
    return tuple(parse(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"), root="") for file in files)


def packages() -> frozenset[str]:
    """The folders of the package that hold Python files."""
    return frozenset(module.package for module in modules() if module.package)


@functools.cache
def repository_files() -> tuple[Path, ...]:
    """The files of a clone; outside a Git repository, all files except generated folders."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
        files = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = list(_walk(ROOT))
    return tuple(sorted(file for file in files if file.is_file()))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in SKIPPED_FOLDERS:
            yield from _walk(path)
        elif path.is_file():
            yield path
