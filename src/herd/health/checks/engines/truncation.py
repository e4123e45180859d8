"""Prompts that did not fit into the window: the engine drops their beginning without a word."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import ModelTraffic, Snapshot
from herd.text import number


def find(snapshot: Snapshot) -> Iterator[Finding]:
    cut = [pair for pair in snapshot.traffic.pairs if pair.overlong or pair.cut_short]
    if not cut:
        return
    nodes = [node for node in snapshot.nodes if node.id in {pair.node_id for pair in cut}]
    tokens = max(8192, 1 << max(pair.prompt_tokens_max for pair in cut).bit_length())
    yield Finding(
        Severity.WARNING,
        f"{names(pair.model for pair in cut)}: conversations no longer fit",
        "The model's window is smaller than what it is sent: what came first is forgotten, or the answer is cut.",
        tuple(Evidence(f"{pair.model} on {pair.node_id}", _told(pair)) for pair in cut),
        f"Give it a larger window (it takes memory), for example {tokens} tokens.",
        on_each(nodes, variable("OLLAMA_CONTEXT_LENGTH", str(tokens))),
        tuple(sorted({pair.node_id for pair in cut})),
    )


def _told(pair: ModelTraffic) -> str:
    return f"{number(pair.overlong, 'prompt')} too long, {number(pair.cut_short, 'answer')} cut, of {number(pair.requests, 'request')}"


CHECK = Check("truncation", "Every prompt fits into its window", find)
