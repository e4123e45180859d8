"""Reads sums of any range of time: days where the range has full days, hours and minutes at its ends."""

from __future__ import annotations

from herd.coordinator.storage.rollups import fresh
from herd.coordinator.storage.rollups.tables import COLUMN_OF, DAY_S, HOUR_S, Kind

FOREVER = DAY_S * 10**9
"""The end of a range that has none."""

Pieces = dict[str, int]
"""Parameters of a query: size, start and end of each piece, and `from` and `to` of the whole range."""

_PIECE_NAMES = ("first", "early", "middle", "late", "last")
_VALUES = ", ".join(f"(:{name}_size, :{name}_from, :{name}_to)" for name in _PIECE_NAMES)
_WITHIN = f"""sum_subjects s
    CROSS JOIN (SELECT column1 AS size, column2 AS from_at, column3 AS to_at FROM (VALUES {_VALUES})) p
    CROSS JOIN {{table}} r ON r.kind = s.kind AND r.size = p.size AND r.subject = s.id
        AND r.bucket >= p.from_at AND r.bucket < p.to_at"""  # noqa: S608 - only constants


def pieces(smallest_s: int, from_at: float, to_at: float = FOREVER) -> Pieces:
    """The pieces of a range; its ends are rounded down to a bucket of `smallest_s`."""
    start, end = (int(at) // smallest_s * smallest_s for at in (from_at, to_at))
    hours_from, hours_to = _up(start, HOUR_S), end // HOUR_S * HOUR_S
    days_from, days_to = _up(hours_from, DAY_S), hours_to // DAY_S * DAY_S
    if hours_from >= hours_to:
        bounds = [(smallest_s, start, end)]
    elif days_from >= days_to:
        bounds = [(smallest_s, start, hours_from), (HOUR_S, hours_from, hours_to), (smallest_s, hours_to, end)]
    else:
        bounds = [
            (smallest_s, start, hours_from),
            (HOUR_S, hours_from, days_from),
            (DAY_S, days_from, days_to),
            (HOUR_S, days_to, hours_to),
            (smallest_s, hours_to, end),
        ]
    found = {"from": start, "to": end}
    for name, (size, piece_from, piece_to) in zip(_PIECE_NAMES, (*bounds, *((0, 0, 0),) * 5), strict=False):
        found |= {f"{name}_size": size, f"{name}_from": piece_from, f"{name}_to": piece_to}
    return found


def _up(at: int, size: int) -> int:
    return -(-at // size) * size


def combined(names: tuple[str, ...]) -> str:
    """These columns of several rows together."""
    return ", ".join(f"{COLUMN_OF[name].combined_by}({name}) AS {name}" for name in names)


def sums_of(kind: Kind, names: tuple[str, ...]) -> str:
    """A table for FROM: a, b, c (the subject's names), bucket and these columns. Its parameters are `pieces`."""
    return f"""(SELECT a, b, c, bucket, {", ".join(names)} FROM {_WITHIN.format(table="sums")}
        WHERE s.kind = {kind.number})"""  # noqa: S608


def sums_and_new_traces_of(kind: Kind, names: tuple[str, ...]) -> str:
    """The same, with the traces that are not summed up yet."""
    return f"({sums_of(kind, names)[1:-1]} UNION ALL {fresh.of_kind(kind, names)})"


def sums_and_all_traces_of(kind: Kind, names: tuple[str, ...]) -> str:
    """The same, exact at any time: with all traces that are not summed up yet, which can be half a million after an
    update."""
    older = fresh.of_kind(kind, names, fresh.SELECT_OLDER)
    return f"({sums_and_new_traces_of(kind, names)[1:-1]} UNION ALL {older})"


def bins_of(kind: Kind) -> str:
    """A table for FROM: a, b, c, bucket, measure, bin and count. Its parameters are `pieces`."""
    return f"""(SELECT a, b, c, bucket, measure, bin, count FROM {_WITHIN.format(table="sum_bins")}
        WHERE s.kind = {kind.number})"""  # noqa: S608
