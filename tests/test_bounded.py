"""Tests which entry a bounded dictionary drops."""

from herd.bounded import BoundedDict


def of(size_max: int, keys: str) -> BoundedDict[str, int]:
    bounded = BoundedDict[str, int](size_max)
    for number, key in enumerate(keys):
        bounded[key] = number
    return bounded


def test_the_entry_that_was_inserted_first_is_dropped() -> None:
    assert list(of(2, "abc")) == ["b", "c"]


def test_replacing_a_value_keeps_the_age_of_its_entry() -> None:
    assert list(of(2, "abac").items()) == [("b", 1), ("c", 3)]


def test_an_entry_that_was_moved_to_the_end_outlives_a_newer_one() -> None:
    bounded = of(2, "ab")
    bounded.move_to_end("a")
    bounded["c"] = 3
    assert list(bounded) == ["a", "c"]


def test_setdefault_keeps_the_limit_too() -> None:
    bounded = of(2, "ab")
    assert bounded.setdefault("b", 9) == 1
    assert bounded.setdefault("c", 9) == 9
    assert list(bounded) == ["b", "c"]


def test_a_dictionary_of_size_zero_stays_empty() -> None:
    assert not of(0, "ab")
