"""`python -m bench.routing.validate` compares the node model's predictions with a real llama.cpp on this machine.

Its parameters are fitted to requests that run alone (and one pair); then a mix of prompt lengths, prefix hits and
concurrency is run for real and predicted, and the two are compared. Needs xllamacpp and the small model of the embedded
engine; run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from statistics import median

import xllamacpp

from herd.agent.embedded import EmbeddedSettings, EngineUnavailable, model_path
from sim.hardware import LAPTOP_CPU, Machine, Model, Speeds
from sim.node import NodeSpec, SimNode
from sim.requests import SimRequest
from sim.runner import BLOCK_TOKENS, PREFILL_BLOCK, Run

SLOTS = 2
WINDOW = 4096
THREADS = 1
ANSWER = 48
VOCABULARY = (1000, 40000)
MODEL = Model("smollm2", 0.1, 0.1, context_max=8192)
FIT_LENGTHS = (128, 512, 1024)
REPEATS = 2
GOAL = 0.15
DRIFT_MAX = 0.1


@dataclass(slots=True)
class Measured:
    """Seconds measured by the client, and the engine's own timings."""

    first_s: float
    total_s: float
    prompt_s: float
    decode_s: float
    cached_tokens: int


@dataclass(slots=True)
class Planned:
    kind: str
    at: float
    tokens: list[int]
    blocks: tuple[int, ...]
    answer: int


# --- the real engine ---


def serve(address: Connection) -> None:
    """Runs in its own process, to keep its threads apart."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model_path(EmbeddedSettings()))
    params.n_parallel, params.n_ctx = SLOTS, WINDOW * SLOTS
    params.n_batch = params.n_ubatch = PREFILL_BLOCK
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], 0, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(params)
    address.send(server.listening_address)
    address.recv()


def request(address: str, tokens: Sequence[int], answer: int) -> Measured:
    host, _, port = address.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    body = {
        "prompt": list(tokens),
        "n_predict": answer,
        "stream": True,
        "ignore_eos": True,
        "temperature": 0.0,
        "cache_prompt": True,
    }
    begun, first_s = time.perf_counter(), 0.0
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    last: dict[str, dict[str, float]] = {}
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            first_s = first_s or time.perf_counter() - begun
            event = json.loads(line[6:])
            last = event if event.get("timings") else last
    total_s = time.perf_counter() - begun
    connection.close()
    timings = last["timings"]
    return Measured(
        first_s, total_s, timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3, int(timings.get("cache_n", 0))
    )


# --- fitting ---


def fitted(address: str, rng: Random) -> Speeds:
    """Prompt speed, step time and their change with depth from single requests; the batch slope from a pair."""
    request(address, fresh(256, rng), 8)  # the first request includes the engine's initialisation
    prompts, steps = [], []
    for length in FIT_LENGTHS:
        runs = [request(address, fresh(length, rng), ANSWER) for _ in range(REPEATS)]
        prompts.append((length, median(run.prompt_s / length for run in runs)))
        steps.append((length, median(run.decode_s / (ANSWER - 1) for run in runs)))
    token_s, per_depth = line([(length / 2, each) for length, each in prompts])
    step_s, per_context = line([(float(length), each) for length, each in steps])
    slope = pair_slope(address, step_s, rng)
    return Speeds(
        1.0 / token_s,
        step_s,
        slope,
        False,
        0.1,
        token_s / max(per_depth, token_s * 1e-6),
        step_s / max(per_context, step_s * 1e-6),
    )


def between(a: Speeds, b: Speeds) -> Speeds:
    """The average before and after the mix, because other programs may run on the machine."""
    return Speeds(
        (a.prompt_per_s + b.prompt_per_s) / 2,
        (a.step_s + b.step_s) / 2,
        (a.batch_slope + b.batch_slope) / 2,
        False,
        0.1,
        (a.prompt_depth * b.prompt_depth) ** 0.5,
        (a.decode_depth * b.decode_depth) ** 0.5,
    )


def pair_slope(address: str, step_s: float, rng: Random) -> float:
    """Two short prompts, long answers, together."""
    found: list[Measured] = []
    length = 64
    threads = [
        threading.Thread(target=lambda: found.append(request(address, fresh(length, rng), 2 * ANSWER)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(0.0, median(run.decode_s / (2 * ANSWER - 1) for run in found) / step_s - 1.0)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: value at zero, and rise per unit."""
    mean_x, mean_y = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - rise * mean_x, rise


def fresh(length: int, rng: Random) -> list[int]:
    return [rng.randrange(*VOCABULARY) for _ in range(length)]


# --- the mix ---


def planned(speeds: Speeds, requests: int, rng: Random) -> list[Planned]:
    """New prompts, next turns of earlier conversations, and both at the same time as others."""
    mix: list[Planned] = []
    talks: list[tuple[list[int], tuple[int, ...]]] = []
    at, serial = 0.5, 0
    for _ in range(requests):
        is_next = bool(talks) and rng.random() < 0.45
        tokens, blocks = talks.pop(rng.randrange(len(talks))) if is_next else ([], ())
        added = BLOCK_TOKENS * rng.randint(1, 2 if is_next else 5)
        tokens = [*tokens, *fresh(added, rng)]
        blocks = (*blocks, *range(serial, serial + added // BLOCK_TOKENS))
        serial += added // BLOCK_TOKENS
        answer = rng.choice((16, 48, 96))
        mix.append(Planned("next turn" if is_next else "new", at, tokens, blocks, answer))
        if len(tokens) < WINDOW - 1024:
            talks.append((tokens, blocks))
            talks[:] = talks[-3:]
        work_s = added / speeds.prompt_per_s + answer * speeds.step_s
        at += rng.expovariate(1.0) * work_s * 1.5
    return mix


def measured(address: str, mix: Sequence[Planned]) -> list[Measured]:
    found: list[Measured | None] = [None] * len(mix)

    def one(number: int) -> None:
        found[number] = request(address, mix[number].tokens, mix[number].answer)

    begun, threads = time.perf_counter(), []
    for number, plan in enumerate(mix):
        time.sleep(max(0.0, begun + plan.at - time.perf_counter()))
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return [one for one in found if one is not None]


def predicted(speeds: Speeds, mix: Sequence[Planned]) -> list[tuple[float, float]]:
    """First token and end of each request, by the node model alone."""
    machine = Machine(
        name="here",
        kind="processor",
        chip=LAPTOP_CPU.chip,
        memory_gb=8,
        bandwidth_gbps=40,
        prompt_8b=speeds.prompt_per_s,
        slots=SLOTS,
    )
    node = SimNode(
        NodeSpec(
            name="here",
            machine=machine,
            models=(MODEL,),
            loaded=(MODEL,),
            window=WINDOW,
            keep_alive_s=1e9,
            cache_entries=16,
        )
    )
    for runner in node.runners.values():
        runner.speeds = speeds
    runs = [
        Run(
            request=SimRequest(
                id=str(number),
                at=plan.at,
                model=MODEL.name,
                prompt_tokens=len(plan.tokens),
                output_tokens=plan.answer,
                estimate=0,
                blocks=plan.blocks,
            ),
            attempt=1,
            arrived_at=plan.at,
        )
        for number, plan in enumerate(mix)
    ]
    ends: dict[str, float] = {}
    coming = list(runs)
    while coming or any(runner.is_busy for runner in node.runners.values()):
        at = min(node.next_at(), coming[0].arrived_at if coming else float("inf"))
        for run, _ in node.advance(at).done:
            ends[run.request.id] = at
        while coming and coming[0].arrived_at <= at:
            node.submit(coming.pop(0), at)
    return [((run.first_at or 0.0) - run.arrived_at, ends[run.request.id] - run.arrived_at) for run in runs]


# --- the table ---


def table(mix: Sequence[Planned], real: Sequence[Measured], model: Sequence[tuple[float, float]]) -> str:
    lines = [
        "| requests | n | first token: measured | predicted | error | complete answer: measured | predicted | error "
        "| median error of one request |",
        "|" + "---|" * 9,
    ]
    for kind in ("new", "next turn", "all"):
        chosen = [n for n, plan in enumerate(mix) if kind in (plan.kind, "all")]
        if not chosen:
            continue
        firsts = [
            sum(values) / len(chosen) for values in ([real[n].first_s for n in chosen], [model[n][0] for n in chosen])
        ]
        totals = [
            sum(values) / len(chosen) for values in ([real[n].total_s for n in chosen], [model[n][1] for n in chosen])
        ]
        typical = median(abs(model[n][1] / real[n].total_s - 1) for n in chosen)
        lines.append(
            f"| {kind} | {len(chosen)} | {firsts[0]:.2f} s | {firsts[1]:.2f} s | {firsts[1] / firsts[0] - 1:+.0%} "
            f"| {totals[0]:.2f} s | {totals[1]:.2f} s | {totals[1] / totals[0] - 1:+.0%} | {typical:.0%} |"
        )
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.routing.validate", description=__doc__)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(given)
    try:
        model_path(EmbeddedSettings())
    except EngineUnavailable as missing:
        print(missing, file=sys.stderr)
        return 2
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        address, rng = ours.recv(), Random(chosen.seed)
        speeds = fitted(address, rng)
        mix = planned(speeds, chosen.requests, rng)
        real = measured(address, mix)
        again = fitted(address, rng)
        model = predicted(between(speeds, again), mix)
    finally:
        process.terminate()
        process.join()
    print(
        f"Fitted: {speeds.prompt_per_s:.0f} prompt tokens/s falling to half at {speeds.prompt_depth:.0f}, "
        f"{1 / speeds.step_s:.0f} tokens/s halved at {speeds.decode_depth:.0f}, batch slope {speeds.batch_slope:.2f}.\n"
    )
    print(table(mix, real, model))
    drift = again.prompt_per_s / speeds.prompt_per_s - 1
    if abs(drift) > DRIFT_MAX:
        print(f"\nThe machine was {1 + drift:.0%} as fast afterwards: other programs ran. Repeat the measurement.")
    hits = sum(one.cached_tokens for one in real) / sum(len(plan.tokens) for plan in mix)
    print(f"\nThe engine found {hits:.0%} of the prompts' tokens in its cache.")
    off = abs(sum(t[1] for t in model) / sum(one.total_s for one in real) - 1)
    return 0 if off <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
