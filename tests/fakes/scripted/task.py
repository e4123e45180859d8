"""Decides the next move of a scripted model: read two files, edit one, run a command, and finish with a text.

The state is only the conversation in the request, as for a real model. The user's prompt names the folder
(`Task.prompt`), and the offered tools show which client asks. A wrong or missing tool result ends the task with
"FAILED", so that a damaged conversation fails the test. The two files are read by two calls in one move.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from shlex import quote
from typing import Any

from fakes.generated_text import fitting

Json = dict[str, Any]

OLD, NEW = "The sky is green.", 'The sky is blue: naïve "quotes", \\ and 東京.'
"""The sentence before and after the edit. The new one has characters that JSON, shells and patches must not change."""
BEFORE, AFTER = f"A note.\n{OLD}\nThe end.\n", f"A note.\n{NEW}\nThe end.\n"
NOTES, COLOURS, PROOF = "notes.txt", "colours.txt", "proof.txt"
COLOUR = "The colour of the sky: blue"
FINISHED = "The task is done: the sky is blue."
THOUGHT = "I look at the file before I change it."
_MARKER = re.compile(r"The folder of the task is <(/[^>\n]+)>")


@dataclass(frozen=True)
class Task:
    """One task in its own folder."""

    folder: Path

    @property
    def prompt(self) -> str:
        return (
            f"The folder of the task is <{self.folder}>. Read {NOTES} and {COLOURS}, correct the sky in {NOTES}, "
            f"copy it to {PROOF} with a command, and report."
        )

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / NOTES).write_text(BEFORE, encoding="utf-8")
        (self.folder / COLOURS).write_text(f"{COLOUR}\n", encoding="utf-8")

    def is_done(self) -> bool:
        """Whether both files have the corrected text."""
        texts = [path.read_text("utf-8") if path.exists() else "" for path in self.files]
        return texts == [AFTER, AFTER]

    @property
    def files(self) -> list[Path]:
        return [self.folder / NOTES, self.folder / PROOF]


@dataclass(frozen=True)
class OfferedTool:
    """A tool in the request; a custom tool takes a text instead of JSON arguments."""

    name: str
    is_custom: bool = False
    namespace: str = ""
    schema: Json = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        return list(self.schema.get("properties") or {})


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call. `text` is the input of a custom tool, instead of `arguments`."""

    id: str
    name: str
    arguments: Json = field(default_factory=dict)
    text: str | None = None
    namespace: str = ""

    @property
    def arguments_json(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of the conversation; `call_id` only for the result of a tool."""

    role: str
    text: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a model sees of a request, the same for every API.

    `schema` is the demanded format of the answer; `must_call` means that the answer must be a call of a tool.
    """

    turns: Sequence[Turn]
    tools: Sequence[OfferedTool] = ()
    schema: Json | None = None
    must_call: bool = False


@dataclass(frozen=True, kw_only=True)
class Move:
    """A model's answer. `number` grows within a conversation: clients join answers that have the same id."""

    number: int = 0
    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()


def text_pieces(text: str) -> Iterator[str]:
    """The text as a model's stream would split it."""
    yield from re.findall(r"\s*\S{1,9}|\s+$", text)


def decide(seen: Seen) -> Move:
    """The next move. Without a task (titles, summaries, tests of the connection) it is a short text or a call."""
    return replace(next_move(seen), number=len(seen.turns))


def next_move(seen: Seen) -> Move:
    start = task_start(seen.turns)
    if start is None or not seen.tools:
        if seen.schema is not None:
            return Move(text=json.dumps(fitting(seen.schema, Random(1)), ensure_ascii=False))
        if seen.must_call or len(seen.tools) == 1:
            tool = seen.tools[0]
            return Move(calls=(Call(id="call_0", name=tool.name, arguments=fitting(tool.schema, Random(1))),))
        return Move(text="A note about the sky")
    number, folder = start
    since = seen.turns[number + 1 :]
    called = [call for turn in since for call in turn.calls]
    step = STEPS_BY_CALLS.get(len(called))
    failure = f"after {len(called)} calls" if step is None else unpaired(since) or check(step, since)
    if step is None or failure:
        return Move(text=f"FAILED {failure}")
    if step == len(STEPS):
        return Move(text=FINISHED)
    tools = {tool.name: tool for tool in seen.tools}
    calls = [make(folder, tools, f"call_{len(called) + 1 + n}") for n, make in enumerate(STEPS[step])]
    if None in calls:
        return Move(text=f"FAILED no fitting tool for step {step + 1} in {sorted(tools)}")
    return Move(thinking=THOUGHT, text=f"Step {step + 1}.", calls=tuple(call for call in calls if call is not None))


def task_start(turns: Sequence[Turn]) -> tuple[int, Path] | None:
    """The last user turn that names a folder."""
    for number in reversed(range(len(turns))):
        found = _MARKER.search(turns[number].text) if turns[number].role == "user" else None
        if found is not None:
            return number, Path(found[1])
    return None


def unpaired(turns: Sequence[Turn]) -> str:
    """A description of calls without a result, or results without a call; empty for a sound conversation."""
    called = [call.id for turn in turns for call in turn.calls]
    answered = [turn.call_id for turn in turns if turn.role == "tool"]
    if len(called) == len(answered) and not any(answered):
        # Ollama's own API has no ids of calls.
        return ""
    is_sound = len(set(called)) == len(called) and sorted(called) == sorted(answered)
    return "" if is_sound else f"calls {called} have results {answered}"


def check(steps_done: int, turns: Sequence[Turn]) -> str:
    """What is wrong with the last step's results; empty if nothing is."""
    called = [call.id for turn in turns for call in turn.calls]
    results = [turn for turn in turns if turn.role == "tool"]
    if any(turn.call_id for turn in results):
        results.sort(key=lambda turn: called.index(turn.call_id))
    expected = EXPECTED[steps_done]
    last = [turn.text for turn in results[len(results) - len(expected) :]]
    are_right = all(wanted in text for wanted, text in zip(expected, last, strict=True))
    return "" if are_right else f"after step {steps_done}: {[text[:300] for text in last]}"


Tools = dict[str, OfferedTool]
Step = Callable[[Path, Tools, str], Call | None]


def first_offered(tools: Tools, call_id: str, choices: dict[str, Json | str]) -> Call | None:
    """A call of the first of these tools that is offered; a text is the input of a custom tool."""
    for name, given in choices.items():
        offered = tools.get(name)
        if offered is not None and offered.is_custom == isinstance(given, str):
            if isinstance(given, str):
                return Call(id=call_id, name=name, text=given)
            return Call(id=call_id, name=name, arguments=given, namespace=offered.namespace)
    return None


def reading(name: str) -> Step:
    """The step that reads this file."""

    def read(folder: Path, tools: Tools, call_id: str) -> Call | None:
        path = str(folder / name)
        offered = tools["Read"].arguments if "Read" in tools else ()
        choices: dict[str, Json | str] = {
            "Read": {"filepath" if "filepath" in offered else "file_path": path},
            "read": {"filePath": path},
            "read_file": {"path": path},
            **shell(f"cat {quote(path)}", folder),
        }
        return first_offered(tools, call_id, choices)

    return read


def patch(folder: Path) -> str:
    lines = ["*** Begin Patch", f"*** Update File: {folder / NOTES}", "@@", f"-{OLD}", f"+{NEW}", "*** End Patch"]
    return "\n".join(lines)


def edit(folder: Path, tools: Tools, call_id: str) -> Call | None:
    path = str(folder / NOTES)
    choices: dict[str, Json | str] = {
        "Edit": {"file_path": path, "old_string": OLD, "new_string": NEW},
        "edit": {"filePath": path, "oldString": OLD, "newString": NEW},
        "str_replace": {"path": path, "old_str": OLD, "new_str": NEW},
    }
    call = first_offered(tools, call_id, choices)
    if call is None and "apply_patch" in tools:
        # A custom tool, or a function with one argument.
        named = dict.fromkeys(tools["apply_patch"].arguments, patch(folder))
        given = patch(folder) if tools["apply_patch"].is_custom else named
        call = first_offered(tools, call_id, {"apply_patch": given})
    return call or first_offered(tools, call_id, shell(f"apply_patch <<'EOF'\n{patch(folder)}\nEOF", folder))


def run(folder: Path, tools: Tools, call_id: str) -> Call | None:
    notes, proof = quote(str(folder / NOTES)), quote(str(folder / PROOF))
    command = f"cp {notes} {proof} && cat {proof}"
    choices: dict[str, Json | str] = {
        "Bash": {"command": command, "description": "Copies the file"},
        "bash": {"command": command, "description": "Copies the file"},
        "run_command": {"command": command},
        **shell(command, folder),
    }
    return first_offered(tools, call_id, choices)


def shell(command: str, folder: Path) -> dict[str, Json | str]:
    """The forms of Codex' tool for commands."""
    return {
        "exec_command": {"cmd": command, "workdir": str(folder)},
        "shell_command": {"command": command, "workdir": str(folder)},
        "shell": {"command": ["bash", "-lc", command], "workdir": str(folder)},
    }


STEPS: tuple[tuple[Step, ...], ...] = ((reading(NOTES), reading(COLOURS)), (edit,), (run,))
"""The calls of each move."""
STEPS_BY_CALLS = {sum(len(step) for step in STEPS[:done]): done for done in range(len(STEPS) + 1)}
EXPECTED: tuple[tuple[str, ...], ...] = ((), (OLD, COLOUR), ("",), (NEW,))
"""What the results of the last step must contain, by the number of steps done."""
