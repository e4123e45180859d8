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
    records = tuple(_record(package, module.name, kind, name) for module in _modules(package))
    names = [getattr(record, "name") for record in records]  # noqa: B009 - the contract is checked at run time
    twins = sorted({n for n in names if names.count(n) > 1})
    if twins:
        raise ValueError(f"{package.__name__}: more than one {name} is named {', '.join(twins)}")
    return records


def _modules(package: ModuleType) -> list[pkgutil.ModuleInfo]:
    found = [m for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    return sorted(found, key=lambda module: module.name)


def _record(package: ModuleType, module: str, kind: type[Record], name: str) -> Record:
    loaded = importlib.import_module(f"{package.__name__}.{module}")
    record = vars(loaded).get(name)
    if not isinstance(record, kind):
        raise TypeError(f"{loaded.__name__} must define {name}: {kind.__name__}")
    return record
