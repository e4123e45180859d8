"""Recognises routers, which answer like engines: herd itself, ollama-herd, LiteLLM, Olla, GPUStack and PAIR.

An agent that announced one as an engine would count its models twice, or send requests around in a circle. A router of
herd's kind is never an engine. Another router is used only if the settings name its URL. A product that takes Ollama's
port and moves Ollama to another one answers as that Ollama: it is recognised by what it passes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from herd.core.state.fleet import ModelInfo
from herd.engines import EngineRequest, EngineResponse
from herd.protocols.openai import model_list

HERD = "herd"
FLEET_PROBE = EngineRequest("GET", "/fleet/limits")
"""No engine has this path. Ours answers with `http.body_max_bytes`, and both with `max_retries`."""
LIST = EngineRequest("GET", "/v1/models")
"""Shows the owners of the models of a server that was recognised by another path."""
PROXY = "a proxy that passes on what another Ollama of this machine has"
HEADERS: Mapping[str, str] = MappingProxyType({"x-litellm-": "LiteLLM", "x-olla-": "Olla", "x-pair-": "PAIR"})
"""The beginnings of headers that a router adds to its answers."""
OWNERS: Mapping[str, str] = MappingProxyType({"gpustack": "GPUStack", "olla": "Olla", "pair": "PAIR"})
"""`owned_by` of routers that list the models of other servers."""


def own_router(limits: EngineResponse) -> str:
    """The name of the router of herd's kind that answered `FLEET_PROBE`; empty if none did."""
    if limits.status in (401, 403) and "x-request-id" in limits.headers:
        return HERD
    if limits.status != 200:
        return ""
    try:
        found = msgspec.json.decode(limits.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
    if not isinstance(found, dict) or "max_retries" not in found:
        return ""
    return HERD if "http.body_max_bytes" in found else "ollama-herd"


def other_router(response: EngineResponse) -> str:
    """The name of the router that sent this answer to an engine's probe; empty for anything else."""
    by_header = (
        name for begin, name in HEADERS.items() if any(header.startswith(begin) for header in response.headers)
    )
    owners = {entry.owned_by for entry in model_list.entries(response.status, response.body)}
    by_owner = (name for owner, name in OWNERS.items() if owner in owners)
    return next(by_header, "") or next(by_owner, "")


def fronts(ollamas: Mapping[str, Sequence[ModelInfo]]) -> dict[str, str]:
    """The URLs of proxies among these servers, with the URL of the Ollama that each of them passes on.

    Two Ollamas may share a folder and list the same files, but the times at which each will unload its models differ
    (in nanoseconds). So nothing is known before a model is in memory. Of two that are equal, the first is the proxy: it
    is the one on Ollama's own port.
    """
    found: dict[str, str] = {}
    for url, models in ollamas.items():
        for other, behind in ollamas.items():
            if other != url and found.get(other) != url and _passes_on(models, behind):
                found.setdefault(url, other)
    return found


def _passes_on(models: Sequence[ModelInfo], behind: Sequence[ModelInfo]) -> bool:
    in_memory = _unload_times(behind)
    return bool(in_memory) and in_memory <= _unload_times(models) and _files(behind) <= _files(models)


def _files(models: Sequence[ModelInfo]) -> set[tuple[str, str]]:
    return {(model.name, model.digest) for model in models}


def _unload_times(models: Sequence[ModelInfo]) -> set[tuple[str, str]]:
    return {(model.name, model.loaded.expires_at) for model in models if model.loaded and model.loaded.expires_at}
