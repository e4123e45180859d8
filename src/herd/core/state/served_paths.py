"""Defines which paths of client APIs an engine serves itself, and which fields its own endpoints do not honor.

An engine's plug-in defines it once for its kind; the core reads it to prefer nodes, and the coordinator to choose
between the client's bytes and a translation. Fields are written as paths in the client's body, list positions as `[]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_POSITION = re.compile(r"\[\d+\]")
_TOP = re.compile(r"[.\[ ]")
_NUMBERS = re.compile(r"\d+")

VERSION_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPath:
    """One path that an engine serves itself. The default is an endpoint that honors every field."""

    since: tuple[int, ...] = ()
    """The first version that has it; empty: every version."""
    reads: frozenset[str] | None = None
    """The top-level fields that its endpoint reads; it ignores all others. None: it reads every field."""
    ignores: frozenset[str] = frozenset()
    """Further fields that its endpoint ignores."""
    leaves_out: frozenset[str] = frozenset()
    """Further fields that its endpoint ignores although they change the meaning: herd names them in its answer."""
    refuses: frozenset[str] = frozenset()
    """Fields for which its endpoint answers with an error."""
    loses: frozenset[str] = frozenset()
    """Fields that its endpoint ignores although a translation to another of its endpoints honors them."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """The sampling parameters that its endpoint sets if the client sends none."""
    splits_content: bool = False
    """For chats: whether its endpoint makes a turn of every part of a message's content."""
    has_template: bool = False
    """For text completions: whether its endpoint puts the prompt into the model's template."""

    def ignores_field(self, name: str) -> bool:
        """Whether the endpoint answers as if the request had no such field."""
        top = _TOP.split(name, maxsplit=1)[0]
        is_unread = self.reads is not None and top not in self.reads
        return is_unread or _matches(name, self.ignores) or _matches(name, self.leaves_out)

    def honors(self, name: str) -> bool:
        """Whether the field has its effect there."""
        return not (self.ignores_field(name) or _matches(name, self.refuses))

    def exists_in(self, version: str) -> bool:
        """Whether this version of the engine has the path. An unknown version has it."""
        return not self.since or version_numbers(version) >= self.since or not version_numbers(version)


PathsByName = Mapping[str, ServedPath]
EVERY_FIELD = ServedPath()


def served_path(paths: PathsByName, path: str, version: str) -> ServedPath | None:
    """The path as an engine of this version serves it; None if it does not."""
    served = paths.get(path)
    return served if served is not None and served.exists_in(version) else None


def honors_all(paths: PathsByName, path: str, version: str, fields: Iterable[str]) -> bool:
    """Whether an engine of this version itself serves the path, and honors all these fields."""
    served = served_path(paths, path, version)
    return served is not None and all(served.honors(name) for name in fields)


def version_numbers(version: str) -> tuple[int, ...]:
    """The first numbers of a version: (0, 13, 3) for "0.13.3-rc1"; empty for an unknown version."""
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("-")[0])[:VERSION_PARTS])


def _matches(name: str, patterns: frozenset[str]) -> bool:
    """Whether a pattern is the field or contains it. After a blank, a field may be explained: "tools[0] (custom)"."""
    plain = _POSITION.sub("[]", name)
    return any(plain == pattern or plain.startswith(tuple(pattern + end for end in ".[ ")) for pattern in patterns)
