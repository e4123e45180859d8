"""Finds models whose context window is far larger than the longest prompt, which wastes memory."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import ModelTraffic, NodeNow, Snapshot
from herd.text import gb

REQUESTS_MIN = 20
USED_MAX = 0.25
"""Largest share of the context window that the longest prompt uses."""
WASTE_MIN_BYTES = 1_000_000_000


def find(snapshot: Snapshot) -> Iterator[Finding]:
    nodes = {node.id: node for node in snapshot.nodes}
    wasted = [
        (pair, node, waste)
        for pair in snapshot.traffic.pairs
        if (node := nodes.get(pair.node_id)) and (waste := _waste_bytes(pair, node))
    ]
    if not wasted:
        return
    tokens = _fitting(max(pair.prompt_tokens_max for pair, _, _ in wasted))
    yield Finding(
        severity=Severity.INFO,
        title=f"{names(pair.model for pair, _, _ in wasted)}: context window much larger than needed",
        cause="The engine reserves memory for the whole context window when it loads a model.",
        evidence=tuple(
            Evidence(
                f"{pair.model} on {pair.node_id}",
                f"{pair.prompt_tokens_max} tokens used of {_window(pair, node)}; {gb(waste)} unused",
            )
            for pair, node, waste in wasted
        ),
        remedy=f"Reduce the context window to {tokens} tokens.",
        commands=on_each((node for _, node, _ in wasted), variable("OLLAMA_CONTEXT_LENGTH", str(tokens))),
        nodes=tuple(sorted({pair.node_id for pair, _, _ in wasted})),
    )


def _window(pair: ModelTraffic, node: NodeNow) -> int:
    model_info = node.report.models.get(pair.model)
    return (model_info.loaded.window_tokens or 0) if model_info is not None and model_info.loaded is not None else 0


def _waste_bytes(pair: ModelTraffic, node: NodeNow) -> int:
    """Memory for the tokens beyond twice the longest prompt; 0 if it is little."""
    model_info, window = node.report.models.get(pair.model), _window(pair, node)
    if (
        model_info is None
        or pair.requests < REQUESTS_MIN
        or not pair.prompt_tokens_max
        or pair.prompt_tokens_max > USED_MAX * window
    ):
        return 0
    waste = (window - 2 * pair.prompt_tokens_max) * (model_info.kv_bytes_per_token or 0) * model_info.engine.slots
    return waste if waste >= WASTE_MIN_BYTES else 0


def _fitting(prompt_tokens: int) -> int:
    """The next power of two that leaves the same number of tokens for the answer."""
    return max(4096, 1 << (2 * prompt_tokens - 1).bit_length())


CHECK = Check("context_waste", "Context windows match their use", find)
