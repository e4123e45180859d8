"""Finds the plug-ins of a package: the one record that each of its modules defines.

The package's `__init__.py` defines the record's type. To add a plug-in, add a file; there is no list to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

Record = TypeVar("Record")


def discover(package: ModuleType, kind: type[Record], name: str) -> tuple[Record, ...]:
    """The constant `name` (for example "SIGNAL") of each module of the package, ordered by file name.

    Raises `TypeError` if a module does not define the constant with this type, and `ValueError` if two records have the
    same name: both are errors in the source code, found at start.
    """
    records = tuple(_record(module, kind, name) for module in _modules(package))
    names = [getattr(record, "name") for record in records]  # noqa: B009 - the contract is checked at run time
    duplicates = sorted({n for n in names if names.count(n) > 1})
    if duplicates:
        raise ValueError(f"{package.__name__}: more than one {name} is named {', '.join(duplicates)}")
    return records


def _modules(package: ModuleType) -> list[str]:
    """The full names of all modules below the package, also in sub-packages, ordered by file name."""
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
