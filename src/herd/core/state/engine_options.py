"""Defines the engine options that the coordinator sets in a request: context window, token limit, runner options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`window_tokens`: the context window to set; None: no window is set. `drops_options`: remove the client's runner
    options."""

    window_tokens: int | None = None
    drops_options: bool = False
    forbids_truncation: bool = False
    may_enlarge: bool = False
    """Whether a prompt that the engine rejects as too long may be retried with a larger context window."""
    output_tokens_max: int | None = None
    """The output token limit that replaces the client's limit; reasoning tokens count too."""
    drops_thinking: bool = False
    """A translation does not ask for thinking, because the model cannot. The engine's own endpoints decide
    themselves."""
    warning: str = ""
    """A warning for the client that its options may reload the model."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the request stays unchanged, so that its bytes can be passed through in any dialect."""
        return (
            self.window_tokens is None
            and self.output_tokens_max is None
            and not (self.drops_options or self.forbids_truncation)
        )
