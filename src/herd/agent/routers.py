"""Recognises routers, which answer like engines: herd itself, ollama-herd, LiteLLM, Olla and GPUStack.

An agent that announced one as an engine would count its models twice, or send requests around in a circle. A router of
herd's kind is never an engine. Another router is used only if the settings name its URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from herd.engines import EngineRequest, EngineResponse
from herd.protocols.openai import model_list

HERD = "herd"
FLEET_PROBE = EngineRequest("GET", "/fleet/limits")
"""No engine has this path. Ours answers with `http.body_max_bytes`, and both with `max_retries`."""
HEADERS: Mapping[str, str] = MappingProxyType({"x-litellm-": "LiteLLM", "x-olla-": "Olla"})
"""The beginnings of headers that a router adds to its answers."""
OWNERS: Mapping[str, str] = MappingProxyType({"gpustack": "GPUStack", "olla": "Olla"})
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
