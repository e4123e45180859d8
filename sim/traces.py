"""Reads public request traces, and generates rows of the same shape where no folder with traces is given.

A window is a part of one trace: seconds since its start, prompt and answer lengths, and prefix hashes where the trace
has them. The simulation rescales the rates: the shapes matter here, not the volume of a cloud.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from sim.runner import BLOCK_TOKENS

MOONCAKE_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Row:
    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    client: str = ""


Quantiles = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Published percentiles of a trace: prompt and answer lengths at 0, 50, 90, 99, 100 %, and the gaps' coefficient of
    variation."""

    prompt: Quantiles
    output: Quantiles
    gap_cv: float
    shared: float = 0.0
    """Share of prompt blocks that repeat the beginning of an earlier prompt."""


LEVELS = (0.0, 0.5, 0.9, 0.99, 1.0)
SHAPES: tuple[tuple[str, Shape], ...] = (
    ("azure2023_code", Shape((3, 1469, 5194, 7436, 7437), (1, 13, 55, 252, 1899), 13.2)),
    ("azure2023_conv", Shape((2, 1020, 2735, 4142, 14050), (1, 129, 424, 601, 1000), 1.09)),
    ("mooncake_conversation", Shape((900, 6909, 27367, 85401, 126195), (1, 350, 597, 1120, 2000), 3.0, 0.37)),
    ("mooncake_synthetic", Shape((900, 11587, 38615, 66458, 191378), (1, 69, 389, 769, 893), 1.0, 0.64)),
    ("vidur_arxiv_summ", Shape((20, 2730, 3702, 3934, 4054), (1, 167, 372, 3273, 4056), 1.0)),
    ("servegen_language_msmall", Shape((2, 40, 406, 2158, 8000), (1, 3, 68, 1500, 4000), 1.5)),
    ("servegen_language_mlarge", Shape((5, 686, 2375, 12355, 32000), (1, 67, 475, 3519, 8000), 1.5)),
    ("servegen_reason_deepseekr1", Shape((5, 260, 2866, 26936, 60000), (5, 734, 3918, 25911, 32000), 1.02)),
)


class Traces:
    """Windows by name: from `folder` if it is given, else synthetic. Each file is read once.

    Raises `FileNotFoundError` if the folder lacks a trace, and `ValueError` for a file without requests.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._rows: dict[str, list[Row]] = {}
        self._clients: dict[str, list[_Client]] = {}

    def window(self, name: str, requests: int, rng: Random) -> list[Row]:
        """Consecutive requests from a random place of the trace; `at` of the first is 0."""
        if self.folder is None:
            return synthetic(_shape(name), requests, rng)
        if name.startswith("servegen"):
            return self._from_clients(name, requests, rng)
        rows = self._read(name)
        first = rng.randrange(max(1, len(rows) - requests))
        part = [rows[(first + i) % len(rows)] for i in range(requests)]
        start = part[0].at
        return [Row(max(0.0, row.at - start), row.prompt_tokens, row.output_tokens, row.blocks) for row in part]

    def _read(self, name: str) -> list[Row]:
        if name not in self._rows:
            assert self.folder is not None
            path = self.folder / f"{name}.jsonl"
            if name.startswith("mooncake"):
                self._rows[name] = _mooncake(path)
            else:
                self._rows[name] = _table(self.folder / f"{name}.csv")
            if not self._rows[name]:
                raise ValueError(f"{name}: no requests in {self.folder}")
        return self._rows[name]

    def _from_clients(self, name: str, requests: int, rng: Random) -> list[Row]:
        """A mix of a trace's clients at the same hour: each with its rate, its burstiness and its lengths."""
        if name not in self._clients:
            assert self.folder is not None
            lines = (self.folder / f"{name}.jsonl").read_text("utf-8").splitlines()
            self._clients[name] = [_Client.read(line) for line in lines]
        clients = self._clients[name]
        hour = 600 * rng.randrange(0, 60)
        rates = [client.at(hour) for client in clients]
        total = sum(rate for rate, _ in rates) or 1.0
        rows: list[Row] = []
        for client, (rate, cv) in zip(clients, rates, strict=True):
            wanted = round(requests * rate / total)
            mean_s = requests / max(wanted, 1)
            at = rng.random() * mean_s
            for _ in range(wanted):
                rows.append(Row(at, client.sample(hour, 1, rng), client.sample(hour, 2, rng), (), client.name))
                at += gap_s(mean_s, cv, rng)
        rows.sort(key=lambda row: row.at)
        return rows


def synthetic(shape: Shape, requests: int, rng: Random) -> list[Row]:
    """Lengths by the published percentiles, gaps by their coefficient of variation, shared prefixes by their share."""
    rows: list[Row] = []
    at, serial = 0.0, 0
    for _ in range(requests):
        prompt = max(1, round(_quantile(shape.prompt, LEVELS, rng.random())))
        output = max(1, round(_quantile(shape.output, LEVELS, rng.random())))
        blocks: tuple[int, ...] = ()
        if shape.shared:
            earlier = rows[rng.randrange(max(0, len(rows) - 60), len(rows))].blocks if rows else ()
            kept = earlier[: int(len(earlier) * min(1.0, 2.0 * shape.shared * rng.random()))]
            kept = kept[: prompt // BLOCK_TOKENS]
            fresh = prompt // BLOCK_TOKENS - len(kept)
            blocks = (*kept, *range(serial, serial + fresh))
            serial += fresh
        rows.append(Row(at, prompt, output, blocks))
        at += gap_s(1.0, shape.gap_cv, rng)
    return rows


def gap_s(mean_s: float, cv: float, rng: Random) -> float:
    """A gap with this mean and coefficient of variation (gamma distribution)."""
    shape = 1.0 / max(cv, 0.05) ** 2
    return rng.gammavariate(shape, mean_s / shape)


@dataclass(frozen=True, slots=True)
class _Client:
    """One client of a trace: `rates` are (second, rate, cv), `windows` are (second, prompt quantiles, answer
    quantiles)."""

    name: str
    rates: tuple[tuple[float, float, float], ...]
    windows: tuple[tuple[float, Quantiles, Quantiles], ...]

    @classmethod
    def read(cls, line: str) -> _Client:
        row = json.loads(line)
        rates = tuple((float(r[0]), float(r[1]), float(r[2])) for r in row["rates"])
        windows = tuple((float(w[0]), tuple(w[1]), tuple(w[2])) for w in row["windows"])
        return cls(f"client-{row['client']}", rates, windows)

    def at(self, second: float) -> tuple[float, float]:
        """Rate and burstiness at that time, or at the nearest time that is known."""
        _, rate, cv = min(self.rates, key=lambda known: abs(known[0] - second))
        return rate, cv

    def sample(self, second: float, column: int, rng: Random) -> int:
        window = min(self.windows, key=lambda known: abs(known[0] - second))
        values = window[1] if column == 1 else window[2]
        levels = [i / (len(values) - 1) for i in range(len(values))]
        return max(1, round(_quantile(values, levels, rng.random())))


def _quantile(values: Sequence[float], levels: Sequence[float], level: float) -> float:
    """Interpolates the logarithm of the length linearly between two percentiles."""
    for low, high, a, b in zip(levels, levels[1:], values, values[1:], strict=False):
        if level <= high:
            part = (level - low) / (high - low)
            return math.exp(math.log(max(a, 1)) * (1 - part) + math.log(max(b, 1)) * part)
    return values[-1]


def _shape(name: str) -> Shape:
    return next(shape for known, shape in SHAPES if known == name)


def _table(path: Path) -> list[Row]:
    """Azure's columns (TIMESTAMP, ContextTokens, GeneratedTokens), or lengths alone (num_prefill_tokens,
    num_decode_tokens)."""
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file)):
            if "ContextTokens" in line:
                rows.append(Row(_second(line["TIMESTAMP"]), int(line["ContextTokens"]), int(line["GeneratedTokens"])))
            else:
                rows.append(Row(float(number), int(line["num_prefill_tokens"]), int(line["num_decode_tokens"])))
    return rows


def _second(stamp: str) -> float:
    day, _, clock = stamp.partition(" ")
    hours, minutes, seconds = clock.split(":")
    return int(day.rpartition("-")[2]) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _mooncake(path: Path) -> list[Row]:
    """One JSON object a line; each hash stands for 512 tokens and is split here into the simulator's smaller blocks."""
    parts = MOONCAKE_BLOCK // BLOCK_TOKENS
    rows: list[Row] = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        full_blocks = row["input_length"] // BLOCK_TOKENS
        blocks = tuple(h * parts + i for h in row["hash_ids"] for i in range(parts))[:full_blocks]
        rows.append(Row(row["timestamp"] / 1000.0, row["input_length"], max(1, row["output_length"]), blocks))
    return rows
