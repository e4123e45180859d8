"""Runs the conformance steps with a model on a node, shows each result, and stores them (`herd certify`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rich.text import Text

from herd.cli.certify import steps
from herd.cli.certify.steps import Step, Subject
from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.connect import fleet_models
from herd.cli.terminal import console, error_console, print_lines, printable, show, wrapped

PATH = "/fleet/conformance"
TITLE_COLUMNS = 24


def certify(coordinator: CoordinatorClient, name: str, node: str, window_tokens: int | None, as_json: bool) -> bool:
    """Whether the model passed every step. After Ctrl-C nothing is stored. Raises CliError."""
    model = fleet_models.choose(coordinator, name)
    node = node or _answering_node(coordinator, model.name)
    only = {"X-Herd-Node": node, "X-Fleet-No-Fallback": "true"}
    client = dataclasses.replace(coordinator, more_headers=only)
    subject = Subject(client, model.name, window_tokens or model.context_tokens)
    if not as_json:
        print_lines(Text(printable(f"{model.name} on {node}"), "bold"))
    try:
        results = [_run(step, subject, as_json) for step in steps.steps(model.capabilities)]
    except KeyboardInterrupt:
        error_console.print("Cancelled: nothing was stored.")
        raise
    _, stored = coordinator.post(PATH, {"model": model.name, "node_id": node, "steps": results})
    show(stored, as_json, lambda one: _badge_lines(one))
    return all(one["passed"] for one in results)


def _answering_node(coordinator: CoordinatorClient, model: str) -> str:
    """The node that answers for this model now; this loads the model."""
    client = dataclasses.replace(coordinator, more_headers={"X-Fleet-No-Fallback": "true"})
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": False}
    headers, _ = client.post("/v1/chat/completions", body)
    if "x-fleet-node" not in headers:
        raise CliError("the answer does not name its node", "give it: --node NAME")
    return headers["x-fleet-node"]


def _run(step: Step, subject: Subject, as_json: bool) -> Json:
    with error_console.status(step.title, spinner="line"):
        evidence = steps.outcome(step, subject)
    if not as_json:
        state = ("failed  ", "red") if evidence else ("passed  ", "green")
        prefix = Text.assemble("  ", state, step.title.ljust(TITLE_COLUMNS))
        print_lines(*wrapped(prefix, evidence, console.width, "dim"))
    return {"name": step.name, "passed": not evidence, "evidence": evidence, "badges": list(step.badges)}


def _badge_lines(stored: Json) -> Iterator[Text]:
    if stored["badges"]:
        yield Text(f"works with: {', '.join(stored['badges'])}", "bold green")
    else:
        yield Text("It earned no badge.", "bold yellow")


def badge_texts(coordinator: CoordinatorClient) -> dict[str, str]:
    """For each model, what it works with on which nodes; empty without the right to read it, or on an older herd."""
    try:
        found = coordinator.get(PATH)["results"]
    except (CliError, KeyError):
        return {}
    texts: dict[str, list[str]] = {}
    for one in found:
        texts.setdefault(one["model"], []).append(_badge_text(one))
    return {model: "; ".join(each) for model, each in texts.items()}


def _badge_text(one: Json) -> str:
    if not one["is_valid"]:
        return f"its weights on {one['node_id']} have changed since it was certified"
    text = ", ".join(one["badges"]) or "no badge"
    failing = one["failing_step"]
    return f"{text} on {one['node_id']}" + (f" (failed: {failing['name']})" if failing else "")
