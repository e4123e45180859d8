"""Keeps answers of the Responses API in memory, so that later requests can continue them by their id.

Nothing is written to a disk. An answer belongs to the API key that asked for it, or without a key to the address and
the web page that asked: ids of answers can be guessed. The store has a limit in bytes and an
age; the answers that were not used for the longest time are dropped first. A conversation is a chain: each answer
refers to the one before it, and keeps it even when that one can no longer be found by its id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.protocols.openai.responses_history import item_id, read_stored

ENTRY_COST_BYTES = 1024
"""The memory of an answer besides its bytes, so that the number of small answers is limited too."""
GONE_MAX = 4096
"""How many ids of dropped answers are remembered, to say why they are gone."""


@dataclass(frozen=True, slots=True)
class ResponseStoreSettings:
    """How answers of /v1/responses stay in memory for `previous_response_id`. Nothing is written to a disk."""

    is_on: bool = field(
        default=True,
        metadata={
            "env": "FLEET_RESPONSES_STORE",
            "help": "Keep answers of /v1/responses in memory, so that requests can refer to them.",
        },
    )
    max_bytes: int = field(
        default=64_000_000,
        metadata={
            "env": "FLEET_RESPONSES_MAX_BYTES",
            "help": "Maximum bytes of kept answers and their inputs; the least recently used are dropped first.",
            "min": 100_000,
            "max": 16_000_000_000,
        },
    )
    max_age_s: float = field(
        default=86_400.0,
        metadata={
            "env": "FLEET_RESPONSES_MAX_AGE",
            "help": "Seconds after its last use when a kept answer is dropped.",
            "min": 1,
            "max": 2_592_000,
        },
    )


def owner_of(key_id: str, client_ip: str, origin: str) -> str:
    """Who may find an answer: `key_id` and `origin` (the Origin header) are empty if there is none."""
    return f"key {key_id}" if key_id else f"address {client_ip} {origin}"


@dataclass(slots=True, kw_only=True, eq=False)
class StoredResponse:
    """One answer, with the input items of its request (without those of earlier answers)."""

    owner: str
    id: str
    body: bytes
    items: tuple[bytes, ...]
    previous: StoredResponse | None
    used_at: float
    item_ids: tuple[str, ...] = ()
    followers: int = 0
    """How many kept answers continue this one."""
    is_listed: bool = True
    """Whether it can be found by its id."""

    @property
    def size_bytes(self) -> int:
        return len(self.body) + sum(map(len, self.items)) + ENTRY_COST_BYTES

    @property
    def output(self) -> list[bytes]:
        stored = read_stored(self.body)
        return [bytes(item) for item in stored.output] if stored is not None else []

    def chain(self) -> Iterator[StoredResponse]:
        """This answer and those before it, newest first."""
        entry: StoredResponse | None = self
        while entry is not None:
            yield entry
            entry = entry.previous

    def history(self) -> list[bytes]:
        """All items of the conversation up to this answer."""
        return [item for entry in reversed(list(self.chain())) for item in (*entry.items, *entry.output)]


class ResponseStore:
    def __init__(
        self,
        settings: ResponseStoreSettings,
        now: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """`now` is the loop time, `call_later` the loop's timer: answers are dropped in time without any request."""
        self.settings = settings
        self._call_later = call_later
        self._is_timer_set = False
        self.stored_bytes = 0
        self._now = now
        self._listed: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        """The least recently used first."""
        self._by_item: dict[tuple[str, str], StoredResponse] = {}
        self._gone: BoundedDict[tuple[str, str], str] = BoundedDict(GONE_MAX)

    def __len__(self) -> int:
        return len(self._listed)

    def find(self, owner: str, response_id: str) -> StoredResponse | None:
        """The answer with this id, which counts as used."""
        self.drop_old()
        entry = self._listed.get((owner, response_id))
        if entry is not None:
            self._use(entry)
        return entry

    def find_item(self, owner: str, wanted: str) -> bytes | None:
        """The output item with this id, of any kept answer of this owner."""
        self.drop_old()
        entry = self._by_item.get((owner, wanted))
        if entry is None:
            return None
        self._use(entry)
        return next((item for item in entry.output if item_id(item) == wanted), None)

    def why_missing(self, owner: str, response_id: str) -> str:
        """Why this answer cannot be found, as the end of a sentence."""
        if not self.settings.is_on:
            return "answers are not kept here (FLEET_RESPONSES_STORE is off)"
        known = self._gone.get((owner, response_id))
        return (
            known or "it is unknown to this API key or address, was sent with store: false, or is from before a restart"
        )

    def add(
        self, owner: str, body: bytes, items: tuple[bytes, ...], previous: StoredResponse | None
    ) -> StoredResponse | None:
        """Keeps an answer; None if it alone exceeds the limit, or is not a response object."""
        stored = read_stored(body)
        if stored is None:
            return None
        entry = StoredResponse(
            owner=owner, id=stored.id, body=body, items=items, previous=previous, used_at=self._now()
        )
        if entry.size_bytes > self.settings.max_bytes:
            self.refuse(owner, stored.id)
            return None
        entry.item_ids = tuple(found for item in stored.output if (found := item_id(bytes(item))))
        if previous is not None:
            previous.followers += 1
        self._unlist((owner, stored.id), "")
        self.stored_bytes += entry.size_bytes
        self._listed[owner, stored.id] = entry
        self._by_item.update({(owner, each): entry for each in entry.item_ids})
        self._use(entry)
        self._make_room()
        self._set_timer(self.settings.max_age_s)
        return entry

    def refuse(self, owner: str, response_id: str) -> None:
        """Remembers why an answer was not kept."""
        limit = self.settings.max_bytes
        self._gone[owner, response_id] = f"it was larger than the store's {limit} bytes (FLEET_RESPONSES_MAX_BYTES)"

    def delete(self, owner: str, response_id: str) -> bool:
        return self._unlist((owner, response_id), "it was deleted")

    def drop_old(self) -> None:
        """Drops answers that were not used for the time limit."""
        limit_s = self.settings.max_age_s
        while self._listed:
            key, entry = next(iter(self._listed.items()))
            if self._now() - entry.used_at < limit_s:
                return
            self._unlist(key, f"it was not used for {limit_s:.0f} s (FLEET_RESPONSES_MAX_AGE)")

    def _set_timer(self, delay_s: float) -> None:
        if not self._is_timer_set:
            self._is_timer_set = True
            self._call_later(delay_s, self._timer_ended)

    def _timer_ended(self) -> None:
        self._is_timer_set = False
        self.drop_old()
        oldest = next(iter(self._listed.values()), None)
        if oldest is not None:
            self._set_timer(max(1.0, oldest.used_at + self.settings.max_age_s - self._now()))

    def _make_room(self) -> None:
        limit = self.settings.max_bytes
        while self.stored_bytes > limit and self._listed:
            self._unlist(
                next(iter(self._listed)), f"it was dropped to keep at most {limit} bytes (FLEET_RESPONSES_MAX_BYTES)"
            )

    def _use(self, entry: StoredResponse) -> None:
        """The whole conversation is used, so that its beginning is not dropped before its end."""
        now = self._now()
        for used in reversed(list(entry.chain())):
            used.used_at = now
            if used.is_listed:
                self._listed.move_to_end((used.owner, used.id))

    def _unlist(self, key: tuple[str, str], reason: str) -> bool:
        entry = self._listed.pop(key, None)
        if entry is None:
            return False
        if reason:
            self._gone[key] = reason
        entry.is_listed = False
        for each in entry.item_ids:
            if self._by_item.get((entry.owner, each)) is entry:
                del self._by_item[entry.owner, each]
        self._release(entry)
        return True

    def _release(self, entry: StoredResponse | None) -> None:
        """Gives back the bytes of an answer that neither an id nor a later answer needs, and of those before it."""
        while entry is not None and not entry.is_listed and not entry.followers:
            self.stored_bytes -= entry.size_bytes
            before, entry.previous = entry.previous, None
            if before is not None:
                before.followers -= 1
            entry = before
