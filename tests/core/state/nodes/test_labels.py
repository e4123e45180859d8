"""Labels of nodes: what is a label, how they are edited, and which node has the wanted ones."""

from __future__ import annotations

import pytest

from herd.core.state.nodes.labels import LABELS_MAX, edited, lacking, parse_labels


def test_labels_are_names_or_names_with_a_value_in_lower_case() -> None:
    assert parse_labels(["Kids", " gpu=Big ", "", "room/2"]) == {"kids", "gpu=big", "room/2"}


@pytest.mark.parametrize("text", ["a b", "=x", "gpu=", "a=b=c", "ä", "-a", "a" * 64, "a;b"])
def test_other_texts_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a label"):
        parse_labels(["kids", text])


def test_the_number_of_labels_is_limited() -> None:
    assert len(parse_labels(f"l{n}" for n in range(LABELS_MAX))) == LABELS_MAX
    with pytest.raises(ValueError, match=f"at most {LABELS_MAX} labels"):
        parse_labels(f"l{n}" for n in range(LABELS_MAX + 1))


def test_a_new_value_replaces_the_old_one_and_a_name_removes_any_value() -> None:
    known = frozenset({"gpu=small", "kids", "room=2"})
    assert edited(known, frozenset({"gpu=big"}), frozenset({"room"})) == {"gpu=big", "kids"}
    assert edited(known, frozenset(), frozenset({"room=3", "kids"})) == {"gpu=small", "room=2"}


def test_a_name_accepts_every_value_and_a_value_only_itself() -> None:
    labels = frozenset({"gpu=big", "kids"})
    assert lacking(frozenset({"gpu", "kids"}), labels) == []
    assert lacking(frozenset({"gpu=small", "attic"}), labels) == ["attic", "gpu=small"]
