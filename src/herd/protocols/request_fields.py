"""Reads the fields that requests of every dialect share, and rewrites bodies without the coordinator's extensions.

The shared fields are the model name and the extensions (`fallback_models`, `metadata.tags`, `user`). A payload is not
decoded unless necessary: `msgspec.Raw` holds a value as the bytes that the client sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from herd.core.state.fleet import canonical
from herd.core.state.model_names import INVALID_MODEL_NAME, MODEL_NAME_MAX_CHARS, is_model_name
from herd.errors import BadRequest
from herd.protocols.conversation import ParsedRequest

FALLBACKS_MAX = 8
TAGS_MAX = 16
TAG_MAX_CHARS = 64
USER_MAX_CHARS = 256
NAMES_CACHED_MAX = 1024
"""Number of valid names in the cache."""

BYTES_PER_TOKEN = 4
"""The usual estimate for text in any tokenizer. Only its order of magnitude matters."""

ABSENT = msgspec.Raw()
"""The value of a Raw field that the client did not send."""

TOKENS_MAX = 2**31 - 1
"""Engines count tokens in 32 bits."""

WHOLE_MAX = 2**63 - 1
"""The largest whole number that engines read."""

SHOWN_MAX_CHARS = 32
"""Most characters of a wrong text that an error shows."""

EMPTY_VALUES = frozenset((b"[]", b'""', b"false"))
"""JSON values that mean the same as no value. A list may also contain white space."""

_NULL = msgspec.Raw(b"null")

Body = TypeVar("Body")

_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.@-]*[A-Za-z0-9_@-])?"
_NEW_MODEL_NAME = re.compile(
    rf"(?:{_SEGMENT}(?::[0-9]{{1,5}})?/)?(?:{_SEGMENT}/){{0,3}}{_SEGMENT}(?::[A-Za-z0-9_.-]+)?"
)
_SCHEME = "https://"
_SLASHES_WITH_HOST = 4
"""In a name with a scheme, a host and a namespace, as Ollama requires them."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EMPTY_LIST = re.compile(rb"\[[ \t\r\n]*+\]")
_EMPTY_MAX_BYTES = 16
"""A longer value is none of the empty ones."""
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`")
_BINARY_START = re.compile(
    rb'(?P<text>data:(?:text/|application/(?:json|xml|yaml|x-|javascript))[^",]{0,80};base64,)|;base64,|"data"\s*:\s*"'
)


class ExtensionFields(msgspec.Struct):
    """The coordinator's own request fields. The request struct of each dialect derives from it."""

    fallback_models: msgspec.Raw = ABSENT
    fallback: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    user: msgspec.Raw = ABSENT


class Extensions(NamedTuple):
    """The decoded extensions. `are_present` means that the body must be rewritten without them."""

    fallback_models: tuple[str, ...]
    tags: tuple[str, ...]
    user: str
    are_present: bool
    may_fall_back: bool | None = None
    """As ollama-herd's field `fallback`; None: the setting decides."""


_NO_EXTENSIONS = Extensions((), (), "", False)
_BOOLEANS: Mapping[bytes, bool] = MappingProxyType({b"true": True, b"false": False})


def read(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body as the decoder's type. Raises BadRequest with a readable message if the body does not match it.

    Strings that the decoder skips must be valid UTF-8 too, because an engine would fail on them later.
    """
    if not body or body.isspace():
        raise BadRequest("missing request body")
    try:
        value = decoder.decode(body)
        if not body.isascii():
            body.decode()
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise mismatch(error) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not valid UTF-8") from None
    return value


def is_given(raw: msgspec.Raw) -> bool:
    """Whether the client sent the field with a value other than null."""
    return raw is not ABSENT and raw != ABSENT and raw != _NULL


def has_content(raw: msgspec.Raw, empty: Collection[bytes] = EMPTY_VALUES) -> bool:
    """Whether the client sent the field with a value that is neither null nor one of `empty`."""
    if raw is ABSENT or not is_given(raw):
        return False
    view = memoryview(raw)
    if _EMPTY_LIST.fullmatch(view):
        return b"[]" not in empty
    return view.nbytes > _EMPTY_MAX_BYTES or bytes(view) not in empty


def flag(name: str, raw: msgspec.Raw, default: bool = False) -> bool:
    """A value that must be true, false or null; null and no value are the default. Raises BadRequest."""
    if not is_given(raw):
        return default
    value = bytes(raw)
    if value not in (b"true", b"false"):
        raise wrong_type(name, "true or false", readable(raw, _ANY))
    return value == b"true"


def is_list(raw: msgspec.Raw) -> bool:
    """Whether the value is a JSON list, such as content that consists of parts."""
    view = memoryview(raw)
    return view.nbytes > 0 and view[0] == ord("[")


def token_limit(number: float | None) -> int | None:
    """A number of tokens that the client set, at most TOKENS_MAX; None if it is absent or not positive."""
    return min(int(number), TOKENS_MAX) if number is not None and number >= 1 else None


def sent_number(raw: msgspec.Raw) -> int | float | None:
    """The number that the client sent; None for a value of another type, which the engine or a translation refuses."""
    return None if raw is ABSENT else readable(raw, _NUMBER)


def whole_number(name: str, number: float | None) -> int | None:
    """A number that must be whole and fit into 64 bits, such as a seed. Raises BadRequest, as engines refuse others."""
    if number is None:
        return None
    if not -WHOLE_MAX <= number <= WHOLE_MAX or number != int(number):
        raise BadRequest(f"{name} must be a whole number of at most 64 bits, not {number}")
    return int(number)


@lru_cache(NAMES_CACHED_MAX)
def model_name(name: str | None) -> str:
    """The unchanged name of a model that a client asks for: any name that a node can list. Raises BadRequest."""
    if not name:
        raise BadRequest("model is required")
    if not is_model_name(name):
        message = f"invalid model name: at most {MODEL_NAME_MAX_CHARS} characters, none of them control characters"
        raise BadRequest(message, code=INVALID_MODEL_NAME)
    return name


def new_model_name(name: str | None) -> str:
    """The name of a model to download or create: `[host[:port]/][namespace/...]model[:tag]`, or BadRequest.

    Segments contain letters, digits and `. _ - @`, and do not begin or end with `.` or `-`. Only `https://` before a
    host is removed: it is what engines use anyway.
    """
    name = model_name(name)
    if name.startswith(_SCHEME) and name.count("/") >= _SLASHES_WITH_HOST:
        name = name.removeprefix(_SCHEME)
    if ".." in name or not _NEW_MODEL_NAME.fullmatch(name):
        raise BadRequest("invalid model name", code=INVALID_MODEL_NAME)
    return name


def read_extensions(sent: ExtensionFields, model: str) -> Extensions:
    """The extensions of a request for `model`. Raises BadRequest."""
    if sent.metadata is ABSENT and sent.fallback_models is ABSENT and sent.user is ABSENT and sent.fallback is ABSENT:
        return _NO_EXTENSIONS
    tags, has_tags = _metadata_tags(sent.metadata)
    may_fall_back = _may_fall_back(sent.fallback)
    present = has_tags or any(memoryview(raw).nbytes for raw in (sent.fallback_models, sent.user))
    if not present and may_fall_back is None:
        return _NO_EXTENSIONS
    return Extensions(_fallbacks(sent.fallback_models, model), tags, _user(sent.user), True, may_fall_back)


def cut_tags(values: Sequence[str]) -> tuple[str, ...]:
    """The first TAGS_MAX tags, each cut to TAG_MAX_CHARS, without control characters, outer blanks and duplicates.

    Tags only label requests in statistics, so a client with other ideas of them is not refused.
    """
    tags = dict.fromkeys(_label(value, TAG_MAX_CHARS) for value in values)
    tags.pop("", None)
    return tuple(tags)[:TAGS_MAX]


def estimate_tokens(size_bytes: int) -> int:
    """The estimated number of tokens in a text of this size."""
    return size_bytes // BYTES_PER_TOKEN


def text_bytes(raw: msgspec.Raw) -> int:
    """Size of a JSON value without binary data: base64 in data: URIs and in values named "data".

    A text in base64 counts as what it is without base64: three quarters.
    """
    data = bytes(raw)
    size, at = len(data), 0
    while found := _BINARY_START.search(data, at):
        at = data.find(b'"', found.end())
        if at < 0:
            break
        encoded = at - found.end()
        size -= encoded // 4 if found["text"] else encoded
    return size


def rewrite(
    request: ParsedRequest, model: str, replacements: Mapping[str, Any] | None = None, name_field: str = "model"
) -> bytes:
    """The body for a node: without extensions, for `model`, and with `replacements`. Raises BadRequest.

    Other values are copied unchanged. Only the whitespace between top-level fields is lost, and of a duplicate field
    the last one remains. An empty `metadata` is removed.
    """
    fields = read(request.body, _FIELDS)
    if request.has_extensions:
        _remove_extensions(fields)
    fields[name_field] = msgspec.Raw(msgspec.json.encode(model))
    for name, value in (replacements or {}).items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)


def _remove_extensions(fields: dict[str, msgspec.Raw]) -> None:
    fields.pop("fallback_models", None)
    if _may_fall_back(fields.get("fallback", ABSENT)) is not None:
        del fields["fallback"]
    fields.pop("user", None)
    metadata = fields.get("metadata", ABSENT)
    if not _is_object(metadata):
        return
    inner = msgspec.json.decode(metadata, type=dict[str, msgspec.Raw])
    if not _are_tags(inner.get("tags", ABSENT)):
        return
    del inner["tags"]
    if inner:
        fields["metadata"] = msgspec.Raw(msgspec.json.encode(inner))
    else:
        del fields["metadata"]


def _fallbacks(raw: msgspec.Raw, model: str) -> tuple[str, ...]:
    names = _value(raw, _STRINGS, "fallback_models must be a list of model names") or []
    if len(names) > FALLBACKS_MAX:
        raise BadRequest(f"fallback_models: at most {FALLBACKS_MAX} models, not {len(names)}")
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(canonical(model_name(name)), name)
    by_key.pop(canonical(model), None)
    return tuple(by_key.values())


def _may_fall_back(raw: msgspec.Raw) -> bool | None:
    """A value of another type belongs to an API of the engine's own, and stays."""
    return _BOOLEANS.get(bytes(raw)) if raw is not ABSENT else None


def _metadata_tags(raw: msgspec.Raw) -> tuple[tuple[str, ...], bool]:
    """The tags, and whether there is a `tags` field of ours. Metadata of another shape is not ours and is ignored."""
    if not _is_object(raw):
        return (), False
    metadata = readable(raw, _METADATA)
    if metadata is None or not _are_tags(metadata.tags):
        return (), False
    found = readable(metadata.tags, _ANY)
    values = found.split(",") if isinstance(found, str) else found
    return cut_tags([value for value in values or () if isinstance(value, str)]), True


def _are_tags(raw: msgspec.Raw) -> bool:
    """Whether the value of `metadata.tags` is meant for the coordinator: a list, a text with commas, or null."""
    view = memoryview(raw)
    return view.nbytes > 0 and view[0] in b'["n'


def _user(raw: msgspec.Raw) -> str:
    """The user as a label: a text or a whole number; a value of another type labels nothing."""
    user = readable(raw, _ANY)
    is_label = isinstance(user, str | int) and not isinstance(user, bool)
    return _label(str(user), USER_MAX_CHARS) if is_label else ""


def _label(text: str, max_chars: int) -> str:
    return _CONTROL.sub(" ", text[: 2 * max_chars]).strip()[:max_chars].rstrip()


def readable(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """The value; None if there is none, or it is not what the decoder reads."""
    if not memoryview(raw).nbytes:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _value(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Body], problem: str) -> Body | None:
    if not memoryview(raw).nbytes:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(problem) from None


def _is_object(raw: msgspec.Raw) -> bool:
    view = memoryview(raw)
    return view.nbytes > 0 and view[0] == ord("{")


class _Metadata(msgspec.Struct):
    tags: msgspec.Raw = ABSENT


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NUMBER = msgspec.json.Decoder(int | float | None)
_METADATA = msgspec.json.Decoder(_Metadata)
_STRINGS = msgspec.json.Decoder(list[str] | None)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def mismatch(error: msgspec.ValidationError, where: str = "") -> BadRequest:
    """Turns "Expected `array | null`, got `str` - at `$.messages`" into "messages must be a list, not a string".

    `where` is the place of the value that was read, if that is a part of the body.
    """
    text = str(error)
    at = _PATH.search(text)
    path = at["path"] if at else ""
    joined = where + path if not where or path.startswith("[") else f"{where}.{path}".rstrip(".")
    place, expected = joined or "the body", _EXPECTED.search(text)
    if not expected:
        return BadRequest(f"{place}: {_PATH.sub('', text)}")
    kinds = [kind for kind in expected["wanted"].split(" | ") if kind != "null"]
    wanted = [_TYPE_NAMES.get(kind, kind) for kind in kinds if kind != "int" or "float" not in kinds]
    return BadRequest(f"{place} must be {' or '.join(wanted)}, not {_TYPE_NAMES.get(expected['got'], expected['got'])}")


def wrong_type(name: str, wanted: str, found: object) -> BadRequest:
    """The error for a value of a JSON type, or a text, that the field cannot have."""
    return BadRequest(f"{name} must be {wanted}, not {shown_value(found)}")


def shown_value(value: object) -> str:
    """A value that a field cannot have, for the error: the type, or a text itself, which is cut."""
    if isinstance(value, str):
        return msgspec.json.encode(value[:SHOWN_MAX_CHARS]).decode()
    return type_name(value)


def type_name(value: object) -> str:
    """The JSON type of a value, for people."""
    return _TYPE_NAMES["null" if value is None else type(value).__name__]


_TYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "object": "an object",
        "dict": "an object",
        "array": "a list",
        "list": "a list",
        "str": "a string",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "null": "null",
    }
)
"""The names of JSON types for people, by those of msgspec and Python."""
