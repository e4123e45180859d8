"""Writes the documentation that follows from the code: settings, routes, signals, filters, engines, verbs.
Invents no sentence: what is not said in the code is not said there.

`python3 dev.py docs` writes the files; with `--check` it only says which are stale, and exits with 1.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeVar

import msgspec
import typer.core
import typer.main

import herd
import herd.cli
import herd.core.scheduling.filters
import herd.core.scheduling.signals
import herd.dashboard.tabs
import herd.dialects
import herd.engines
import herd.health.checks
from herd import config
from herd.agent import app as agent_app
from herd.coordinator import settings as router_settings
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.signals import Signal
from herd.core.state.live_request import TRANSITIONS
from herd.dashboard import live, requests
from herd.dashboard.tabs import Tab
from herd.dialects import Dialect
from herd.discover import discover
from herd.engines import Engine
from herd.health import Check

RecordT = TypeVar("RecordT")

ROOT: Final = Path(__file__).resolve().parents[1]
WRITTEN: Final = "Written by `python3 dev.py docs`; edit the code, not this file."
ENV_FILE_HEAD: Final = """\
# Settings of herd. Copy the lines that you want to change to ~/.fleet-manager/env, or export them in a shell, which wins.
# Every line shows the default. FLEET_NODE_* belong to the agent (herd-node), the rest to the coordinator (herd).
"""
TRANSITIONS_BEGIN: Final = "<!-- transitions: written by `python3 dev.py docs` from core/state/live_request.py -->\n"
TRANSITIONS_END: Final = "<!-- end of transitions -->"
COORDINATOR: Final = tuple(config.parts_of(router_settings.Settings))
AGENT: Final = tuple(config.parts_of(agent_app.Settings))


def settings() -> str:
    """Both processes' settings, and the names that are accepted for the sake of old environment files."""
    known = {setting.env for record in (*COORDINATOR, *AGENT) for setting in config.settings_of(record)}
    accepted = ", ".join(f"`{name}`" for name in sorted(config.IGNORED_LEGACY_SETTINGS - known))
    return page(
        "Settings",
        "A default, then `~/.fleet-manager/env`, then the environment, then a flag: the later wins. An unknown name, or a value "
        "that cannot be used, stops the start and is told with what was expected. `herd config` shows every value and where it "
        "comes from; [herd.example.env](../herd.example.env) is a file to copy from.",
        "## The coordinator, `herd`",
        config.documentation(COORDINATOR),
        "## The agent, `herd-node`",
        config.documentation(AGENT),
        "## Accepted and not used yet",
        f"Names of the existing product that change nothing here so far: {accepted}.",
    )


def example_env() -> str:
    parts = [ENV_FILE_HEAD]
    for title, records in (("The coordinator", COORDINATOR), ("The agent", AGENT)):
        parts.append(f"\n# --- {title} ---\n")
        for setting in sorted((s for record in records for s in config.settings_of(record)), key=lambda s: s.env):
            shown = example_of(setting.default)
            parts.append(f"\n# {setting.help} Expected: {setting.expects}.\n# {setting.env}={shown}\n")
    return "".join(parts)


def example_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def signals() -> str:
    """What decides: the points of each signal, and the filters that end a node's candidacy before."""
    points = [
        (f"`{signal.name}`", f"{signal.low:g} .. {signal.high:+g}".replace("+0", "0"), first_line(module))
        for signal, module in plug_ins(herd.core.scheduling.signals, Signal, "SIGNAL")
    ]
    reasons = [
        (f"`{each.name}`", first_line(module))
        for each, module in plug_ins(herd.core.scheduling.filters, Filter, "FILTER")
    ]
    return page(
        "Signals and filters",
        "A node that a filter rejects is out, with a reason. Each of the others gets the sum of its signals' points, and the highest "
        "sum wins. `herd why REQUEST_ID` shows the points and the reasons of every node; the names below are the keys of "
        "`scores_breakdown` in stored traces.",
        "## Signals",
        table(("signal", "points", "what it looks at"), points),
        "## Filters",
        table(("filter", "what it decides"), reasons),
    )


def routes() -> str:
    """Every path that the coordinator answers, and which client's language it speaks."""
    inference: list[tuple[str, ...]] = []
    for dialect, module in plug_ins(herd.dialects, Dialect, "DIALECT"):
        name = module.__name__.rpartition(".")[2]
        served = [(route.method, route.path) for route in dialect.routes]
        inference += [(f"`{method} {path}`", name, "a node") for method, path in served]
        inference += [(f"`{method} {path}`", name, "memory") for method, path in dialect.listings]
    return page(
        "Routes",
        "Everything is on one port. What a node answers is routed and traced; what memory answers never waits for a node.",
        "## For clients",
        table(("route", "dialect", "answered from"), inference),
        "## For nodes and people",
        "The right that each needs is told in [security.md](security.md).",
        table(("route", "right", "what it does"), list(framework_routes())),
    )


def framework_routes() -> Iterator[tuple[str, str, str]]:
    """`ApiRoute("/path", endpoint, "METHOD", Right.X)` as written in the coordinator's files, with the endpoint's own first line."""
    for path in sorted((ROOT / "src/herd/coordinator").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        told = {
            node.name: (ast.get_docstring(node) or "").partition("\n")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "ApiRoute"):
                continue
            where, endpoint, method, right = call.args[:4]
            named = [node.attr for node in ast.walk(endpoint) if isinstance(node, ast.Attribute) and node.attr in told]
            assert isinstance(right, ast.Attribute)
            yield (
                f"`{ast.literal_eval(method)} {ast.literal_eval(where)}`",
                right.attr.lower(),
                told[named[0]] if named else "",
            )


def shapes_in_typescript() -> str:
    """Every answer and live message of the dashboard as a type: a field that is renamed fails the pages' own check."""
    answers = [
        *(answer for tab in discover(herd.dashboard.tabs, Tab, "TAB") for answer in tab.routes),
        *requests.ROUTES,
    ]
    shapes = [shape for answer in answers for shape in (answer.shape, answer.body) if shape is not None]
    _, found = msgspec.json.schema_components(
        [*shapes, *live.MESSAGES], ref_template="{name}", schema_hook=lambda _: {"title": "anything"}
    )
    made = [f"// {WRITTEN}\n"]
    for name, schema in sorted(found.items()):
        fields = "".join(f"  {field}: {typescript(told)};\n" for field, told in schema["properties"].items())
        made.append(f"export interface {name} {{\n{fields}}}\n")
    return "\n".join(made)


def typescript(schema: Mapping[str, Any]) -> str:  # JSON Schema, as msgspec writes it
    if "$ref" in schema:
        return str(schema["$ref"])
    if "anyOf" in schema:
        return " | ".join(typescript(one) for one in schema["anyOf"])
    kind = schema.get("type")
    if kind == "array":
        inner = typescript(schema.get("items", {}))
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if kind == "object":
        return f"Record<string, {typescript(schema.get('additionalProperties') or {})}>"
    return {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}.get(
        str(kind), "unknown"
    )


def every_command(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a class of the library that typer carries
    """A verb and, where it has some, the verbs within it: "keys", "keys add"."""
    for name, command in sorted(group.commands.items()):
        yield f"{before}{name}", command
        if isinstance(command, typer.core.TyperGroup):
            yield from every_command(command, f"{before}{name} ")


def commands() -> str:
    """What a person types, from the same declarations that the command line is made of."""
    group = typer.main.get_group(herd.cli.app)
    parts = []
    for name, command in every_command(group):
        given = [
            (
                f"`{' '.join(parameter.opts) if parameter.opts[0].startswith('-') else parameter.opts[0].upper()}`",
                str(vars(parameter).get("help") or ""),
            )
            for parameter in command.params
        ]
        help_text = (command.help or "").partition("\n\n")[0]
        parts += [f"## `herd {name}`", help_text, *([table(("argument", "meaning"), given)] if given else [])]
    return page(
        "Commands",
        "`herd` alone is `herd serve`; `herd-node` is `herd node`. `--help` after any of them tells the same.",
        *parts,
    )


def engines() -> str:
    rows = [(f"`{engine.kind}`", first_line(module)) for engine, module in plug_ins(herd.engines, Engine, "ENGINE")]
    return page(
        "Engines",
        "What `herd-node` finds by itself, or is pointed at with `--engine` and `--engine-url`. "
        "`--engine embedded` starts a llama.cpp of its own, with a small model that comes as a package.",
        table(("kind", "what it is"), rows),
    )


def checks() -> str:
    rows = [
        (f"`{check.name}`", first_line(module), check.passed)
        for check, module in plug_ins(herd.health.checks, Check, "CHECK")
    ]
    return page(
        "Health checks",
        "What `herd health` and `GET /dashboard/api/health` look for. A finding is told once for its cause, with the nodes that it struck, "
        "its numbers, since when, and the command that mends it on those nodes' systems. The score is 100 less 25 for each critical "
        "finding, 10 for each warning and 2 for each that is only worth knowing.",
        table(("check", "what it looks for", "told when there is nothing"), rows),
    )


def architecture() -> str:
    """ARCHITECTURE.md, with the table of a request's state transitions between its two markers."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    before, begin, rest = text.partition(TRANSITIONS_BEGIN)
    _, end, after = rest.partition(TRANSITIONS_END)
    assert begin and end, "ARCHITECTURE.md has lost the markers of its transition table"
    rows = [
        (
            ", ".join(state.value for state in one.states),
            one.trigger.value,
            ", ".join(state.value for state in one.next_states),
            one.commands,
        )
        for one in TRANSITIONS
    ]
    return f"{before}{begin}\n{table(('state', 'trigger', 'next state', 'commands'), rows)}\n{end}{after}"


PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "ARCHITECTURE.md": architecture,
        "docs/settings.md": settings,
        "docs/signals.md": signals,
        "docs/routes.md": routes,
        "docs/commands.md": commands,
        "docs/engines.md": engines,
        "docs/health.md": checks,
        "herd.example.env": example_env,
        "frontend/src/lib/shapes.ts": shapes_in_typescript,
    }
)


# --- pieces ---


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", f"<!-- {WRITTEN} -->", *(part.strip("\n") for part in parts)]) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plug_ins(package: ModuleType, kind: type[RecordT], name: str) -> list[tuple[RecordT, ModuleType]]:
    """Each plug-in with the module that defines it."""
    found = {id(record): record for record in discover(package, kind, name)}
    walked = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    modules = sorted(
        (importlib.import_module(m.name) for m in walked if not m.ispkg),
        key=lambda module: module.__name__.rpartition(".")[2],
    )
    return [(found[id(vars(m)[name])], m) for m in modules if id(vars(m).get(name)) in found]


def first_line(module: ModuleType) -> str:
    """What the first line of a file says that it does. What it does not know is for those who read the code."""
    sentences = (inspect.getdoc(module) or "").partition("\n")[0].split(". ")
    told = ". ".join(each.rstrip(".") for each in sentences if not each.startswith("Knows "))
    return told if told.endswith(")") else f"{told}."


def stale() -> list[str]:
    """The pages that are not what the code says."""
    return [
        name for name, make in PAGES.items() if not (ROOT / name).exists() or (ROOT / name).read_text("utf-8") != make()
    ]


def main(arguments: list[str]) -> int:
    old = stale()
    if "--check" in arguments:
        print("\n".join(f"{name} is stale: run python3 dev.py docs" for name in old))
        return 1 if old else 0
    for name in old:
        (ROOT / name).write_text(PAGES[name](), "utf-8", newline="\n")
        print(f"written: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
