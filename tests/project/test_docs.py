"""Every setting, plug-in, command and route is documented, and the documents name only things that exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Protocol, cast

import pytest
import typer.main

import herd
from herd import ollama_herd_settings
from herd.cli.commands import app
from herd.config import RecordType, Setting, settings_of
from herd.dialects import Dialect
from project.source import PACKAGE, ROOT, modules, packages

PLUG_INS = (
    ("core.scheduling.signals", "SIGNAL"),
    ("core.scheduling.filters", "FILTER"),
    ("engines", "ENGINE"),
    ("health.checks", "CHECK"),
    ("dashboard.pages", "PAGE"),
)
CODE = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1|^((?: {4}|\t)[^\n]*)$|(`+)([^`\n]+?)\4", re.MULTILINE | re.DOTALL)
FOLDER = re.compile(r"(?<![\w./-])(?:src/herd/)?([a-z_0-9]+)/(?![\w*])")
SETTING = re.compile(r"\bFLEET_[A-Z0-9_]*[A-Z0-9]\b")


class Named(Protocol):
    name: str


def document(name: str) -> str:
    path = ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text("utf-8")


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def code_in(text: str) -> str:
    """The code blocks and code spans of a document; a name such as `memory` counts only there."""
    return "\n".join(found[2] or found[3] or found[5] or "" for found in CODE.finditer(text))


@pytest.fixture(scope="module")
def documented() -> str:
    """All code of all documents."""
    return "\n".join(code_in(path.read_text("utf-8")) for path in documents())


def is_documented(word: str, code: str) -> bool:
    return re.search(rf"(?<![\w/-]){re.escape(word)}(?![\w-])", code) is not None


def records_in(folder: str, constant: str) -> list[object]:
    """The plug-ins of a folder."""
    if not (PACKAGE / folder.replace(".", "/") / "__init__.py").exists():
        return []
    package = importlib.import_module(f"herd.{folder}")
    found = pkgutil.walk_packages(package.__path__, f"herd.{folder}.")
    names = sorted(info.name for info in found if not info.ispkg and not info.name.rpartition(".")[2].startswith("_"))
    return [vars(importlib.import_module(name))[constant] for name in names]


def name_of(record: object) -> str:
    """The public name of a plug-in of any kind."""
    return cast(Named, record).name


def dialect_paths() -> set[str]:
    dialects = [record for record in records_in("dialects", "DIALECT") if isinstance(record, Dialect)]
    assert dialects
    asked = {route.path for dialect in dialects for route in dialect.routes}
    return asked | {path for dialect in dialects for _, path in dialect.listings}


def framework_paths() -> set[str]:
    """The paths in every `Route("/...")` of the coordinator."""
    calls = [
        node for m in modules() if m.is_in("coordinator") for node in ast.walk(m.tree) if isinstance(node, ast.Call)
    ]
    routes = [call.args[0] for call in calls if ast.unparse(call.func).endswith(("Route", "Mount")) and call.args]
    texts = [route.value for route in routes if isinstance(route, ast.Constant)]
    return {text for text in texts if isinstance(text, str) and len(text) > 1}


def verbs(program: typer.Typer) -> set[str]:
    """The commands of `herd`."""
    command = typer.main.get_command(program)
    assert isinstance(command, typer.core.TyperGroup)
    return {name for name, verb in command.commands.items() if not verb.hidden}


def settings_records() -> list[RecordType]:
    """Every record in the package with a field that is a setting."""
    found: list[RecordType] = []
    for info in pkgutil.walk_packages(herd.__path__, "herd."):
        if info.name == "herd.__main__":
            continue
        for thing in vars(importlib.import_module(info.name)).values():
            is_record = isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == info.name
            if is_record and any("env" in field.metadata for field in dataclasses.fields(thing)):
                found.append(thing)
    return found


def settings() -> list[Setting]:
    return [setting for record in settings_records() for setting in settings_of(record)]


def test_generated_documents_are_current() -> None:
    """`python3 dev.py docs` generates them."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_is_documented() -> None:
    text = document("docs/settings.md")
    assert not sorted(setting.env for setting in settings() if f"`{setting.env}`" not in text)


def test_every_setting_has_a_help_sentence() -> None:
    assert "FLEET_PORT" in {setting.env for setting in settings()}
    assert not [setting.env for setting in settings() if not setting.help.strip().endswith(".")]


def test_documents_name_only_existing_settings() -> None:
    known = ollama_herd_settings.ALL | {setting.env for setting in settings()}
    examples = [path for path in ROOT.iterdir() if path.is_file() and "env" in path.name.split(".")]
    named = {name for path in [*documents(), *examples] for name in SETTING.findall(path.read_text("utf-8"))}
    assert {name for name in named - known if not any(other.startswith(f"{name}_") for other in known)} == set()


@pytest.mark.parametrize(("folder", "constant"), PLUG_INS)
def test_every_plug_in_is_documented(folder: str, constant: str, documented: str) -> None:
    assert not [
        name_of(record) for record in records_in(folder, constant) if not is_documented(name_of(record), documented)
    ]


def test_every_route_is_documented(documented: str) -> None:
    bare = {re.sub(r"/\{[^}]*\}.*$", "", path) or path for path in dialect_paths() | framework_paths()}
    assert not sorted(path for path in bare if path not in documented)


def test_every_command_is_documented(documented: str) -> None:
    named = verbs(app)
    assert {"status", "top", "models", "why", "chat", "doctor"} <= named
    assert not sorted(verb for verb in named - {"node"} if not is_documented(f"herd {verb}", documented))


def test_the_packages_of_the_architecture_are_the_folders() -> None:
    named = set(FOLDER.findall(document("ARCHITECTURE.md")))
    folders = {path.name for path in [*PACKAGE.rglob("*"), *ROOT.iterdir()] if path.is_dir()}
    assert packages() <= named, "packages that ARCHITECTURE.md does not name"
    assert named - {"herd"} <= folders | {"src"}, "named in ARCHITECTURE.md, but missing"


def test_the_changelog_has_a_section_for_unreleased_changes() -> None:
    assert re.search(r"^#+ .*Unreleased", document("CHANGELOG.md"), re.MULTILINE)


def test_the_versions_of_the_tested_clients_are_the_pinned_ones() -> None:
    folders = ("tests/fakes/agents", "tests/fakes/agents/continue_cli")
    lists = [json.loads(document(f"{folder}/package.json"))["dependencies"] for folder in folders]
    pinned = {package: version for listed in lists for package, version in listed.items()}
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([\d.]+) \|", document("docs/clients.md"), re.MULTILINE)
    assert dict(rows) == {package: version for package, version in pinned.items() if package != "zod"}


def test_every_dependency_is_documented() -> None:
    text = document("docs/dependencies.md").lower()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    groups = [*extras, *project["dependency-groups"].values(), project["project"]["dependencies"]]
    names = {re.split(r"[\s<>=!~;\[]", wanted, maxsplit=1)[0].lower() for group in groups for wanted in group}
    assert not sorted(name for name in names if not is_documented(name, text))


@pytest.mark.parametrize("text", ["`herd top`", "```\nherd top\n```", "    herd top", "see `herd top --json` too"])
def test_code_is_found_in_every_form(text: str) -> None:
    assert is_documented("herd top", code_in(text))


@pytest.mark.parametrize("text", ["herd top", "`herd topple`", "`a-herd top`"])
def test_plain_text_does_not_count_as_code(text: str) -> None:
    assert not is_documented("herd top", code_in(text))


NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


BARE_TEST = re.compile(r"`(test_\w+)`")


CITING = ("docs/fidelity.md", "docs/reliability.md", "docs/security.md")
"""The documents whose cases cite their tests."""


@pytest.mark.parametrize("name", CITING)
def test_a_cited_test_is_named_with_its_file(name: str) -> None:
    assert not BARE_TEST.findall(document(name)), "write `tests/FILE.py::test_name`"


@pytest.mark.parametrize("name", CITING)
def test_every_cited_test_exists(name: str) -> None:
    missing = []
    for path, test in NAMED_TEST.findall(document(name)):
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text("utf-8")):
            missing.append(f"{path}::{test}")
    assert not missing and len(NAMED_TEST.findall(document(name))) > 5


def test_every_case_of_fidelity_cites_a_test() -> None:
    rows = [line.split(" | ") for line in document("docs/fidelity.md").splitlines() if re.match(r"\| A?\d", line)]
    uncited = [row[0] for row in rows if not NAMED_TEST.search(row[-1])]
    numbers = {row[0].removeprefix("| ") for row in rows}
    assert not uncited and {str(number) for number in range(1, 31)} <= numbers
