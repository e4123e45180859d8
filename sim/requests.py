"""Defines a simulated request, which includes what only the simulation knows: the length of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from herd.core.state.fleet import ModelName, canonical
from herd.core.state.request import Request, RequestId, RequestKind


@dataclass(slots=True, eq=False, kw_only=True)
class SimRequest:
    """`estimate` is the coordinator's estimate of `prompt_tokens`; `blocks` are the prompt's chained hashes, one for
    each `BLOCK_TOKENS` tokens; `client` is the client of a closed loop that sends its next request after this
    answer."""

    id: str
    at: float
    model: str
    prompt_tokens: int
    output_tokens: int
    estimate: int
    blocks: tuple[int, ...] = ()
    tag: str = ""
    user: str = ""
    """The user of a chat server that sends it; its users share one API key."""
    is_embedding: bool = False
    wanted_window_tokens: int | None = None
    output_max: int | None = None
    client: int | None = None

    @property
    def name(self) -> ModelName:
        return canonical(self.model)


def core_request(request: SimRequest) -> Request:
    """The request as the coordinator sees it: only what the client sends, and estimates."""
    return Request(
        id=RequestId(request.id),
        model=request.name,
        kind=RequestKind.EMBED if request.is_embedding else RequestKind.CHAT,
        prompt_tokens=request.estimate,
        output_tokens_max=request.output_max,
        wanted_window_tokens=request.wanted_window_tokens,
        size_bytes=4 * request.prompt_tokens + 200,
        tags=(request.tag,) if request.tag else (),
        tenant="key chat" if request.user else "",
        member=request.user,
        user=request.user,
        requested_name=request.model,
        prefix=request.blocks,
    )
