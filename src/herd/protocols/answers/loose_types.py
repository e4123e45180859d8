"""Fits values of a wrong type into an engine's answer where their meaning is clear: `"index": 0.0`, `"id": 7`, `"12"`.

Engines written in other languages than the clients send whole numbers as floats or texts, and ids as numbers. Clients
of the engine take that, so a translation must take it too. Only an answer that the strict decoder rejects comes here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

Body = TypeVar("Body")

PAYLOAD: Final = frozenset(
    {
        *("choices", "delta", "message", "content", "text", "response", "thinking", "reasoning", "reasoning_content"),
        *("tool_calls", "function_call", "function", "name", "arguments", "data", "embedding", "embeddings"),
    }
)
"""What an answer consists of. An unclear value of any other field is left out; here it is an error."""
_WHOLE_MAX: Final = 2**63


class _Unclear(Exception):
    """The value has no clear meaning in this type."""


def decode_loosely(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body as the decoder's type. Raises `ValueError`."""
    try:
        value = json.loads(body, parse_int=_whole)
        wanted: type = decoder.type
        fitted = _fitted(value, _type_of(wanted))
        return decoder.decode(msgspec.json.encode(fitted))
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except _Unclear:
        raise ValueError("it is not an object") from None


def _whole(digits: str) -> int | float:
    """A number that no engine means as a whole one is a float: its writer takes 64 bits."""
    number = float(digits)
    return int(digits) if abs(number) < _WHOLE_MAX else number


@lru_cache
def _type_of(wanted: Hashable) -> inspect.Type:
    return inspect.type_info(wanted)


def _fitted(value: object, wanted: inspect.Type) -> object:
    """The value as this type. Raises `_Unclear`."""
    if isinstance(wanted, inspect.UnionType):
        return _one_of(value, wanted.types)
    fit = _FITS.get(type(wanted))
    return value if fit is None else fit(value, wanted)


def _one_of(value: object, types: tuple[inspect.Type, ...]) -> object:
    exact = [one for one in types if isinstance(value, _EXACT.get(type(one), ()))]
    for one in (*exact, *types):
        try:
            return _fitted(value, one)
        except _Unclear:
            continue
    raise _Unclear


def _object(value: object, wanted: inspect.StructType) -> object:
    if not isinstance(value, dict):
        raise _Unclear
    fields = {field.encode_name: field.type for field in wanted.fields}
    fitted = dict(value)
    for name in fields.keys() & value.keys():
        try:
            fitted[name] = _fitted(value[name], fields[name])
        except _Unclear:
            if name not in PAYLOAD:
                del fitted[name]
    return fitted


def _list(value: object, wanted: inspect.ListType) -> object:
    if not isinstance(value, list):
        raise _Unclear
    return [_fitted(item, wanted.item_type) for item in value]


def _members(value: object, _: inspect.Type) -> object:
    """An empty list is an empty object: languages whose lists and objects are one type write it so."""
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise _Unclear
    return value


def _text(value: object, _: inspect.Type) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Unclear
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _integer(value: object, wanted: inspect.Type) -> int:
    number = _number(value, wanted)
    if not (math.isfinite(number) and number == int(number)):
        raise _Unclear
    return int(number)


def _number(value: object, _: inspect.Type) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or "_" in value:
        raise _Unclear
    try:
        return float(value)
    except ValueError:
        raise _Unclear from None


def _boolean(value: object, _: inspect.Type) -> bool:
    found = _BOOLEANS.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None
    if found is None:
        raise _Unclear
    return found


def _nothing(value: object, _: inspect.Type) -> None:
    if value is not None:
        raise _Unclear


_BOOLEANS: Final[Mapping[str, bool]] = MappingProxyType({"true": True, "false": False, "1": True, "0": False})
_FITS: Final[Mapping[type[inspect.Type], Callable[[object, Any], object]]] = MappingProxyType(
    {
        inspect.StructType: _object,
        inspect.ListType: _list,
        inspect.DictType: _members,
        inspect.StrType: _text,
        inspect.IntType: _integer,
        inspect.FloatType: _number,
        inspect.BoolType: _boolean,
        inspect.NoneType: _nothing,
    }
)
_EXACT: Final[Mapping[type[inspect.Type], Any]] = MappingProxyType(
    {
        inspect.StructType: dict,
        inspect.ListType: list,
        inspect.DictType: dict,
        inspect.StrType: str,
        inspect.NoneType: type(None),
    }
)
