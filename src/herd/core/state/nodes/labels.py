"""Defines labels of nodes: a plain name (`kids`) or a name with a value (`gpu=big`), in lower case.

A request that requires `gpu` accepts a node with any value of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LABELS_MAX = 32
LABEL_MAX_CHARS = 63
_LABEL = re.compile(r"[a-z0-9][a-z0-9._/:-]*(=[a-z0-9._/:-]+)?")


def parse_labels(texts: Iterable[str]) -> frozenset[str]:
    """Raises `ValueError` with the first text that is not a label."""
    labels = {text.strip().lower() for text in texts} - {""}
    for label in sorted(labels):
        if len(label) > LABEL_MAX_CHARS or not _LABEL.fullmatch(label):
            raise ValueError(
                f"{label[:80]!r} is not a label: letters, digits and . _ / : -, optionally with =VALUE, "
                f"at most {LABEL_MAX_CHARS} characters"
            )
    if len(labels) > LABELS_MAX:
        raise ValueError(f"at most {LABELS_MAX} labels, not {len(labels)}")
    return frozenset(labels)


def edited(known: frozenset[str], added: frozenset[str], removed: frozenset[str]) -> frozenset[str]:
    """A new value replaces the old one of the same name. Removing a name also removes it with any value."""
    replaced = {name_of(label) for label in added}
    return frozenset(
        label for label in known if name_of(label) not in replaced and removed.isdisjoint((label, name_of(label)))
    ) | (added - removed)


def lacking(wanted: frozenset[str], labels: frozenset[str]) -> list[str]:
    """The wanted labels that these do not contain, sorted."""
    return sorted(wanted - labels - {name_of(label) for label in labels})


def name_of(label: str) -> str:
    return label.partition("=")[0]


def listed(labels: Iterable[str]) -> str:
    """ "the label 'kids'", "the labels 'gpu=big', 'kids'"."""
    names = sorted(labels)
    return f"the label{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names)}"
