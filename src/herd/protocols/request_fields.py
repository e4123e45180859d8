"""What every request is read for at the door, whatever its dialect: valid JSON, a model's name, the coordinator's extras.

Also the way back: a body without those extras. Knows no route and no dialect's fields; never decodes a payload it
does not have to (`msgspec.Raw` keeps a value as the bytes the client sent).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from herd.core.state.fleet import canonical
from herd.errors import BadRequest
from herd.protocols.conversation import ParsedRequest

FALLBACKS_MAX = 8
TAGS_MAX = 16
TAG_MAX_CHARS = 64
USER_MAX_CHARS = 256
MODEL_NAME_MAX_CHARS = 256
NAMES_REMEMBERED_MAX = 1024
"""Good names that need not be looked at again."""

BYTES_PER_TOKEN = 4
"""The usual estimate for text in any tokenizer; only its order of magnitude is relied on."""

ABSENT = msgspec.Raw()
"""The value of a Raw field that the client did not send."""

_NULL = msgspec.Raw(b"null")

Body = TypeVar("Body")

_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.@-]*[A-Za-z0-9_@-])?"
_MODEL_NAME = re.compile(rf"(?:{_SEGMENT}(?::[0-9]{{1,5}})?/)?(?:{_SEGMENT}/){{0,3}}{_SEGMENT}(?::[A-Za-z0-9_.-]+)?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`")
_BINARY_START = re.compile(rb';base64,|"data"\s*:\s*"')


class ExtensionFields(msgspec.Struct):
    """The coordinator's own request fields. A dialect's door struct derives from this."""

    fallback_models: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    user: msgspec.Raw = ABSENT


class Extensions(NamedTuple):
    """The extras, read: `are_present` says that the body must be rewritten without them."""

    fallback_models: tuple[str, ...]
    tags: tuple[str, ...]
    user: str
    are_present: bool


_NOTHING = Extensions((), (), "", False)


def read(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body as the decoder's type. Raises BadRequest in plain words for anything that is not exactly that.

    Strings that the decoder skips are checked to be UTF-8 too: an engine would choke on them later.
    """
    if not body or body.isspace():
        raise BadRequest("missing request body")
    try:
        value = decoder.decode(body)
        if not body.isascii():
            body.decode()
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.ValidationError as wrong:
        raise BadRequest(_plain(str(wrong))) from None
    except msgspec.DecodeError as wrong:
        raise BadRequest(f"the body is not valid JSON: {wrong}") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not valid UTF-8") from None
    return value


def is_given(raw: msgspec.Raw) -> bool:
    """Whether the client sent the field, with something other than null."""
    return raw is not ABSENT and raw not in (ABSENT, _NULL)


@lru_cache(NAMES_REMEMBERED_MAX)
def model_name(name: str | None) -> str:
    """The name as it was given, if it follows the grammar `[host[:port]/][namespace/...]model[:tag]`.

    Segments are letters, digits and `. _ - @`, beginning and ending with none of `. -`; names never become paths or
    URLs without quoting, but nothing that looks like a way out of a folder gets as far as that.
    Raises BadRequest.
    """
    if not name:
        raise BadRequest("model is required")
    if len(name) > MODEL_NAME_MAX_CHARS or ".." in name or not _MODEL_NAME.fullmatch(name):
        raise BadRequest("invalid model name", code="invalid_model_name")
    return name


def read_extensions(extras: ExtensionFields, model: str) -> Extensions:
    """The extras of a request for `model`. Raises BadRequest."""
    if extras.metadata is ABSENT and extras.fallback_models is ABSENT and extras.user is ABSENT:
        return _NOTHING
    tags, has_tags = _metadata_tags(extras.metadata)
    present = has_tags or any(memoryview(raw).nbytes for raw in (extras.fallback_models, extras.user))
    if not present:
        return _NOTHING
    return Extensions(_fallbacks(extras.fallback_models, model), tags, _user(extras.user), present)


def read_tags(values: Sequence[str], where: str) -> tuple[str, ...]:
    """Tags without blanks and repetitions, in order. `where` names their source in the BadRequest raised."""
    if len(values) > TAGS_MAX:
        raise BadRequest(f"{where}: at most {TAGS_MAX} tags, not {len(values)}")
    tags = dict.fromkeys(stripped for value in values if (stripped := value.strip()))
    for tag in tags:
        if len(tag) > TAG_MAX_CHARS or _CONTROL.search(tag):
            raise BadRequest(f"{where}: a tag has at most {TAG_MAX_CHARS} characters, none of them control characters")
    return tuple(tags)


def estimate_tokens(size_bytes: int) -> int:
    """Estimated tokens of that many bytes of text."""
    return size_bytes // BYTES_PER_TOKEN


def text_bytes(raw: msgspec.Raw) -> int:
    """Size of a JSON value without what is binary in it: base64 of data: URIs and of values named "data"."""
    data = bytes(raw)
    size, at = len(data), 0
    while found := _BINARY_START.search(data, at):
        at = data.find(b'"', found.end())
        if at < 0:
            break
        size -= at - found.end()
    return size


def rewrite(ask: ParsedRequest, model: str, put: Mapping[str, Any] | None = None, name_field: str = "model") -> bytes:
    """The body a node may see: without extras, for `model`, with the fields of `put` set. All else byte for byte.

    Values that stay are copied as they were sent; only the space between top-level fields is lost, and of
    a field sent twice the last remains. A `metadata` left empty goes too. Raises BadRequest.
    """
    fields = read(ask.body, _FIELDS)
    if ask.has_extras:
        _drop_extras(fields)
    fields[name_field] = msgspec.Raw(msgspec.json.encode(model))
    for name, value in (put or {}).items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)


def _drop_extras(fields: dict[str, msgspec.Raw]) -> None:
    fields.pop("fallback_models", None)
    fields.pop("user", None)
    metadata = fields.get("metadata", ABSENT)
    if not _is_object(metadata):
        return
    inner = msgspec.json.decode(metadata, type=dict[str, msgspec.Raw])
    if inner.pop("tags", None) is None:
        return
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


def _metadata_tags(raw: msgspec.Raw) -> tuple[tuple[str, ...], bool]:
    """The tags and whether there was a `tags` at all. Metadata that is no object is none of ours."""
    if not _is_object(raw):
        return (), False
    tags = _value(raw, _METADATA, "metadata must be an object")
    if tags is None or not memoryview(tags.tags).nbytes:
        return (), False
    values = _value(tags.tags, _STRINGS, "metadata.tags must be a list of strings") or []
    return read_tags(values, "metadata.tags"), True


def _user(raw: msgspec.Raw) -> str:
    user = _value(raw, _STRING, "user must be a string") or ""
    if len(user) > USER_MAX_CHARS or _CONTROL.search(user):
        raise BadRequest(f"user: at most {USER_MAX_CHARS} characters, none of them control characters")
    return user


def _value(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Body], wrong: str) -> Body | None:
    if not memoryview(raw).nbytes:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(wrong) from None


def _is_object(raw: msgspec.Raw) -> bool:
    view = memoryview(raw)
    return view.nbytes > 0 and view[0] == ord("{")


class _Metadata(msgspec.Struct):
    tags: msgspec.Raw = ABSENT


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_METADATA = msgspec.json.Decoder(_Metadata)
_STRINGS = msgspec.json.Decoder(list[str] | None)
_STRING = msgspec.json.Decoder(str | None)


def _plain(text: str) -> str:
    """msgspec's "Expected `array | null`, got `str` - at `$.messages`" as "messages must be a list, not a string"."""
    at = _PATH.search(text)
    place = (at["path"] if at else "") or "the body"
    expected = _EXPECTED.search(text)
    if not expected:
        return f"{place}: {_PATH.sub('', text)}"
    wanted = [_in_words(kind) for kind in expected["wanted"].split(" | ") if kind != "null"]
    return f"{place} must be {' or '.join(wanted)}, not {_in_words(expected['got'])}"


def _in_words(kind: str) -> str:
    words = {
        "object": "an object",
        "array": "a list",
        "str": "a string",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
    }
    return words.get(kind, kind)
