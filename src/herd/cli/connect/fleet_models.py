"""Chooses the model for a client, and reads what the client's settings say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from herd.cli.client import CliError, CoordinatorClient, Json, KeyNeeded
from herd.core.state.fleet import canonical
from herd.text import BYTES_PER_GB

NAMES_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    name: str
    context_tokens: int
    capabilities: frozenset[str]
    size_bytes: int = 0
    is_loaded: bool = False


def listed_models(coordinator: CoordinatorClient) -> list[ListedModel]:
    """The models that answer chats. Raises CliError.

    A fleet that requires keys shows its lists only with one; on the coordinator's machine its status needs none.
    """
    try:
        return _from_lists(coordinator)
    except KeyNeeded as needed:
        try:
            return _from_status(coordinator.get("/fleet/status?detail=full"))
        except KeyNeeded:
            raise needed from None


def _answers_chats(capabilities: Sequence[str] | None) -> bool:
    """An engine that reports no capabilities (an old Ollama) may have a model that does."""
    return not capabilities or "completion" in capabilities


def _from_lists(coordinator: CoordinatorClient) -> list[ListedModel]:
    sizes = {canonical(one["name"]): int(one["size"]) for one in coordinator.get("/api/tags")["models"]}
    loaded = {canonical(one["name"]) for one in coordinator.get("/api/ps")["models"]}
    return [
        ListedModel(
            name=one["id"],
            context_tokens=int(one.get("context_length") or 0),
            capabilities=frozenset(one.get("capabilities") or ()),
            size_bytes=sizes.get(canonical(one["id"]), 0),
            is_loaded=canonical(one["id"]) in loaded,
        )
        for one in coordinator.get("/v1/models")["data"]
        if _answers_chats(one.get("capabilities"))
    ]


def _from_status(state: Json) -> list[ListedModel]:
    found: dict[str, ListedModel] = {}
    for one in (model for node in state["nodes"] if node["status"] == "online" for model in node["models"]):
        if not _answers_chats(one["capabilities"]):
            continue
        before = found.get(canonical(one["name"]))
        found[canonical(one["name"])] = ListedModel(
            name=one["name"],
            context_tokens=max(
                one["context_max"] or one["context_length"] or 0, before.context_tokens if before else 0
            ),
            capabilities=frozenset(one["capabilities"]),
            size_bytes=int(one["size_gb"] * BYTES_PER_GB),
            is_loaded=one["loaded"] or (before is not None and before.is_loaded),
        )
    return list(found.values())


def best(models: Iterable[ListedModel]) -> ListedModel | None:
    """The model for an agent: one that calls tools before others, then one in memory, then the largest."""
    return max(
        models, key=lambda one: ("tools" in one.capabilities, one.is_loaded, one.size_bytes, one.name), default=None
    )


def choose(coordinator: CoordinatorClient, wanted: str | None) -> ListedModel:
    """The wanted model, which may be an alias, or the best one. Raises CliError."""
    models = listed_models(coordinator)
    if wanted is None:
        found = best(model for model in models if model.size_bytes)
        if found is None:
            raise CliError("no node has a model that answers chats", "download one, for example: herd pull qwen3:8b")
        return found
    for model in models:
        if canonical(model.name) == canonical(wanted):
            return model
    return _alias(coordinator, wanted, models)


def _alias(coordinator: CoordinatorClient, name: str, models: Sequence[ListedModel]) -> ListedModel:
    try:
        _, shown = coordinator.post("/api/show", {"model": name})
    except KeyNeeded:
        raise
    except CliError as error:
        known = ", ".join(model.name for model in models[:NAMES_SHOWN_MAX]) or "none"
        raise CliError(f"no model is named {name}", f"the fleet has: {known}") from error
    return ListedModel(
        name=name, context_tokens=_window(shown), capabilities=frozenset(shown.get("capabilities") or ())
    )


def _window(shown: Json) -> int:
    windows = [value for key, value in (shown.get("model_info") or {}).items() if key.endswith(".context_length")]
    return int(windows[0]) if windows else 0
