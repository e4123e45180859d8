"""The store of answers keeps its limits, drops whole conversations in order, and says why an answer is gone."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from herd.coordinator.proxy.response_store import ENTRY_COST_BYTES, ResponseStore, ResponseStoreSettings, StoredResponse


class Clock:
    """A time that tests set, and the timers that were set."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((delay_s, call))


def a_store(clock: Clock, max_bytes: int = 10_000, max_age_s: float = 60.0) -> ResponseStore:
    return ResponseStore(ResponseStoreSettings(True, max_bytes, max_age_s), lambda: clock.now_s, clock.call_later)


def add(
    store: ResponseStore, name: str, previous: StoredResponse | None = None, size: int = 100, owner: str = "k"
) -> StoredResponse | None:
    output = [{"type": "message", "id": f"msg_{name}", "content": "o" * size}]
    body = json.dumps({"id": name, "output": output}).encode()
    return store.add(owner, body, (b'{"role":"user","content":"%s"}' % name.encode(),), previous)


def test_history_has_the_items_of_the_whole_conversation_in_order() -> None:
    store = a_store(Clock())
    first = add(store, "a")
    second = add(store, "b", first)
    assert second is not None
    kinds = [json.loads(item) for item in second.history()]
    assert [item.get("id") or item["content"] for item in kinds] == ["a", "msg_a", "b", "msg_b"]
    assert [item.get("id") for item in kinds if "id" in item] == ["msg_a", "msg_b"]


def test_least_recently_used_answer_is_dropped_first() -> None:
    store = a_store(Clock(), max_bytes=4 * ENTRY_COST_BYTES)
    for name in "abc":
        add(store, name)
    assert store.find("k", "a") is not None
    add(store, "d")
    assert store.find("k", "b") is None and store.find("k", "a") is not None
    assert "FLEET_RESPONSES_MAX_BYTES" in store.why_missing("k", "b")
    assert store.stored_bytes <= 4 * ENTRY_COST_BYTES


def test_beginning_of_a_conversation_in_use_is_not_dropped_before_another() -> None:
    store = a_store(Clock(), max_bytes=4 * ENTRY_COST_BYTES)
    first = add(store, "a")
    add(store, "other")
    add(store, "b", first)
    add(store, "c")
    assert store.find("k", "other") is None
    assert store.find("k", "a") is not None and store.find("k", "b") is not None


def test_deleted_answer_keeps_its_bytes_while_a_later_one_needs_it() -> None:
    store = a_store(Clock())
    first = add(store, "a")
    second = add(store, "b", first)
    before = store.stored_bytes
    assert store.delete("k", "a") and not store.delete("k", "a")
    assert store.stored_bytes == before and second is not None and len(second.history()) == 4
    assert store.delete("k", "b")
    assert store.stored_bytes == 0


def test_answer_that_alone_exceeds_the_limit_is_not_kept_and_the_reason_is_known() -> None:
    store = a_store(Clock())
    add(store, "a")
    assert add(store, "big", size=20_000) is None
    assert "larger than the store's 10000 bytes" in store.why_missing("k", "big")
    assert store.find("k", "a") is not None


def test_unused_answers_are_dropped_by_a_timer() -> None:
    clock = Clock()
    store = a_store(clock)
    add(store, "a")
    clock.now_s = 50.0
    add(store, "b")
    ((delay_s, call),) = clock.timers
    assert delay_s == 60.0
    clock.now_s = 60.0
    call()
    assert len(store) == 1 and clock.timers[-1][0] == 50.0
    assert "FLEET_RESPONSES_MAX_AGE" in store.why_missing("k", "a")
    clock.now_s = 110.0
    clock.timers[-1][1]()
    assert (len(store), store.stored_bytes, len(clock.timers)) == (0, 0, 2)


def test_owners_do_not_see_each_others_answers_and_items() -> None:
    store = a_store(Clock())
    add(store, "a", owner="one")
    assert store.find("two", "a") is None and store.find_item("two", "msg_a") is None
    assert not store.delete("two", "a")
    assert "unknown to this API key" in store.why_missing("two", "a")
    assert store.find_item("one", "msg_a") is not None


def test_answer_with_a_known_id_replaces_the_earlier_one() -> None:
    store = a_store(Clock())
    add(store, "a", size=10)
    add(store, "a", size=20)
    found = store.find("k", "a")
    assert len(store) == 1 and found is not None and b"o" * 20 in found.body
    assert store.stored_bytes == found.size_bytes


def test_something_else_than_a_response_is_not_kept() -> None:
    store = a_store(Clock())
    for body in (b"", b"[]", b'{"output":[]}', b'{"id":5}', b'{"id":"a","output":5}'):
        assert store.add("k", body, (), None) is None


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", *"abcdef"]), st.integers(0, 3000)), max_size=30)
)
def test_bytes_are_those_of_the_answers_that_are_reachable(steps: list[tuple[str, str, int]]) -> None:
    store = a_store(Clock())
    for name, previous, size in steps:
        if size % 7 == 0:
            store.delete("k", name)
        else:
            add(store, name, store.find("k", previous), size)
        listed = [entry for each in "abcdef" if (entry := store.find("k", each)) is not None]
        reachable = {id(entry): entry for each in listed for entry in each.chain()}
        assert store.stored_bytes == sum(entry.size_bytes for entry in reachable.values()) <= 10_000
