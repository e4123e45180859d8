"""Chooses the context window of a request; avoids needless reloads of models and silent truncation of prompts.

Ollama restarts a runner whenever a request's options differ from those of the loaded runner: also if the wanted window
is smaller, and if the request has no window while the loaded one was set explicitly (server/sched.go, needsReload;
measured with 0.32.15). A request with exactly the loaded window never reloads. A prompt larger than the window is
silently truncated unless `truncate` is false; then Ollama refuses it with 400 and both numbers, so a wrong estimate is
noticed before a client gets an answer to half a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId
from herd.core.state.request import Request, RequestKind

WINDOW_MIN_TOKENS = 4096
"""The least default window of every Ollama since 0.6.7; the coordinator never sets a smaller one."""
MARGIN = 1.1
TOKENS_PER_ESTIMATED_TOKEN_MAX = 4
"""The estimate is one token for four bytes, and a token has at least one byte. Truncation is forbidden if the prompt
might not fit into the window in this worst case, which tokenizers reach with some scripts, code and digits."""
ANSWER_TOKENS = 512
"""Tokens reserved for an answer without a limit."""
ANSWER_MAX_TOKENS = 4096
"""Most tokens that are reserved for an answer with a larger limit: most answers are shorter."""


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
    """Also learns the window that the engine chooses by default, for each node and model: a request may omit that
    one."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings = settings
        self._automatic: dict[tuple[NodeId, ModelName], int] = {}
        self._loading: dict[tuple[NodeId, ModelName], bool] = {}
        """Loads that this coordinator causes, and whether the engine chooses the window."""
        self._sent: dict[tuple[NodeId, ModelName], int] = {}
        """Windows that were sent since the node's last heartbeat, which shows them only later."""

    # --- learning ---

    def record_load(self, node_id: NodeId, model: ModelName, is_automatic: bool) -> None:
        """An attempt is about to load the model."""
        self._loading[node_id, model] = is_automatic

    def record_window(self, node_id: NodeId, model: ModelName, window_tokens: int) -> None:
        """An attempt is sent with this window. Other requests keep it until the next heartbeat."""
        self._sent[node_id, model] = window_tokens

    def apply_heartbeat(self, node: Node) -> None:
        """Learns the windows of finished loads from a heartbeat."""
        for model in node.report.models:
            self._sent.pop((node.id, model), None)
        for model, loaded in node.loaded.items():
            if self._loading.pop((node.id, model), False) and loaded.window_tokens:
                self._automatic[node.id, model] = loaded.window_tokens

    def forget(self, node_id: NodeId) -> None:
        for known in (self._automatic, self._loading, self._sent):
            for key in [key for key in known if key[0] == node_id]:
                del known[key]

    # --- deciding ---

    def needed(self, request: Request, prompt_tokens: float) -> int | None:
        """The window into which the request surely fits, if it is larger than the default; else the window of the
        client's options."""
        if request.kind not in (RequestKind.CHAT, RequestKind.GENERATE) or self._settings.overflow == "cut":
            return request.window_tokens
        need = need_tokens(prompt_tokens, request.output_tokens_max)
        return max(need, request.window_tokens or 0) if need > WINDOW_MIN_TOKENS else request.window_tokens

    def engine_options(
        self,
        request: Request,
        node_id: NodeId,
        model: ModelName,
        model_info: ModelInfo,
        prompt_tokens: float,
        chosen_tokens: int | None = None,
    ) -> EngineOptions | None:
        """None if the request can be sent unchanged. `chosen_tokens` is the window by use, for a model that has to be
        loaded."""
        settings = self._settings
        is_strict = settings.overflow == "strict"
        if not model_info.engine.abilities.takes_window or request.kind is RequestKind.INFO:
            return None
        if request.kind is RequestKind.EMBED or settings.protection == "passthrough":
            return EngineOptions(forbids_truncation=True) if is_strict else None
        window, is_kept = self._window(request, node_id, model, model_info, chosen_tokens)
        if settings.protection == "warn":
            return self._warned(request, model_info, is_kept)
        expected = window or WINDOW_MIN_TOKENS
        tokens_max = max(prompt_tokens, request.prompt_tokens * TOKENS_PER_ESTIMATED_TOKEN_MAX)
        forbids_truncation = is_strict or (settings.overflow == "enlarge" and tokens_max > expected)
        if is_kept and not request.has_runner_options and not forbids_truncation:
            return None
        return EngineOptions(
            window,
            request.has_runner_options,
            forbids_truncation,
            may_enlarge=forbids_truncation and settings.overflow == "enlarge",
        )

    def _window(
        self, request: Request, node_id: NodeId, model: ModelName, model_info: ModelInfo, chosen_tokens: int | None
    ) -> tuple[int | None, bool]:
        """The window to set, and whether the unchanged request has the same effect."""
        wanted, sent = request.wanted_window_tokens or 0, request.window_tokens or 0
        loaded = model_info.loaded.window_tokens if model_info.loaded is not None else None
        loaded = self._sent.get((node_id, model), loaded)
        if not loaded:
            chosen = self._applied(node_id, model, chosen_tokens)
            if wanted <= max(sent, chosen or WINDOW_MIN_TOKENS):
                return (chosen, False) if chosen is not None and chosen > sent else (sent or None, True)
            return round_up_window(wanted, model_info.context_max_tokens), False
        most = model_info.context_max_tokens or math.inf
        if min(wanted, most) <= loaded or (self._settings.overflow == "strict" and sent <= loaded):
            return loaded, sent == loaded or (not sent and self._is_automatic(node_id, model, model_info, loaded))
        return (sent, True) if sent >= wanted else (round_up_window(wanted, model_info.context_max_tokens), False)

    def _applied(self, node_id: NodeId, model: ModelName, chosen_tokens: int | None) -> int | None:
        """The window by use, if the settings allow it."""
        if not self._settings.dynamic or chosen_tokens is None:
            return None
        own = self._automatic.get((node_id, model), WINDOW_MIN_TOKENS)
        return chosen_tokens if self._settings.auto_calculate or chosen_tokens > own else None

    def _is_automatic(self, node_id: NodeId, model: ModelName, model_info: ModelInfo, loaded: int) -> bool:
        """Whether the engine chose this window by default. If that is unknown, the window is set, which does no
        harm."""
        if (node_id, model) in self._sent:
            return False
        is_explicit = model_info.loaded.context_explicit if model_info.loaded is not None else None
        return is_explicit is False or self._automatic.get((node_id, model)) == loaded

    def _warned(self, request: Request, model_info: ModelInfo, is_kept: bool) -> EngineOptions | None:
        is_strict = self._settings.overflow == "strict"
        if (is_kept and not request.has_runner_options) or model_info.loaded is None:
            return EngineOptions(forbids_truncation=True) if is_strict else None
        difference = (
            "its options differ from"
            if request.has_runner_options
            else f"num_ctx {request.window_tokens or '(not set)'} differs from"
        )
        window_tokens = model_info.loaded.window_tokens
        warning = f"{difference} the loaded model's (context window {window_tokens}): the model may be reloaded"
        return EngineOptions(forbids_truncation=is_strict, warning=warning)


def largest_window(models: Iterable[ModelInfo]) -> int | None:
    """The largest context window that a request for this model can get on any of its nodes; None if unknown.

    An engine that takes no window from a request serves a loaded model only with the window of the load.
    """
    windows = []
    for model in models:
        is_fixed = model.loaded is not None and not model.engine.abilities.takes_window
        loaded_tokens = model.loaded.window_tokens if model.loaded is not None else None
        windows.append((loaded_tokens if is_fixed else None) or model.context_max_tokens)
    return max((tokens for tokens in windows if tokens is not None), default=None)


def need_tokens(prompt_tokens: float, output_tokens_max: int | None) -> int:
    """The prompt with a margin, and space for the answer."""
    answer = min(output_tokens_max, ANSWER_MAX_TOKENS) if output_tokens_max else ANSWER_TOKENS
    return math.ceil(prompt_tokens * MARGIN) + answer


def truncation_limit_tokens(options: EngineOptions | None, request: Request, model_info: ModelInfo) -> int | None:
    """The engine silently truncates a prompt with more tokens; None if it refuses such a prompt, or if its window is
    unknown."""
    if not model_info.engine.abilities.takes_window or (options is not None and options.forbids_truncation):
        return None
    set_tokens = (
        options.window_tokens if options is not None and options.window_tokens is not None else request.window_tokens
    )
    return set_tokens or (model_info.loaded.window_tokens if model_info.loaded is not None else None)


def was_truncated(expected_tokens: float, counted_tokens: int | None, limit_tokens: int | None) -> bool:
    """Whether the engine truncated the prompt: more tokens were expected than the limit, and clearly fewer counted."""
    if limit_tokens is None or counted_tokens is None:
        return False
    return expected_tokens > limit_tokens >= counted_tokens and counted_tokens * MARGIN < expected_tokens


def round_up_window(tokens: int, context_max_tokens: int | None) -> int:
    """The next power of two, so that few different sizes are loaded; at most what the model was trained for."""
    size: int = max(WINDOW_MIN_TOKENS, 1 << max(0, tokens - 1).bit_length())
    return min(size, context_max_tokens) if context_max_tokens else size
