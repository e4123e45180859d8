"""Plans what a scripted engine does for one request: words, thinking, a silence, a call, and how the answer ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.faults.answers import CALL_TEXT_WORDS, Kind, rest_of
from bench.faults.engines.asked import Asked
from bench.faults.engines.formats import Written

WRONG = " WRONG BEGINNING"


class Does(Enum):
    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Step:
    """`units` is how many words the engine takes for it: a call is written in silence."""

    does: Does
    word: str = ""
    units: int = 1


def steps_of(request: Asked) -> tuple[list[Step], str]:
    """The steps and the finish reason: "stop", "length" or "call"."""
    answer, words = request.answer, request.answer.words
    thinking = words[: answer.thinking_words]
    text = words[answer.thinking_words :]
    calls = answer.kind is Kind.CALL
    if calls:
        text, silent = text[:CALL_TEXT_WORDS], len(text) - CALL_TEXT_WORDS
    rest = rest_of(text, request.beginning)
    if rest is None:
        return [Step(Does.TEXT, WRONG)], "stop"
    steps = [] if request.beginning else [Step(Does.THINKING, word) for word in thinking]
    steps += [Step(Does.TEXT, word) for word in rest]
    is_cut = request.limit is not None and len(steps) > request.limit
    if is_cut:
        return steps[: request.limit], "length"
    return ([*steps, Step(Does.CALL, units=max(1, silent))], "call") if calls else (steps, "stop")


def add(written: Written, step: Step, arguments: dict[str, object]) -> None:
    """Adds the step to the complete answer."""
    if step.does is Does.CALL:
        written.arguments = arguments
    elif step.does is Does.THINKING:
        written.thinking += step.word
    else:
        written.text += step.word
    written.completion_tokens += 1
