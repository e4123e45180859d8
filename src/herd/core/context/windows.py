"""Which window a request is given on its node, so that no client's option reloads a model and no prompt is cut in silence. Sends nothing.

Ollama starts a runner anew whenever a request's options differ from those it was started with, also when the window wanted is smaller, and
when a request says nothing while the window was chosen by somebody (server/sched.go, needsReload; measured with 0.32.15). The window
that is loaded, said exactly, never does. A prompt beyond the window is cut without a word unless `truncate` is false; then it is refused
with 400 and both numbers, which is how a wrong estimate is found out before anybody sees an answer to half a question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId
from herd.core.state.request import Request, RequestKind

WINDOW_MIN_TOKENS = 4096
"""What every version since 0.6.7 gives at least; nothing smaller is asked for on anybody's behalf."""
MARGIN = 1.1
NEAR = 1.5
"""An estimate is not trusted to fit where half as much again would not."""
ANSWER_TOKENS = 512
"""Room kept for an answer whose length nobody bounded."""
ANSWER_MAX_TOKENS = 4096
"""More room than this is not kept for an answer that may be longer: most are not."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    protection: str = field(
        default="strip",
        metadata={
            "env": "FLEET_CONTEXT_PROTECTION",
            "choices": ("strip", "warn", "passthrough"),
            "help": (
                "Client options that would reload a model, e.g. num_ctx: strip "
                "replaces, warn reports, passthrough keeps them."
            ),
        },
    )
    overflow: str = field(
        default="enlarge",
        metadata={
            "env": "FLEET_CONTEXT_OVERFLOW",
            "choices": ("enlarge", "strict", "cut"),
            "help": (
                "Prompt larger than the context window: enlarge reloads, strict "
                "refuses with 400, cut lets the engine truncate."
            ),
        },
    )
    dynamic: bool = field(
        default=False,
        metadata={
            "env": "FLEET_DYNAMIC_NUM_CTX",
            "help": "When a model is loaded anyway, raise a context window that is too small for its actual use.",
        },
    )
    auto_calculate: bool = field(
        default=False,
        metadata={
            "env": "FLEET_NUM_CTX_AUTO_CALCULATE",
            "help": "With FLEET_DYNAMIC_NUM_CTX: also reduce context windows that are too large, to free memory.",
        },
    )


class Windows:
    """Also learns, per node and model, which window the engine chooses by itself: there, saying nothing is as good."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings = settings
        self._automatic: dict[tuple[NodeId, ModelName], int] = {}
        self._loading: dict[tuple[NodeId, ModelName], bool] = {}
        """Loads that we caused, and whether they were left to the engine's own choice."""

    # --- learning ---

    def loads(self, node_id: NodeId, model: ModelName, is_automatic: bool) -> None:
        """We are about to have it loaded."""
        self._loading[node_id, model] = is_automatic

    def apply_heartbeat(self, node: Node) -> None:
        """A heartbeat tells what has become of our loads."""
        for model, loaded in node.loaded.items():
            if self._loading.pop((node.id, model), False) and loaded.window_tokens:
                self._automatic[node.id, model] = loaded.window_tokens

    def forget(self, node_id: NodeId) -> None:
        for known in (self._automatic, self._loading):
            for key in [key for key in known if key[0] == node_id]:
                del known[key]

    # --- deciding ---

    def needed(self, request: Request, prompt_tokens: float) -> int | None:
        """The window in which it surely fits, where that is more than any node gives; else what the client asked for."""
        if request.kind not in (RequestKind.CHAT, RequestKind.GENERATE) or self._settings.overflow == "cut":
            return request.window_tokens
        need = need_tokens(prompt_tokens, request.output_tokens_max)
        return max(need, request.window_tokens or 0) if need > WINDOW_MIN_TOKENS else request.window_tokens

    def engine_options(
        self,
        request: Request,
        node_id: NodeId,
        model: ModelName,
        card: ModelInfo,
        prompt_tokens: float,
        chosen_tokens: int | None = None,
    ) -> EngineOptions | None:
        """None where the request can go as it is. `chosen_tokens` is the window that the model's use asks for, if it is to be loaded."""
        settings = self._settings
        is_strict = settings.overflow == "strict"
        if not card.engine.abilities.takes_window or request.kind is RequestKind.INFO:
            return None
        if request.kind is RequestKind.EMBED or settings.protection == "passthrough":
            return EngineOptions(forbids_cutting=True) if is_strict else None
        window, is_kept = self._window(request, node_id, model, card, chosen_tokens)
        if settings.protection == "warn":
            return self._warned(request, card, is_kept)
        expected = window or WINDOW_MIN_TOKENS
        forbids = is_strict or (settings.overflow == "enlarge" and prompt_tokens * NEAR > expected)
        if is_kept and not request.has_runner_options and not forbids:
            return None
        return EngineOptions(window, request.has_runner_options, forbids, forbids and settings.overflow == "enlarge")

    def _window(
        self, request: Request, node_id: NodeId, model: ModelName, card: ModelInfo, chosen_tokens: int | None
    ) -> tuple[int | None, bool]:
        """The window to say, and whether the request, sent as it is, comes to the same."""
        wanted, sent = request.wanted_window_tokens or 0, request.window_tokens or 0
        loaded = card.loaded.window_tokens if card.loaded is not None else None
        if not loaded:
            chosen = self._applied(node_id, model, chosen_tokens)
            if wanted <= max(sent, chosen or WINDOW_MIN_TOKENS):
                return (chosen, False) if chosen is not None and chosen > sent else (sent or None, True)
            return rounded(wanted, card.context_max_tokens), False
        most = card.context_max_tokens or math.inf
        if min(wanted, most) <= loaded or (self._settings.overflow == "strict" and sent <= loaded):
            return loaded, sent == loaded or (not sent and self._is_automatic(node_id, model, card, loaded))
        return (sent, True) if sent >= wanted else (rounded(wanted, card.context_max_tokens), False)

    def _applied(self, node_id: NodeId, model: ModelName, chosen_tokens: int | None) -> int | None:
        """The window that the model's use asks for, where settings let it be said."""
        if not self._settings.dynamic or chosen_tokens is None:
            return None
        own = self._automatic.get((node_id, model), WINDOW_MIN_TOKENS)
        return chosen_tokens if self._settings.auto_calculate or chosen_tokens > own else None

    def _is_automatic(self, node_id: NodeId, model: ModelName, card: ModelInfo, loaded: int) -> bool:
        """Whether the engine chose this window by itself; where nobody knows it is said, which does no harm."""
        told = card.loaded.context_explicit if card.loaded is not None else None
        return told is False or self._automatic.get((node_id, model)) == loaded

    def _warned(self, request: Request, card: ModelInfo, is_kept: bool) -> EngineOptions | None:
        is_strict = self._settings.overflow == "strict"
        if (is_kept and not request.has_runner_options) or card.loaded is None:
            return EngineOptions(forbids_cutting=True) if is_strict else None
        what = (
            "its options differ from"
            if request.has_runner_options
            else f"num_ctx {request.window_tokens or 'unsaid'} differs from"
        )
        told = f"{what} the loaded runner's (window {card.loaded.window_tokens}): the model may be loaded anew"
        return EngineOptions(forbids_cutting=is_strict, warning=told)


def need_tokens(prompt_tokens: float, output_tokens_max: int | None) -> int:
    """Prompt with a margin, and room for the answer."""
    answer = min(output_tokens_max, ANSWER_MAX_TOKENS) if output_tokens_max else ANSWER_TOKENS
    return math.ceil(prompt_tokens * MARGIN) + answer


def cutting_window(pin: EngineOptions | None, request: Request, card: ModelInfo) -> int | None:
    """The window beyond which its prompt is cut without a word; None where it would be refused, or nobody knows the window."""
    if not card.engine.abilities.takes_window or (pin is not None and pin.forbids_cutting):
        return None
    said = pin.window_tokens if pin is not None and pin.window_tokens is not None else request.window_tokens
    return said or (card.loaded.window_tokens if card.loaded is not None else None)


def was_cut(expected_tokens: float, counted_tokens: int | None, window: int | None) -> bool:
    """Whether an engine has read less than it was sent: more was expected than the window holds, and clearly less was counted."""
    if window is None or counted_tokens is None:
        return False
    return expected_tokens > window >= counted_tokens and counted_tokens * MARGIN < expected_tokens


def rounded(tokens: int, most: int | None) -> int:
    """The next power of two, so that few sizes are ever loaded; no larger than the model was trained for."""
    size: int = max(WINDOW_MIN_TOKENS, 1 << max(0, tokens - 1).bit_length())
    return min(size, most) if most else size
