"""Tests the readers of public traces, and the generators that replace them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from sim.agents import Agents
from sim.hardware import LLAMA_8B, RTX_3090
from sim.node import NodeSpec
from sim.traces import SHAPES, Row, Traces
from sim.workload import capacity, requests_from


def test_rows_of_the_first_kind_have_a_time(tmp_path: Path) -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:17:03.9799600,4808,10",
        "2023-11-16 18:17:05.0,34,8",
    ]
    (tmp_path / "azure2023_code.csv").write_text("\n".join(lines) + "\n", "utf-8")
    first, second = Traces(tmp_path).window("azure2023_code", 2, Random(1))
    assert (first.at, first.prompt_tokens, first.output_tokens) == (0.0, 4808, 10)
    assert abs(second.at - 1.02004) < 1e-6


def test_rows_of_lengths_alone(tmp_path: Path) -> None:
    lines = ["num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio", "3772,54,3826,69.8"]
    (tmp_path / "vidur_arxiv_summ.csv").write_text("\n".join(lines) + "\n", "utf-8")
    [row] = Traces(tmp_path).window("vidur_arxiv_summ", 1, Random(1))
    assert (row.prompt_tokens, row.output_tokens) == (3772, 54)


def test_a_hash_of_512_tokens_becomes_four_blocks_and_equal_hashes_equal_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [7, 8, 9]},
        {"timestamp": 3000, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 10]},
    ]
    (tmp_path / "mooncake_conversation.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    first, second = Traces(tmp_path).window("mooncake_conversation", 2, Random(1))
    assert len(first.blocks) == 8
    assert first.blocks == second.blocks[:8]
    assert second.at == 3.0


def test_clients_of_a_trace_have_their_shares_and_lengths(tmp_path: Path) -> None:
    rows = [
        {"client": 1, "rates": [[0, 9.0, 1.0, "Gamma"]], "windows": [[0, [100.0] * 33, [10.0] * 33]]},
        {"client": 2, "rates": [[0, 1.0, 1.0, "Gamma"]], "windows": [[0, [5.0] * 33, [500.0] * 33]]},
    ]
    (tmp_path / "servegen_language_mlarge.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    rows = Traces(tmp_path).window("servegen_language_mlarge", 100, Random(1))
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    assert sum(row.client == "client-1" for row in rows) == 90
    assert {(row.prompt_tokens, row.output_tokens) for row in rows} == {(100, 10), (5, 500)}


def test_folder_without_the_trace_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Traces(tmp_path).window("azure2023_code", 2, Random(1))


@pytest.mark.parametrize("name", [name for name, _ in SHAPES])
def test_synthetic_requests_have_the_published_lengths(name: str) -> None:
    shape = dict(SHAPES)[name]
    rows = Traces().window(name, 3000, Random(4))
    prompts = sorted(row.prompt_tokens for row in rows)
    assert 0.85 < prompts[1500] / shape.prompt[1] < 1.18
    assert 0.85 < prompts[2700] / shape.prompt[2] < 1.18
    assert bool(shape.shared) == any(row.blocks for row in rows)


def test_an_agents_next_turn_begins_with_its_last_one() -> None:
    agents = Agents(
        agents=3, count_max=60, think_s=5.0, model=LLAMA_8B, window=32768, lengths=[Row(0.0, 700, 100)], rng=Random(1)
    )
    [first, *_] = agents.first()
    at, request, seen = 10.0, first, 0
    while (following := agents.after(request, at)) is not None:
        if len(following.blocks) > len(request.blocks):
            assert following.blocks[: len(request.blocks)] == request.blocks
            seen += 1
        assert following.at > at
        at, request = following.at + 1.0, following
    assert seen > 20


def test_capacity_grows_with_the_fleet_and_falls_with_the_work() -> None:
    requests = requests_from([Row(0.0, 1000, 200)] * 50, ((LLAMA_8B, 1.0),), Random(1))
    long = requests_from([Row(0.0, 1000, 400)] * 50, ((LLAMA_8B, 1.0),), Random(1))
    one, two = (
        [NodeSpec(name=f"n{i}", machine=RTX_3090, models=(LLAMA_8B,)) for i in range(count)] for count in (1, 2)
    )
    assert capacity(two, requests) == pytest.approx(2 * capacity(one, requests), rel=0.02)
    assert capacity(one, long) < 0.7 * capacity(one, requests)
