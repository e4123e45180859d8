"""Prints what is observable of every class and constant of the modules named on standard input, as JSON."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable

FUNCTION = re.compile(
    r"<[^<>]*\b(?:function|lambda)\b[^<>]*(?:<\w+>)?[^<>]*>|<[\w.]+__mypyc_lambda__\w+ object at \w+>"
)
"""How a function is printed: the compiler makes other objects."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def described(name: str) -> dict[str, object]:
    module = importlib.import_module(name)
    return {
        key: of_class(value) if isinstance(value, type) else text_of(value)
        for key, value in vars(module).items()
        if not key.startswith("__") and is_own(value, name)
    }


def is_own(value: object, name: str) -> bool:
    """Whether it is a class of this module, or a plain value."""
    if isinstance(value, type):
        return value.__module__ == name
    return isinstance(value, str | int | float | tuple | frozenset) or dataclasses.is_dataclass(value)


def of_class(kind: type) -> dict[str, object]:
    found: dict[str, object] = {
        "bases": [base.__name__ for base in kind.__mro__ if base.__name__ not in ("Generic", "Protocol", "ABC")],
        "methods": sorted(name for name in dir(kind) if not name.startswith("__") and is_method(kind, name)),
    }
    if issubclass(kind, enum.Enum):
        found["members"] = [(one.name, text_of(one.value)) for one in kind]
    if dataclasses.is_dataclass(kind):
        found["fields"] = [(one.name, one.kw_only, one.compare, one.repr, one.init) for one in dataclasses.fields(kind)]
        found["defaults"] = [
            (text_of(one.default), text_of(one.default_factory), text_of(dict(one.metadata)))
            for one in dataclasses.fields(kind)
        ]
        found["options"] = str(getattr(kind, "__dataclass_params__", None))
        found["match"] = getattr(kind, "__match_args__", None)
        if any("env" in one.metadata for one in dataclasses.fields(kind)):
            found["types"] = {name: str(hint) for name, hint in typing.get_type_hints(kind).items()}
        found["signature"] = [
            (one.name, str(one.kind), text_of(one.default)) for one in inspect.signature(kind).parameters.values()
        ]
        found["record"] = of_record(kind)
    return found


def is_method(kind: type, name: str) -> bool:
    found = inspect.getattr_static(kind, name)
    return callable(found) or isinstance(found, classmethod | staticmethod)


def of_record(kind: type) -> dict[str, object] | str:
    """How an instance with default values behaves; without defaults, that it cannot be created."""
    try:
        one = kind()
    except TypeError:
        return "has fields without default"
    return {
        "repr": text_of(one),
        "equal": one == kind(),
        "hash": outcome(lambda: hash(one) == hash(kind())),
        "replaced": outcome(lambda: text_of(dataclasses.replace(one))),
        "set": [outcome(lambda name=name: setattr(one, name, getattr(one, name))) for name in names(kind)],
        "unexpected": outcome(lambda: kind(no_such_field=1)),
    }


def names(kind: type) -> list[str]:
    return [one.name for one in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except Exception as problem:  # noqa: BLE001 - the kind of any exception is the result
        return type(problem).__name__


def text_of(value: object) -> str:
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(text_of, value))}"
    if type(value) is tuple:
        return f"tuple {[text_of(one) for one in value]}"
    if type(value) is dict:
        return f"dict {[(text_of(key), text_of(one)) for key, one in value.items()]}"
    return ADDRESS.sub("", FUNCTION.sub("function", repr(value)))


if __name__ == "__main__":
    json.dump({name: described(name) for name in sys.stdin.read().split()}, sys.stdout)
