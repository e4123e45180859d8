"""Collects the one record of each file in a plug-in folder. Knows nothing of what the records mean.

A plug-in folder is a package whose modules each define exactly one instance of the contract that stands in the
folder's `__init__.py`. Adding a plug-in is adding a file; there is no list to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

Record = TypeVar("Record")


def discover(package: ModuleType, kind: type[Record], name: str) -> tuple[Record, ...]:
    """Every `name` constant (e.g. "SIGNAL") of the package's modules, ordered by file name.

    Raises `TypeError` when a module lacks the constant or holds something else, and `ValueError` when two
    records share a name: both are mistakes in the source, found at start.
    """
    records = tuple(_record(module, kind, name) for module in _modules(package))
    names = [getattr(record, "name") for record in records]  # noqa: B009 - the contract is checked at run time
    twins = sorted({n for n in names if names.count(n) > 1})
    if twins:
        raise ValueError(f"{package.__name__}: more than one {name} is named {', '.join(twins)}")
    return records


def _modules(package: ModuleType) -> list[str]:
    """The full names of all modules below the package, groups in sub-packages included, ordered by their own file name."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [module.name for module in found if not module.ispkg and not _own_name(module.name).startswith("_")]
    return sorted(names, key=_own_name)


def _own_name(module: str) -> str:
    return module.rpartition(".")[2]


def _record(module: str, kind: type[Record], name: str) -> Record:
    loaded = importlib.import_module(module)
    record = vars(loaded).get(name)
    if not isinstance(record, kind):
        raise TypeError(f"{module} must define {name}: {kind.__name__}")
    return record
