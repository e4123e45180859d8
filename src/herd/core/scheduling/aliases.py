"""Resolves the name that a client requests to the models of the fleet that may answer it.

A name that the owner has defined as an alias maps to an ordered list of models; a pattern does the same for all names
that no node has. Clients with built-in names of cloud models (Claude Code, Codex) are answered without a definition:
these names are sorted into three tiers, and each tier gets models by their size, capabilities and what is in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from herd.core.state.capabilities import THINKING
from herd.core.state.fleet import GB, Fleet, Liveness, ModelInfo, ModelName, canonical
from herd.core.state.model_names import is_model_name, without_local
from herd.core.state.request import RequestKind

ALIASES_MAX = 256
TARGETS_MAX = 16
TIER_TARGETS_MAX = 8
COPIES_READ_MAX = 16
"""Nodes whose copy of a model is read to judge the model, so that a large fleet does not slow down a request."""
ALIAS_SEPARATOR, TARGET_SEPARATOR = "=", "|"
MLX_PREFIX = "mlx:"
"""ollama-herd lists the model X of a server of mlx-lm as `mlx:X`."""

CLOUD_NAMES = ("claude*", "gpt-*", "chatgpt-*", "o[1-9]", "o[1-9]-*", "gemini-*", "grok-*")
"""Names of models that exist only in a cloud, so they are never downloaded."""
OPEN_MODELS = ("gpt-oss*", "gpt-neo*", "gpt-j*", "gpt-sw3*")
"""Names like those of cloud models that belong to models with open weights."""
TIERED_NAMES = ("claude*", "gpt-*", "chatgpt-*", "o[1-9]", "o[1-9]-*")
"""Names of cloud models that clients have built in: they get a tier without a definition."""
CLAUDE_NAMES = ("claude-opus", "claude-sonnet", "claude-haiku")
LISTED_NAMES = (*CLAUDE_NAMES, "gpt-5", "gpt-5-mini")
"""A name of each tier, as lists show it. Programs with names of their own do not look for them in lists, except for
those of Anthropic: Claude Code offers the listed names that begin with claude."""
ANTHROPIC, ALL_LISTS, NO_LIST = "anthropic", "all", "none"
LISTS = (ANTHROPIC, "openai", "ollama")
"""The APIs that have a list of models."""
MAP_DEFAULT = "default"
"""The key of FLEET_ANTHROPIC_MODEL_MAP for all other names of Anthropic's models."""
PARAMETERS_USEFUL_MIN = 5e8
"""Smaller models (drafts for speculative decoding, test models) answer for a tier only if there is no other."""
BYTES_PER_PARAMETER = 0.6
"""Of a model that is quantized to four bits, for models whose engine reports no number of parameters."""
_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT])", re.IGNORECASE)
_POWERS: Mapping[str, float] = MappingProxyType({"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12})
_PATTERN = re.compile(r"[*?\[]")


class Tier(Enum):
    """What a name of a cloud model promises: quality, balance or speed. The values are shown to people."""

    LARGE = "large"
    BALANCED = "balanced"
    SMALL = "small"


_TIER_WORDS: Sequence[tuple[Tier, frozenset[str]]] = (
    (Tier.SMALL, frozenset(("haiku", "mini", "nano", "instant", "lite", "spark"))),
    (Tier.LARGE, frozenset(("opus", "pro", "max", "o1", "o3"))),
)


@dataclass(frozen=True, slots=True)
class AliasSettings:
    """Other names for models."""

    table: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_ALIASES",
            "help": "Other names for models: NAME=MODEL|MODEL, the first available one answers. "
            "NAME may be a pattern (claude-opus-*).",
        },
    )
    anthropic_map: str = field(
        default="",
        metadata={
            "env": "FLEET_ANTHROPIC_MODEL_MAP",
            "help": "Further aliases as a JSON object of names and models, as in ollama-herd; FLEET_ALIASES wins.",
        },
    )
    has_tiers: bool = field(
        default=True,
        metadata={
            "env": "FLEET_ALIAS_TIERS",
            "help": "Answer names of cloud models (claude-*, gpt-*) with a model of the fleet: by size, capabilities "
            "and what is in memory.",
        },
    )
    are_listed: bool = field(
        default=True, metadata={"env": "FLEET_ALIASES_LISTED", "help": "Show aliases in lists of models."}
    )

    tiers_listed: str = field(
        default=ANTHROPIC,
        metadata={
            "env": "FLEET_ALIAS_TIERS_LISTED",
            "help": "Lists of models that show names of cloud models (claude-opus): Anthropic's, all APIs' or none.",
            "choices": (ANTHROPIC, ALL_LISTS, NO_LIST),
        },
    )

    def __post_init__(self) -> None:
        parse_table(self.table)
        parse_map(self.anthropic_map)


Targets = tuple[str, ...]


def parse_table(entries: Iterable[str]) -> dict[str, Targets]:
    """The models of each alias, in the owner's spelling. Raises `ValueError` with a sentence."""
    found: dict[str, Targets] = {}
    for entry in entries:
        name, separator, rest = entry.partition(ALIAS_SEPARATOR)
        targets = tuple(part.strip() for part in rest.split(TARGET_SEPARATOR) if part.strip())
        name = name.strip()
        if not separator or not name or not targets:
            raise ValueError(f"FLEET_ALIASES: {entry[:80]!r} is not NAME=MODEL or NAME=MODEL|MODEL")
        _check(name, targets, "FLEET_ALIASES")
        found[name] = targets
    if len(found) > ALIASES_MAX:
        raise ValueError(f"FLEET_ALIASES: at most {ALIASES_MAX} aliases, not {len(found)}")
    return found


def parse_map(text: str) -> dict[str, Targets]:
    """The same for FLEET_ANTHROPIC_MODEL_MAP. Raises `ValueError` with a sentence."""
    if not text.strip():
        return {}
    try:
        sent = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ValueError(f"FLEET_ANTHROPIC_MODEL_MAP: expected a JSON object of names and models: {error}") from None
    if len(sent) > ALIASES_MAX:
        raise ValueError(f"FLEET_ANTHROPIC_MODEL_MAP: at most {ALIASES_MAX} names, not {len(sent)}")
    found: dict[str, Targets] = {
        ("claude*" if name == MAP_DEFAULT else name): (model,) for name, model in sent.items() if model.strip()
    }
    for name, targets in found.items():
        _check(name, targets, "FLEET_ANTHROPIC_MODEL_MAP")
    return found


def format_entry(name: str, targets: Sequence[str]) -> str:
    """An entry of FLEET_ALIASES. Raises `ValueError` for names that cannot be in it."""
    if any(character in text for text in (name, *targets) for character in (ALIAS_SEPARATOR, TARGET_SEPARATOR, ",")):
        raise ValueError("the names of an alias must not contain = | or a comma")
    entry = f"{name}{ALIAS_SEPARATOR}{TARGET_SEPARATOR.join(targets)}"
    parse_table((entry,))
    return entry


def _check(name: str, targets: Targets, setting: str) -> None:
    if len(targets) > TARGETS_MAX:
        raise ValueError(f"{setting}: {name} has {len(targets)} models; at most {TARGETS_MAX}")
    for each in (name, *targets):
        if not is_model_name(each):
            raise ValueError(f"{setting}: {each[:80]!r} is not the name of a model")


def is_cloud_name(name: str) -> bool:
    """Whether a model of this name exists only in a cloud. A name with a tag or a namespace belongs to a registry."""
    lower = name.lower()
    if ":" in lower or "/" in lower or _matches(lower, OPEN_MODELS):
        return False
    return _matches(lower, CLOUD_NAMES)


def tier_of(name: str) -> Tier | None:
    """The tier of a cloud model's name; None for every other name."""
    if not is_cloud_name(name) or not _matches(name.lower(), TIERED_NAMES):
        return None
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((tier for tier, known in _TIER_WORDS if words & known), Tier.BALANCED)


class Resolution(NamedTuple):
    """The models that answer for an alias, the preferred one first; empty if none of them is in the fleet.

    `wanted` are the models that the owner named, live or not; `reason` is for people.
    """

    targets: tuple[ModelName, ...]
    reason: str
    wanted: Targets = ()


class Wanted(NamedTuple):
    """What a request asks of the model that answers it."""

    name: str
    kind: RequestKind = RequestKind.CHAT
    needs: frozenset[str] = frozenset()
    prompt_tokens: int = 0


class Aliases:
    """The aliases of one set of settings."""

    def __init__(self, settings: AliasSettings) -> None:
        self.defined: Mapping[str, Targets] = {**parse_map(settings.anthropic_map), **parse_table(settings.table)}
        """The models of each name and pattern, as the owner wrote them."""
        self.has_tiers = settings.has_tiers
        self.are_listed = settings.are_listed
        self._tiers_listed = settings.tiers_listed if settings.are_listed else NO_LIST
        self._names = {canonical(name): name for name in self.defined if not _PATTERN.search(name)}
        patterns = [name for name in self.defined if _PATTERN.search(name)]
        self._patterns = sorted(patterns, key=lambda name: (-len(_PATTERN.split(name)[0]), name))
        """Patterns; the one with the longest beginning first."""

    @property
    def names(self) -> Mapping[ModelName, Targets]:
        """The aliases that are no patterns, by canonical name."""
        return {key: self.defined[name] for key, name in self._names.items()}

    @property
    def listed_tiers(self) -> Mapping[str, Sequence[str]]:
        """The names of cloud models that the list of each API shows, while a model answers for them."""
        if self._tiers_listed == ALL_LISTS:
            return dict.fromkeys(LISTS, LISTED_NAMES)
        return {ANTHROPIC: CLAUDE_NAMES} if self._tiers_listed == ANTHROPIC else {}

    def is_model(self, name: ModelName, fleet: Fleet) -> bool:
        """Whether this is the name of a model of the fleet, and not an alias, which would win."""
        return name not in self._names and fleet.knows(name)

    def resolve(self, wanted: Wanted, fleet: Fleet, may_use: Callable[[ModelName], bool] = bool) -> Resolution | None:
        """The models that answer instead of the requested name; None if the name is that of a model.

        `may_use` is whether the client's key allows a model.
        """
        key = canonical(wanted.name)
        if self.is_model(key, fleet) or not (wanted.name or key in self._names):
            return None
        defined = self._names.get(key)
        if defined is None:
            defined = self._pattern(wanted.name.lower())
        if defined is not None:
            targets = self.defined[defined]
            live = tuple(name for each in targets if fleet.knows(name := canonical(each)) and may_use(name))
            return Resolution(live, f"alias {defined}", targets)
        if (marked := _without_mark(wanted.name)) is not None and fleet.knows(name := canonical(marked[0])):
            return Resolution((name,) if may_use(name) else (), marked[1], (name,))
        tier = tier_of(wanted.name) if self.has_tiers and wanted.kind is not RequestKind.EMBED else None
        return None if tier is None else Resolution(_tier(tier, wanted, fleet, may_use), f"{tier.value} model")

    def without_models(self, fleet: Fleet) -> dict[str, Targets]:
        """The aliases of which no model is in the fleet, with the models that the owner named."""
        return {
            name: targets
            for name, targets in sorted(self.defined.items())
            if not any(fleet.knows(canonical(target)) for target in targets)
        }

    def _pattern(self, name: str) -> str | None:
        return next((pattern for pattern in self._patterns if fnmatchcase(name, pattern.lower())), None)


def _without_mark(name: str) -> tuple[str, str] | None:
    """The name without what only says where its model is, and what that says."""
    if name.startswith(MLX_PREFIX):
        return name.removeprefix(MLX_PREFIX), "a model of mlx-lm"
    local = without_local(name)
    return None if local == name else (local, "a model on a node, not in a cloud")


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: ModelName
    parameters: float
    is_loaded: bool
    is_able: bool
    """Whether the model is reported to have everything that the request needs, not only unknown."""


def _tier(tier: Tier, wanted: Wanted, fleet: Fleet, may_use: Callable[[ModelName], bool]) -> tuple[ModelName, ...]:
    found = [one for name in fleet.model_names if may_use(name) and (one := _candidate(name, wanted, fleet))]
    useful = [one for one in found if one.parameters >= PARAMETERS_USEFUL_MIN] or found
    able = [one for one in useful if one.is_able] or useful
    ranked = sorted(able, key=lambda one: (one.parameters, one.name))
    count = len(ranked)
    third = math.ceil(count / 3)
    own = {
        Tier.SMALL: ranked[:third],
        Tier.BALANCED: ranked[count // 3 : count - count // 3],
        Tier.LARGE: ranked[count - third :],
    }[tier]
    is_upward = tier is not Tier.SMALL
    chosen = sorted(
        own, key=lambda one: (not one.is_loaded, -one.parameters if is_upward else one.parameters, one.name)
    )
    rest = [one for one in ranked if one not in own]
    middle = own[-1].parameters if own else 0.0
    others = sorted(rest, key=lambda one: (abs(one.parameters - middle), one.name))
    return tuple(one.name for one in (*chosen, *others)[:TIER_TARGETS_MAX])


def _candidate(name: ModelName, wanted: Wanted, fleet: Fleet) -> _Candidate | None:
    """The model, if a node that is not offline could answer with it."""
    copies = [
        model_info
        for node in islice(fleet.with_model(name), COPIES_READ_MAX)
        if node.liveness is not Liveness.OFFLINE
        and (model_info := node.model_info(name)) is not None
        and _may_answer(model_info, wanted)
    ]
    if not copies:
        return None
    return _Candidate(
        name,
        max(map(_parameters, copies)),
        any(model_info.loaded is not None for model_info in copies),
        any(wanted.needs - {THINKING} <= model_info.capabilities for model_info in copies),
    )


def _may_answer(model_info: ModelInfo, wanted: Wanted) -> bool:
    capabilities = model_info.capabilities
    if capabilities and "completion" not in capabilities:
        return False
    window = model_info.context_max_tokens
    if window is not None and wanted.prompt_tokens > window:
        return False
    return not (wanted.needs - {THINKING}) & model_info.lacks


def _parameters(model_info: ModelInfo) -> float:
    """The number of parameters, or an estimate from the size of the file."""
    match = _PARAMETERS.match(model_info.parameters.strip())
    if match is not None:
        return float(match[1]) * _POWERS[match[2].upper()]
    size_bytes = model_info.size_bytes or (model_info.loaded.size_bytes if model_info.loaded is not None else 0)
    return size_bytes / BYTES_PER_PARAMETER if size_bytes else float(GB)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return _any_of(patterns).match(name) is not None


@lru_cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns: the name of every request is compared with them."""
    return re.compile("|".join(map(translate, patterns)))
