"""The one right answer to each task: a text of numbered tokens, which shows every lost, doubled or foreign piece."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GLYPHS = ("", " ", "\n", "é", "\U0001f600", "你好", " ", "ü ")
_TASK = re.compile(r"task (\d+)/(\d+);")


@dataclass(frozen=True)
class Task:
    """A prompt whose answer has this many tokens."""

    number: int
    tokens: int

    @property
    def prompt(self) -> str:
        return f"task {self.number}/{self.tokens};"

    def answer(self, limit: int | None = None, flavor: str = "") -> list[str]:
        """The tokens of the whole answer; `flavor` stands for the fields of the request that change it."""
        count = self.tokens if limit is None else min(limit, self.tokens)
        return [
            f"<{self.number}.{index}{flavor}>{_GLYPHS[(self.number + index) % len(_GLYPHS)]}" for index in range(count)
        ]


def read_task(text: str) -> tuple[Task, str]:
    """The last task in a text, and what follows it. Raises ValueError without one."""
    tasks = list(_TASK.finditer(text))
    if not tasks:
        raise ValueError("no task")
    found = tasks[-1]
    return Task(int(found[1]), int(found[2])), text[found.end() :]


def rest_of_answer(task: Task, partial: str, limit: int | None, flavor: str) -> tuple[list[str], bool]:
    """The tokens that follow `partial`, and whether the limit cuts them. A foreign beginning is answered as such."""
    tokens = task.answer(None, flavor)
    at = 0
    while partial and at < len(tokens):
        if not partial.startswith(tokens[at]):
            if tokens[at].startswith(partial):
                tokens[at] = tokens[at][len(partial) :]
                partial = ""
            break
        partial = partial[len(tokens[at]) :]
        at += 1
    if partial:
        return [f"<not the beginning of {task.number}>"], False
    rest = tokens[at:]
    is_cut = limit is not None and limit < len(rest)
    return rest[:limit], is_cut


def count_tokens(text: str) -> int:
    return text.count("<")
