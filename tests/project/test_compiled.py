"""`compiled.toml` is complete and true, and no compiled module has a construct that the compiler changes silently."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from compile_modules import module_name, selected
from project.source import ROOT, Module, modules, parse

CHOICE = tomllib.loads((ROOT / "compiled.toml").read_text("utf-8"))
SELECTED = frozenset(selected())
NAMES = {module_name(Path("herd", one.path)): one for one in modules()}
CACHED = {"cached_property", "functools.cached_property"}
UNCOMPILED = [name for names in CHOICE["pure"].values() for name in names]


def traps(module: Module) -> Iterator[str]:
    """Constructs that run differently when they are compiled, and that the compiler accepts silently."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield from traps_of_class(node)
            yield from lost_defaults(node, names_of_finals(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "slice":
            yield f"line {node.lineno}: a slice that is used as an index of bytes is taken for a number"
    for number, line in enumerate(module.text.splitlines(), 1):
        if "type: ignore[override]" in line:
            yield f"line {number}: an override of another kind is not called"


def traps_of_class(node: ast.ClassDef) -> Iterator[str]:
    bases, decorators = bases_and_decorators(node)
    if bases & {"Struct", "msgspec.Struct"}:
        yield f"{node.name}: a Struct loses annotations and keywords"
    if decorators & {"runtime_checkable", "typing.runtime_checkable"}:
        yield f"{node.name}: a compiled protocol cannot be checked at run time"
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and CACHED & set(map(ast.unparse, function.decorator_list)):
            yield f"{node.name}: {function.name} is computed at every access"
        if isinstance(function, ast.FunctionDef) and function.name in ("__getattr__", "__setattr__", "__del__"):
            yield f"{node.name}: {function.name} is not called for the attributes that the compiler knows"


def lost_defaults(node: ast.ClassDef, finals: set[str]) -> Iterator[str]:
    """Attributes whose value is not constant: they are not set, and only a warning of the compiler tells."""
    bases, decorators = bases_and_decorators(node)
    if bases & {"Enum", "StrEnum", "IntEnum", "NamedTuple"} or decorators & {"dataclass", "dataclasses.dataclass"}:
        return
    for one in node.body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__slots__":
            continue
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.annotation).startswith(("ClassVar", "Final")):
            continue
        if isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None and not is_constant(one.value, finals):
            yield f"{node.name}: {ast.unparse(one)}: the attribute is not set, because its value is not constant"


def is_constant(value: ast.expr, finals: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in finals
    try:
        return isinstance(ast.literal_eval(value), str | bytes | int | float | tuple | None)
    except ValueError:
        return False


def names_of_finals(module: Module) -> set[str]:
    declared = (node for node in module.tree.body if isinstance(node, ast.AnnAssign))
    return {ast.unparse(node.target) for node in declared if ast.unparse(node.annotation).startswith("Final")}


def bases_and_decorators(node: ast.ClassDef) -> tuple[set[str], set[str]]:
    bases, decorators = (
        {ast.unparse(one).split("[")[0].split("(")[0] for one in found} for found in (node.bases, node.decorator_list)
    )
    return bases, decorators


@pytest.mark.parametrize("name", UNCOMPILED)
def test_listed_modules_exist_once_in_the_packages(name: str) -> None:
    assert name in NAMES and UNCOMPILED.count(name) == 1
    assert any(name == package or name.startswith(f"{package}.") for package in CHOICE["packages"])


def test_every_module_of_the_packages_is_compiled_or_listed() -> None:
    inside = {name for name in NAMES if any(f"{name}.".startswith(f"{package}.") for package in CHOICE["packages"])}
    single = CHOICE["modules"]
    assert set(single) <= set(NAMES) - inside and single == sorted(set(single))
    assert sorted(module_name(Path(path)) for path in selected()) == sorted((inside - set(UNCOMPILED)) | set(single))


def test_compiled_modules_have_no_construct_that_changes_silently() -> None:
    chosen = [module for module in modules() if f"herd/{module.path}" in SELECTED]
    assert len(chosen) == len(SELECTED)
    assert not {module.file: found for module in chosen if (found := list(traps(module)))}


def test_no_module_copies_or_pickles_records() -> None:
    """Compiled frozen records refuse both, wherever the call is."""
    for module in modules():
        imports = [node for node in ast.walk(module.tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        plain = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        assert not (plain | {getattr(node, "module", None) for node in imports}) & {"copy", "pickle"}, module.file


def test_uncompiled_modules_derive_from_no_compiled_class() -> None:
    """Python refuses such a class when its module is imported, and only in the compiled form."""
    compiled = {module_name(Path(path)) for path in selected()}
    for name, module in NAMES.items():
        if name not in compiled:
            assert not {base for base in imported_bases(module) if base.rpartition(".")[0] in compiled}, name


def imported_bases(module: Module) -> Iterator[str]:
    names: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            names.update({one.asname or one.name: f"{node.module}.{one.name}" for one in node.names})
        elif isinstance(node, ast.Import):
            names.update({one.asname or one.name: one.name for one in node.names})
    for node in ast.walk(module.tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else []:
            first, _, rest = ast.unparse(base).partition(".")
            yield f"{names.get(first, first)}{'.' if rest else ''}{rest}"


@pytest.mark.parametrize(
    "text",
    [
        "class A(msgspec.Struct, omit_defaults=True): ...",
        "class A(Struct): ...",
        "@runtime_checkable\nclass A(Protocol): ...",
        "class A:\n    def __getattr__(self, name): ...",
        "JSON = 'text'\nclass A:\n    kind = JSON",
        "class A:\n    found: dict[str, int] = {}",
        "part = slice(1, 2)",
        "class A:\n    @cached_property\n    def total(self): ...",
        "class A(B):\n    @property\n    def total(self):  # type: ignore[override]\n        ...",
    ],
)
def test_traps_are_found(text: str) -> None:
    assert list(traps(parse("a.py", text)))
