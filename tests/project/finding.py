"""One breach of a project convention, and the type of the rules that find breaches in a parsed file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from project.source import Module


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach. `amount` is a size where the rule limits a size, else 1."""

    path: str
    line: int
    message: str
    amount: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


Rule: TypeAlias = Callable[[Module], Iterable[Finding]]
