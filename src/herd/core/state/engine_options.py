"""What the coordinator tells an engine beside the client's request: the context window, the token limit, runner options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What is said to the engine beside the request. `window_tokens` None: no window; `drops_options`: without the client's runner options."""

    window_tokens: int | None = None
    drops_options: bool = False
    forbids_cutting: bool = False
    may_enlarge: bool = False
    """Whether a prompt that is found too long may be asked again with a larger window."""
    output_tokens_max: int | None = None
    """How much may be written, where that is not what the client said: thoughts count too."""
    warning: str = ""
    """What the client is told of a reload that its options cause, where that is let happen."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing of the request changes, so that bytes can pass in any dialect."""
        return (
            self.window_tokens is None
            and self.output_tokens_max is None
            and not (self.drops_options or self.forbids_cutting)
        )
