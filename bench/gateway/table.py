"""Computes medians and ratios of all rounds, and formats tables, goals and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.gateway.instruments import CHUNKS, Load, Reading
from bench.gateway.scenarios import CHUNK_PATHS, OPENAI, PATHS, TRANSLATED, scenario_key

FULL_CORE = 0.9
GENERATOR_FACTOR = 2.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One gateway in one scenario and round. `cpu_us` is per answer, `core_share` is the used share of its core."""

    answers_per_s: float
    chunks_per_s: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    cpu_us: float
    core_share: float
    errors: float
    reconnects: float
    all_answers: float
    """Correct answers, including those of the warm-up."""


Medians = Mapping[str, Mapping[str, Cell]]
"""Cells by gateway and scenario."""


def cell(reading: Reading, load: Load, cpu_s: float, wall_s: float) -> Cell:
    """`cpu_s` and `wall_s` cover the whole run of the generator, as its `all_` numbers do."""
    served = reading.all_lines / load.lines if load.lines else reading.all_answers
    chunks_per_s = reading.lines / load.lines * CHUNKS / reading.seconds if load.lines else 0.0
    return Cell(
        answers_per_s=reading.answers / reading.seconds,
        chunks_per_s=chunks_per_s,
        p50_ms=reading.p50_us / 1000,
        p99_ms=reading.p99_us / 1000,
        first_p50_ms=reading.first_p50_us / 1000,
        first_p99_ms=reading.first_p99_us / 1000,
        cpu_us=cpu_s / served * 1e6 if served else 0.0,
        core_share=cpu_s / wall_s if wall_s else 0.0,
        errors=reading.errors + reading.stuck,
        reconnects=max(0, reading.connects - load.connections),
        all_answers=reading.all_answers,
    )


def medians(rounds: Mapping[str, Mapping[str, Sequence[Cell]]]) -> dict[str, dict[str, Cell]]:
    """The median of every number; of errors and reconnects the maximum, which a median would hide."""
    return {
        gateway: {key: _median(cells) for key, cells in scenarios.items() if cells}
        for gateway, scenarios in rounds.items()
    }


def _median(cells: Sequence[Cell]) -> Cell:
    columns = {name: [asdict(c)[name] for c in cells] for name in asdict(cells[0])}
    return Cell(
        **{
            name: max(values) if name in ("errors", "reconnects") else median(values)
            for name, values in columns.items()
        }
    )


# --- tables ---


def tables(found: Medians, rss_bytes: Mapping[str, int]) -> str:
    rows = (_answers_rows(found), _streams_rows(found, rss_bytes), _paths_rows(found))
    return "\n\n".join(_table(some) for some in rows)


def chunk_table(rounds: Mapping[str, Sequence[Cell]]) -> str:
    """CPU time for each chunk, and its ratio to a passed stream of OpenAI's protocol in the same round (medians)."""
    rows = [["us CPU per chunk", "one in a read", "x passed", "ten in a read", "x passed"]]
    for path in CHUNK_PATHS:
        row = [path.title]
        for name in ("ones", "tens"):
            cells, passed = rounds.get(scenario_key(path, name), ()), rounds.get(scenario_key(OPENAI, name), ())
            ratios = [cell.cpu_us / base.cpu_us for cell, base in zip(cells, passed, strict=True) if base.cpu_us]
            row += [f"{median(c.cpu_us for c in cells) / CHUNKS:.2f}", f"{median(ratios):.2f}"] if ratios else ["", ""]
        rows.append(row)
    return _table(rows)


def _answers_rows(found: Medians) -> list[list[str]]:
    rows = [
        [
            "complete answers",
            "rps c=1",
            "c=32",
            "c=128",
            "p50/p99 ms c=32",
            "added p50 ms c=1",
            "us CPU",
            "core",
            "x nginx",
            "x sglang",
        ]
    ]
    for name, cells in found.items():
        at_32 = cells.get("c32")
        rows.append(
            [
                name,
                *(_rate(cells.get(key)) for key in ("c1", "c32", "c128")),
                f"{at_32.p50_ms:.2f} / {at_32.p99_ms:.2f}" if at_32 else "",
                _number(added_p50_ms(found, name), 2),
                _cpu(at_32),
                _share(at_32),
                _number(rate_ratio(found, name, "nginx", "c32"), 2),
                _number(rate_ratio(found, name, "sglang-router", "c32"), 2),
            ]
        )
    return rows


def _streams_rows(found: Medians, rss_bytes: Mapping[str, int]) -> list[list[str]]:
    rows = [
        [
            "256 streams",
            "chunks/s",
            "us CPU per stream",
            "core",
            "x nginx",
            "x sglang",
            "paced: first byte p50/p99 ms",
            "core",
            "RSS MB",
        ]
    ]
    for name, cells in found.items():
        fast, paced = cells.get("streams"), cells.get("paced")
        rows.append(
            [
                name,
                f"{fast.chunks_per_s / 1000:.0f}k" if fast else "",
                _cpu(fast),
                _share(fast),
                _number(rate_ratio(found, name, "nginx", "streams"), 2),
                _number(rate_ratio(found, name, "sglang-router", "streams"), 2),
                f"{paced.first_p50_ms:.2f} / {paced.first_p99_ms:.2f}" if paced else "",
                _share(paced),
                f"{rss_bytes[name] / MIB:.0f}" if name in rss_bytes else "",
            ]
        )
    return rows


def _paths_rows(found: Medians) -> list[list[str]]:
    """Each gateway on each API path that it serves."""
    rows = [["gateway", "path", "rps c=1", "c=32", "us CPU", "core", "chunks/s", "us CPU per stream", "core"]]
    for name, cells in found.items():
        for path in PATHS:
            prefix = "" if path is PATHS[0] else f"{path.key}-"
            lone, many, streams = (cells.get(f"{prefix}{key}") for key in ("c1", "c32", "streams"))
            if lone or many or streams:
                chunks = f"{streams.chunks_per_s / 1000:.0f}k" if streams else ""
                measured = [_rate(lone), _rate(many), _cpu(many), _share(many), chunks, _cpu(streams), _share(streams)]
                rows.append([name, path.title, *measured])
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _rate(cell: Cell | None) -> str:
    return f"{cell.answers_per_s / 1000:.1f}k" if cell else ""


def _cpu(cell: Cell | None) -> str:
    return f"{cell.cpu_us:.0f}" if cell and cell.cpu_us else ""


def _share(cell: Cell | None) -> str:
    return f"{cell.core_share:.0%}" if cell and cell.core_share else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# --- conclusions ---


def added_p50_ms(found: Medians, name: str) -> float | None:
    """The added latency of a gateway for a single client, compared with a direct connection."""
    mine, least = found.get(name, {}).get("c1"), found.get("direct", {}).get("c1")
    return mine.p50_ms - least.p50_ms if mine and least and name != "direct" else None


def rate_ratio(found: Medians, name: str, other: str, key: str) -> float | None:
    """Answers per second, or chunks per second of streams, relative to another gateway."""
    mine, theirs = found.get(name, {}).get(key), found.get(other, {}).get(key)
    if not mine or not theirs or name == "direct":
        return None
    over, under = (c.chunks_per_s or c.answers_per_s for c in (mine, theirs))
    return over / under if under else None


def goals(found: Medians, rss_bytes: Mapping[str, int]) -> list[str]:
    """The goals for herd beside the measured values."""
    paced = found.get("herd", {}).get("paced")
    rss = rss_bytes.get("herd")
    rows: list[tuple[str, float | None, float, bool]] = [
        ("complete answers at 32 connections, x nginx", rate_ratio(found, "herd", "nginx", "c32"), 0.4, True),
        (
            "complete answers at 32 connections, x sglang-router",
            rate_ratio(found, "herd", "sglang-router", "c32"),
            1.2,
            True,
        ),
        ("chunks per second of 256 streams, x nginx", rate_ratio(found, "herd", "nginx", "streams"), 1.0, True),
        ("added p50 with one connection, ms", added_p50_ms(found, "herd"), 0.25, False),
        ("first byte p99 of 256 paced streams, ms", paced.first_p99_ms if paced else None, 5.0, False),
        ("memory, MB", rss / MIB if rss else None, 80.0, False),
    ]
    return [_goal(*row) for row in rows]


def _goal(title: str, value: float | None, wanted: float, is_floor: bool) -> str:
    sign = ">=" if is_floor else "<="
    if value is None:
        return f"goal {sign} {wanted:g}: {title}: not measured"
    is_met = value >= wanted if is_floor else value <= wanted
    return f"goal {sign} {wanted:g}: {title}: {value:.2f} {'(met)' if is_met else '(MISSED)'}"


def warnings(found: Medians) -> list[str]:
    """The reasons to distrust some of the figures."""
    out: list[str] = []
    for name, cells in found.items():
        for key, one in cells.items():
            if one.errors:
                out.append(f"{name}, {key}: {one.errors:.0f} answers were not correct")
            if one.reconnects:
                out.append(f"{name}, {key}: {one.reconnects:.0f} connections were closed")
            least = found.get("direct", {}).get(key.removeprefix(f"{TRANSLATED.key}-"))
            if least and name != "direct" and not key.endswith(("c1", "paced")):
                out += _strained(name, key, one, least)
    return out


def _strained(name: str, key: str, one: Cell, least: Cell) -> list[str]:
    """The generator is the limit if it is not twice as fast as the gateway and the gateway's core is not full."""
    mine, most = (c.chunks_per_s or c.answers_per_s for c in (one, least))
    if most >= GENERATOR_FACTOR * mine:
        is_shared = one.core_share < FULL_CORE
        share = f"{one.core_share:.0%}"
        return [f"{name}, {key}: the gateway got only {share} of its core: other programs ran"] if is_shared else []
    only = f"{name}, {key}: without a gateway the generator reaches only {most / mine:.1f} times as much"
    if one.core_share < FULL_CORE:
        return [f"{only}, and the gateway used {one.core_share:.0%} of its core: this is the generator's limit"]
    return [f"{only} (the gateway's core was full nevertheless)"]
