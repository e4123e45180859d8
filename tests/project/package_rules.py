"""Rules for the files of the package: sizes, annotations, imports, state, SQL, exceptions and names.

ratchet.json says how many findings a file may still have.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeAlias

from project.finding import Finding, Rule
from project.source import PACKAGE, Module

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

PURE = (
    "core",
    "protocols",
    "agent_protocol",
    "trust",
    "dialects",
    "engines",
    "health",
    "dashboard",
    "agent/availability.py",
)
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 520
FILE_LINES_MAX_PURE = 400
FILE_LINES_MAX_DIALECT = 500
LOOP_ROOTS = (
    "coordinator/driver.py",
    "coordinator/request_guard.py",
    "coordinator/api/asgi_bridge.py",
    "coordinator/storage/writer.py",
    "agent/app.py",
)
"""The outermost loops: they catch every exception, so that one request or one heartbeat does not end the process."""

BANNED_WORDS = frozenset(
    {
        "util",
        "utils",
        "helper",
        "helpers",
        "manager",
        "managers",
        "handler",
        "handlers",
        "common",
        "misc",
        "compat",
        "v2",
    }
)
MUTABLE_CALLS = frozenset(
    {"list", "dict", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter", "ChainMap"}
)
MUTABLE_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
UNSAFE_MODULES = frozenset({"pickle", "marshal", "shelve", "dill"})
PLUG_IN = re.compile(
    r"herd\.(?P<folder>core\.scheduling\.(?:signals|filters)|dialects|engines|health\.checks\.\w+|agent\.sensors)"
    r"\.(?P<file>\w+)"
)
MARKUP = re.compile(
    r"</?(?:html|head|body|div|span|p|a|script|style|table|tr|td|th|h[1-6]|ul|ol|li|br|hr"
    r"|form|input|button|svg|img|link|meta)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


def functions(module: Module) -> Iterator[Function]:
    yield from (node for node in ast.walk(module.tree) if isinstance(node, Function))


def length(function: Function) -> int:
    """Lines from `def` to the end, without decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def file_length_max(module: Module) -> int:
    if module.is_in("dialects"):
        return FILE_LINES_MAX_DIALECT
    return FILE_LINES_MAX_PURE if module.is_in(*PURE) else FILE_LINES_MAX


def long_function(module: Module) -> Iterator[Finding]:
    for function in functions(module):
        if (lines := length(function)) > FUNCTION_LINES_MAX:
            yield Finding(
                module.file, function.lineno, f"{function.name} has {lines} lines, at most {FUNCTION_LINES_MAX}", lines
            )


def long_file(module: Module) -> Iterator[Finding]:
    lines, limit = len(module.text.splitlines()), file_length_max(module)
    if lines > limit:
        yield Finding(module.file, 1, f"{lines} lines, at most {limit} here", lines)


def missing_annotation(module: Module) -> Iterator[Finding]:
    methods = {id(f) for c in ast.walk(module.tree) if isinstance(c, ast.ClassDef) for f in c.body}
    for function in functions(module):
        is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
        given = function.args
        positional = [*given.posonlyargs, *given.args][1 if id(function) in methods and not is_static else 0 :]
        stars = [star for star in (given.vararg, given.kwarg) if star is not None]
        bare = [arg.arg for arg in (*positional, *given.kwonlyargs, *stars) if arg.annotation is None]
        if bare or function.returns is None:
            yield Finding(
                module.file,
                function.lineno,
                f"{function.name}: no annotation for {', '.join(bare) or 'the returned value'}",
            )


def any_outside_protocols(module: Module) -> Iterator[Finding]:
    """`Any` is for input from outside that is not parsed yet."""
    if module.is_in("protocols", "agent_protocol", "dialects"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "Any":
            yield Finding(module.file, node.lineno, "Any")


def banned_name(module: Module) -> Iterator[Finding]:
    """A word that fits every thing, such as utils or manager."""
    for line, name in [(1, module.path.removesuffix(".py").replace("/", "_")), *defined_names(module.tree)]:
        for word in sorted(set(split_name(name)) & BANNED_WORDS):
            yield Finding(module.file, line, f"{name}: {word!r} fits every thing")


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every class, function, parameter, variable and attribute that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | Function):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def split_name(name: str) -> list[str]:
    """`upstreamManager_v2` -> upstream, manager, v2."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+[0-9]*|[0-9]+", name)]


def import_inside(module: Module) -> Iterator[Finding]:
    for function in functions(module):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield Finding(module.file, node.lineno, f"{function.name} imports")


def getattr_with_literal(module: Module) -> Iterator[Finding]:
    for call in _calls(module):
        is_named = _called(call) in ("getattr", "setattr", "hasattr", "delattr") and len(call.args) > 1
        if is_named and isinstance(call.args[1], ast.Constant):
            yield Finding(module.file, call.lineno, f"{_called(call)} with a literal: name the attribute")


def mutable_module_state(module: Module) -> Iterator[Finding]:
    for node in _module_level(module.tree.body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        name = ast.unparse(targets[0])
        is_mutable = isinstance(node.value, MUTABLE_LITERALS) or (
            isinstance(node.value, ast.Call) and _called(node.value) in MUTABLE_CALLS
        )
        if is_mutable and name != "__all__":
            yield Finding(module.file, node.lineno, f"{name} is mutable module state; use a frozen type")


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, also under `if` and `try`; class bodies are not included."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            inner = vars(node).get(part, [])
            if not isinstance(node, ast.ClassDef | Function):
                yield from _module_level(inner)


def global_random(module: Module) -> Iterator[Finding]:
    """Random numbers come from a `Random` that is passed as an argument."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield Finding(module.file, node.lineno, "import random")
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            others = [alias.name for alias in node.names if alias.name != "Random"]
            if others:
                yield Finding(module.file, node.lineno, f"from random import {', '.join(others)}")


def assembled_sql(module: Module) -> Iterator[Finding]:
    """SQL is a constant with `?` for values; it is not built from parts."""
    for call in _calls(module):
        if _called(call) not in ("execute", "executemany", "executescript") or not call.args:
            continue
        statement = call.args[0]
        is_format = isinstance(statement, ast.Call) and _called(statement) == "format"
        if isinstance(statement, ast.JoinedStr | ast.BinOp) or is_format:
            yield Finding(module.file, call.lineno, f"SQL built from parts: {ast.unparse(statement)[:60]}")


def printing(module: Module) -> Iterator[Finding]:
    if not module.is_in("cli"):
        yield from (Finding(module.file, call.lineno, "print") for call in _calls(module) if _called(call) == "print")


def broad_except(module: Module) -> Iterator[Finding]:
    if module.is_in(*LOOP_ROOTS):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [] if node.type is None else node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(kind) for kind in caught}
            if not names or names & {"Exception", "BaseException"}:
                yield Finding(module.file, node.lineno, f"except {', '.join(sorted(names))}".strip())


def markup_in_text(module: Module) -> Iterator[Finding]:
    documentation = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in documentation:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if found := MARKUP.search(text):
                yield Finding(module.file, node.lineno, f"markup {found[0]!r} belongs to static/")


def unsafe_call(module: Module) -> Iterator[Finding]:
    """Functions that run or unpack untrusted input."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {name.partition(".")[0] for name in names} & UNSAFE_MODULES:
                yield Finding(module.file, node.lineno, f"import {', '.join(names)}")
    for call in _calls(module):
        called = ast.unparse(call.func)
        is_shell = any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in call.keywords
        )
        if called in ("eval", "exec", "yaml.load", "os.system") or is_shell:
            yield Finding(module.file, call.lineno, f"{called}{' with a shell' if is_shell else ''}")


def imported_plug_in(module: Module) -> Iterator[Finding]:
    """Plug-ins are found by `discover`; code outside their folder does not import one by name."""
    for node in ast.walk(module.tree):
        names: list[str] = []
        line = 0
        if isinstance(node, ast.ImportFrom) and node.module:
            line, names = node.lineno, [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            line, names = node.lineno, [alias.name for alias in node.names]
        for name in names:
            found = PLUG_IN.fullmatch(name)
            if found is None or module.is_in(folder := found["folder"].replace(".", "/")):
                continue
            if (PACKAGE / folder / f"{found['file']}.py").is_file():
                yield Finding(module.file, line, f"imports the plug-in {name}")


def _calls(module: Module) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))


def _called(call: ast.Call) -> str:
    """`execute` for `self.database.execute(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


PACKAGE_RULES: tuple[Rule, ...] = (
    long_function,
    long_file,
    missing_annotation,
    any_outside_protocols,
    banned_name,
    import_inside,
    getattr_with_literal,
    mutable_module_state,
    global_random,
    assembled_sql,
    printing,
    broad_except,
    markup_in_text,
    unsafe_call,
    imported_plug_in,
)
