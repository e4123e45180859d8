"""Builds the lines of usage: who used the fleet how much, by user, app, model, key or day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from herd.dashboard.uncounted import Uncounted
from herd.text import number

Sums = Mapping[str, object]
"""A row of the database with the names of `UsageLine`, or those of `/dashboard/api/usage`."""


class By(StrEnum):
    """What the usage is summed by."""

    USER = "user"
    APP = "app"
    MODEL = "model"
    KEY = "key"
    DAY = "day"


class UsageLine(Struct, frozen=True, kw_only=True):
    """`kind`: for users "user" (one that a trusted client names), "key" or "address"; for apps as in `Apps`; else the
    same as `by`. `busy_s` is the time that the requests occupied nodes, `share` its part of all lines, 0..1."""

    name: str
    kind: str
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    busy_s: float
    share: float
    last_seen_at: float | None


class UsageLines(Struct, frozen=True):
    """`GET usage/lines?by=user|app|model|key|day&range=`: the most seconds first, days the newest first."""

    by: str
    range: str
    from_at: float
    to_at: float
    lines: tuple[UsageLine, ...]
    summary: str
    uncounted: Uncounted | None = None


class Used(Struct, frozen=True):
    """The sums of one subject. `busy_ms` and `last_at` are named as in the database."""

    kind: str
    name: str
    sums: Sums


def of_row(kind: str, name: str, row: Sums) -> Used:
    """A row with the field names of ollama-herd."""
    renamed: dict[str, object] = {
        "requests": row["request_count"],
        "failed": row["failed_count"],
        "prompt_tokens": row["total_prompt_tokens"],
        "completion_tokens": row["total_completion_tokens"],
        "busy_ms": _number(row["gpu_s"]) * 1000.0,
        "last_at": row["last_seen"],
    }
    return Used(kind, name, renamed)


def added(found: Iterable[Used]) -> list[Used]:
    """One for each kind and name: a model on several nodes, or a day of several intervals, is one line."""
    totals: dict[tuple[str, str], dict[str, object]] = {}
    for one in found:
        total = totals.setdefault((one.kind, one.name), {})
        for name, value in one.sums.items():
            before, more = _number(total.get(name)), _number(value)
            total[name] = max(before, more) if name == "last_at" else before + more
    return [Used(kind, name, sums) for (kind, name), sums in totals.items()]


def lines(found: Sequence[Used], by: By) -> tuple[UsageLine, ...]:
    """Subjects without a request are left out."""
    total_ms = sum(_number(one.sums.get("busy_ms")) for one in found)
    made = [_line(one, total_ms) for one in found if _number(one.sums.get("requests"))]
    if by is By.DAY:
        return tuple(sorted(made, key=lambda line: line.name, reverse=True))
    return tuple(sorted(made, key=lambda line: (-line.busy_s, -line.requests, line.name)))


def _line(one: Used, total_ms: float) -> UsageLine:
    busy_ms, last_at = _number(one.sums.get("busy_ms")), _number(one.sums.get("last_at"))
    return UsageLine(
        name=one.name,
        kind=one.kind,
        requests=int(_number(one.sums.get("requests"))),
        failed=int(_number(one.sums.get("failed"))),
        prompt_tokens=int(_number(one.sums.get("prompt_tokens"))),
        completion_tokens=int(_number(one.sums.get("completion_tokens"))),
        busy_s=round(busy_ms / 1000.0, 3),
        share=round(busy_ms / total_ms, 4) if total_ms else 0.0,
        last_seen_at=last_at or None,
    )


def summary(made: Sequence[UsageLine], by: By) -> str:
    if not made:
        return "No requests in this time range."
    requests, tokens = sum(one.requests for one in made), sum(one.prompt_tokens + one.completion_tokens for one in made)
    return f"{number(requests, 'request')} and {number(tokens, 'token')} of {number(len(made), by.value)}."


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
