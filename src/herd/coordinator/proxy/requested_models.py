"""Finds the models that may answer a request: the names in it, or what its aliases stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from herd.core.scheduling.aliases import Aliases, AliasSettings, Resolution, Wanted, is_cloud_name
from herd.core.state.fleet import Fleet, ModelName, canonical
from herd.errors import Refusal
from herd.protocols.conversation import ParsedRequest
from herd.trust.keys import ApiKey


class RequestedModels(NamedTuple):
    """The model of a request, and those that may answer instead.

    `alias_of` is empty if the request names a model, else what the alias stands for, for people.
    """

    model: ModelName
    fallbacks: tuple[ModelName, ...] = ()
    alias_of: str = ""
    may_download: bool = True


class ModelResolver:
    """The aliases in force. Lists of the fleet show them, unless the owner hides them."""

    def __init__(self, settings: AliasSettings, fleet: Fleet) -> None:
        self._fleet = fleet
        self.apply(settings)

    def apply(self, settings: AliasSettings) -> None:
        """Replaces all aliases."""
        self.aliases = Aliases(settings)
        shown = self.aliases.names if settings.are_listed else {}
        self._fleet.aliases = {name: tuple(map(canonical, targets)) for name, targets in shown.items()}
        self._fleet.listed_tiers, self._fleet.models_for = self.aliases.listed_tiers, self._models_for
        self._fleet.version += 1

    def _models_for(self, name: str) -> tuple[ModelName, ...]:
        resolution = self.aliases.resolve(Wanted(name), self._fleet)
        return resolution.targets if resolution is not None else ()

    def find(self, parsed: ParsedRequest, key: ApiKey | None, may_fall_back: bool | None = None) -> RequestedModels:
        """The models for this request, in the order in which they are tried.

        With `may_fall_back` False only the first one may answer.
        """
        asked = canonical(parsed.model)
        if not parsed.fallback_models and self.aliases.is_model(asked, self._fleet):
            return RequestedModels(asked)  # as nearly every request: nothing to download, and nothing else to try
        resolution = self._resolve(parsed, parsed.model, key)
        model, others = _preferred(parsed.model, resolution)
        for name in parsed.fallback_models:
            first, more = _preferred(name, self._resolve(parsed, name, key))
            others = (*others, first, *more)
        if may_fall_back is False:
            others = ()
        if resolution is None:
            return RequestedModels(model, others, "", not is_cloud_name(parsed.model))
        return RequestedModels(model, others, _description(resolution), may_download=False)

    def refusal(self, parsed: ParsedRequest, key: ApiKey) -> Refusal | None:
        """Why this key may not use one of the names. It may use an alias by its name, or by one of its models."""
        for name in (parsed.model, *parsed.fallback_models):
            if key.allows_model(canonical(name)):
                continue
            resolution = self._resolve(parsed, name, key)
            if resolution is None or not resolution.targets:
                message = f"key {key.name} is not allowed to use model {name[:80]}"
                return Refusal(403, "model_not_allowed", message)
        return None

    def _resolve(self, parsed: ParsedRequest, name: str, key: ApiKey | None) -> Resolution | None:
        wanted = Wanted(name, parsed.route.kind, parsed.needs, parsed.prompt_tokens)
        return self.aliases.resolve(wanted, self._fleet, _permission(key, name))


def _permission(key: ApiKey | None, name: str) -> Callable[[ModelName], bool]:
    if key is None or key.allows_model(canonical(name)):
        return bool
    return key.allows_model


def _preferred(name: str, resolution: Resolution | None) -> tuple[ModelName, tuple[ModelName, ...]]:
    """The preferred model and the others. Without a live one it is the first of the owner's, which may still appear."""
    if resolution is None:
        return canonical(name), ()
    models = resolution.targets or tuple(map(canonical, resolution.wanted)) or (canonical(name),)
    return models[0], models[1:]


def _description(resolution: Resolution) -> str:
    return f"{resolution.reason}: {', '.join(resolution.wanted)}" if resolution.wanted else resolution.reason
