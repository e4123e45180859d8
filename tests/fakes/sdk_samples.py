"""Makes values of the types that an official SDK publishes for requests (TypedDicts and their unions)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

import typing_extensions

DEPTH_MAX = 6


def members(published: Any) -> Iterator[Any]:
    """The TypedDicts of a published union, without types of answers that it also contains."""
    if typing.get_origin(published) in (typing.Union, types.UnionType):
        for part in typing.get_args(published):
            yield from members(part)
    elif typing_extensions.is_typeddict(published):
        yield published


def sample_of(published: Any, is_complete: bool) -> dict[str, Any]:
    """A value of a TypedDict with its required fields, or with all of them."""
    return _fields(published, is_complete, 0)


def _fields(published: Any, is_complete: bool, depth: int) -> dict[str, Any]:
    hints = typing_extensions.get_type_hints(published, include_extras=True)
    required = {name for name, hint in hints.items() if typing.get_origin(hint) is typing_extensions.Required}
    names = [name for name in hints if is_complete or name in required]
    return {name: _value(hints[name], is_complete and depth < 2, depth) for name in names}


def _value(hint: Any, is_complete: bool, depth: int) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if typing_extensions.is_typeddict(hint):
        return _fields(hint, is_complete, depth + 1) if depth < DEPTH_MAX else {}
    if origin is typing.Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        return _value(args[0], is_complete, depth)
    if origin in (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        return _value(args[0], is_complete, depth)
    if origin is dict:
        return {"x": 1}
    if hint in (str, int, float, bool, type(None)):
        return {str: "words", int: 7, float: 0.5, bool: True}.get(hint)
    return [_value(args[0], is_complete, depth)] if args else {}
