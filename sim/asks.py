"""What clients want, with what only the world knows: how long the answer will be. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from herd.core.state.fleet import ModelName, canonical
from herd.core.state.request import Request, RequestId, RequestKind


@dataclass(slots=True, eq=False)
class SimRequest:
    """One wish of one client. `estimate` is the door's guess of `prompt_tokens`; `blocks` are the prompt's chained
    hashes, `BLOCK_TOKENS` tokens each; `client` names who comes back after the answer in a closed loop."""

    id: str
    at: float
    model: str
    prompt_tokens: int
    output_tokens: int
    estimate: int
    blocks: tuple[int, ...] = ()
    tag: str = ""
    is_embedding: bool = False
    wanted_window_tokens: int | None = None
    output_max: int | None = None
    client: int | None = None

    @property
    def name(self) -> ModelName:
        return canonical(self.model)


def request_of(ask: SimRequest) -> Request:
    """What the coordinator's door makes of it: features only, nothing that the client does not say."""
    return Request(
        RequestId(ask.id),
        ask.name,
        RequestKind.EMBED if ask.is_embedding else RequestKind.CHAT,
        prompt_tokens=ask.estimate,
        output_tokens_max=ask.output_max,
        wanted_window_tokens=ask.wanted_window_tokens,
        size_bytes=4 * ask.prompt_tokens + 200,
        tags=(ask.tag,) if ask.tag else (),
        model_as_asked=ask.model,
        prefix=ask.blocks,
    )
