"""Finds models whose engine silently truncated prompts or answers at the limit of the context window."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import ModelTraffic, Snapshot
from herd.text import number


def find(snapshot: Snapshot) -> Iterator[Finding]:
    truncating = [pair for pair in snapshot.traffic.pairs if pair.overlong or pair.cut_short]
    if not truncating:
        return
    nodes = [node for node in snapshot.nodes if node.id in {pair.node_id for pair in truncating}]
    tokens = max(8192, 1 << max(pair.prompt_tokens_max for pair in truncating).bit_length())
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(pair.model for pair in truncating)}: prompts or answers exceed the context window",
        cause="The engine silently drops the beginning of a longer prompt, or ends the answer early.",
        evidence=tuple(Evidence(f"{pair.model} on {pair.node_id}", _counts(pair)) for pair in truncating),
        remedy=f"Use a larger context window, for example {tokens} tokens; a larger window needs more memory.",
        commands=on_each(nodes, variable("OLLAMA_CONTEXT_LENGTH", str(tokens))),
        nodes=tuple(sorted({pair.node_id for pair in truncating})),
    )


def _counts(pair: ModelTraffic) -> str:
    too_long, truncated = number(pair.overlong, "prompt"), number(pair.cut_short, "answer")
    return f"{too_long} too long, {truncated} truncated, of {number(pair.requests, 'request')}"


CHECK = Check("truncation", "All prompts and answers fit the context window", find)
