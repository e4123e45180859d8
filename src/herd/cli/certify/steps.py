"""The conformance steps: each gives a model one small task, and returns the evidence if it did not do it."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from herd.cli.certify.dialects import Answer, AnswerInvalid, Api, ChatCompletions, Messages, Responses, Tool, Turn
from herd.cli.certify.dialects import events as streamed
from herd.cli.client import CliError, CoordinatorClient, Json

CLAUDE_CODE, CODEX, TOOLS, JSON_OUTPUT = "Claude Code", "Codex", "tools", "JSON"
TURNS_MAX = 8
SHOWN_CHARS = 160
RECALL_MAX_TOKENS = 32_768
"""Recall is tested in at most this much of a larger window: reading more takes long on a small machine."""
FILLER = "Entry {number}: the boat left the harbour and came back in the evening. "
FILLER_TOKENS = 18
SECRET = 48_213

READ: Tool = ("read_file", "Returns the text of a file.", ("path",))
EDIT: Tool = (
    "edit_file",
    "Replaces old_text, which must occur exactly once in the file, by new_text.",
    ("path", "old_text", "new_text"),
)
BEFORE, AFTER = 'The sky is green.\nThe sea says "hello".\n', 'The sky is blue.\nThe sea says "hello".\n'
OTHER = "The code is 7351.\n"
EDIT_TASK = (
    "The file notes.txt says a wrong colour. First read it with read_file. Then replace the word green by blue with "
    "edit_file, and change nothing else. After that, answer with the word DONE."
)
PARALLEL_TASK = "Read the files notes.txt and code.txt. Call read_file twice in one answer, once for each file."


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested: a model on one node, reached by the client."""

    client: CoordinatorClient
    model: str
    window_tokens: int


Run = Callable[[Subject], str]
"""Returns the evidence, empty if the model passed. Raises CliError if the fleet refused the request."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `badges` are those that a model gets only if it passes."""

    name: str
    title: str
    badges: tuple[str, ...]
    run: Run


def steps(capabilities: frozenset[str]) -> list[Step]:
    """The steps for a model with these capabilities."""
    agents = (CLAUDE_CODE, CODEX, TOOLS, JSON_OUTPUT)
    found = [
        Step("messages_tools", "tool loop, Messages", (CLAUDE_CODE,), partial(_edits, Messages())),
        Step("responses_tools", "tool loop, Responses", (CODEX,), partial(_edits, Responses())),
        Step("chat_tools", "tool loop, Chat", (TOOLS,), partial(_edits, ChatCompletions())),
        Step("parallel_tools", "parallel tool calls", (TOOLS,), _calls_in_parallel),
        Step("usage", "usage of a stream", agents, _counts_usage),
        Step("stop", "stop sequence", (CLAUDE_CODE, CODEX), _stops),
        Step("json_schema", "JSON schema", (JSON_OUTPUT,), _fits_schema),
    ]
    if "vision" in capabilities:
        found.append(Step("vision", "vision", (), _sees))
    shares = ((f"recall_{percent}", percent) for percent in (25, 50, 75))
    found += [Step(n, f"recall at {p} %", (CLAUDE_CODE, CODEX), partial(_recalls, percent=p)) for n, p in shares]
    return found


def outcome(step: Step, subject: Subject) -> str:
    """The evidence of one step, empty if the model passed."""
    try:
        return step.run(subject)
    except AnswerInvalid as invalid:
        return str(invalid)
    except CliError as refused:
        return f"the request failed: {refused.problem}"
    except (KeyError, TypeError, IndexError, AttributeError) as missing:
        return f"the answer lacks a field of its API: {missing!r}"


# --- tools ---


@dataclass(slots=True)
class _Files:
    """The files that the model's tools act on."""

    texts: dict[str, str] = field(default_factory=lambda: {"notes.txt": BEFORE, "code.txt": OTHER})
    read: set[str] = field(default_factory=set)

    def use(self, name: str, arguments: Json) -> str:
        path = str(arguments.get("path", "")).rpartition("/")[2]
        if path not in self.texts:
            return f"error: there is no file {path!r}"
        if name == READ[0]:
            self.read.add(path)
            return self.texts[path]
        if name != EDIT[0]:
            return f"error: there is no tool {name!r}"
        old, new = str(arguments.get("old_text", "")), str(arguments.get("new_text", ""))
        if not old or self.texts[path].count(old) != 1:
            return f"error: old_text occurs {self.texts[path].count(old) if old else 0} times"
        self.texts[path] = self.texts[path].replace(old, new)
        return "done"


def _edits(api: Api, subject: Subject) -> str:
    files, turns = _Files(), [Turn(EDIT_TASK)]
    for _ in range(TURNS_MAX):
        answer = api.ask(subject.client, subject.model, turns, (READ, EDIT))
        if not answer.calls:
            return _result_of(files, answer)
        results = tuple(files.use(call.name, call.parsed()) for call in answer.calls)
        turns.append(Turn(answer=answer, results=results))
    return f"it still called tools after {TURNS_MAX} answers; the file says: {_shown(files.texts['notes.txt'])}"


def _result_of(files: _Files, answer: Answer) -> str:
    if "notes.txt" not in files.read:
        return f"it did not call read_file, but answered: {_shown(answer.text)}"
    if files.texts["notes.txt"] != AFTER:
        return f"the file says {_shown(files.texts['notes.txt'])} after its answer: {_shown(answer.text)}"
    return ""


def _calls_in_parallel(subject: Subject) -> str:
    answer = ChatCompletions().ask(subject.client, subject.model, [Turn(PARALLEL_TASK)], (READ,))
    paths = {str(call.parsed().get("path", "")).rpartition("/")[2] for call in answer.calls}
    if paths >= {"notes.txt", "code.txt"}:
        return ""
    return f"it made {len(answer.calls)} of 2 calls in one answer; text: {_shown(answer.text)}"


# --- single answers ---


def _counts_usage(subject: Subject) -> str:
    answer = ChatCompletions().ask(subject.client, subject.model, [Turn("Say hello.")], ())
    if not answer.text.strip():
        return f"it answered nothing (finish reason {answer.reason or 'missing'})"
    if answer.prompt_tokens < 1 or answer.answer_tokens < 1:
        return f"the stream counts {answer.prompt_tokens} and {answer.answer_tokens} tokens"
    return ""


def _stops(subject: Subject) -> str:
    text = "Write exactly this line and nothing else: one two three four five"
    body = {"stop": ["four"], "max_tokens": 200, "stream": False, **_chat(subject, text)}
    _, reply = subject.client.post("/v1/chat/completions", body)
    choice = reply["choices"][0]
    answered = str(choice["message"].get("content") or "")
    if "four" in answered or choice["finish_reason"] != "stop":
        return f"finish reason {choice['finish_reason']}, text {_shown(answered)}"
    return "" if "three" in answered else f"it did not write the line: {_shown(answered)}"


def _fits_schema(subject: Subject) -> str:
    schema: Json = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "pets": {"type": "array"}},
        "required": ["name", "age", "pets"],
        "additionalProperties": False,
    }
    schema["properties"]["pets"]["items"] = {"type": "string"}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    text = "Ada is 36 years old and has a cat and a dog. Describe her as JSON with name, age and pets."
    body = {"response_format": wanted, "max_tokens": 300, "stream": False, **_chat(subject, text)}
    _, reply = subject.client.post("/v1/chat/completions", body)
    answered = str(reply["choices"][0]["message"].get("content") or "")
    try:
        value = json.loads(answered)
    except ValueError:
        return f"it is not JSON: {_shown(answered)}"
    is_right = isinstance(value, dict) and value.keys() == {"name", "age", "pets"}
    is_right = is_right and value["name"] == "Ada" and value["age"] == 36 and isinstance(value["pets"], list)
    return "" if is_right else f"it does not describe the person: {_shown(answered)}"


def _sees(subject: Subject) -> str:
    url = "data:image/png;base64," + base64.b64encode(_red_picture()).decode()
    parts = [
        {"type": "text", "text": "Which colour has this picture? Answer with one word."},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    body = {"model": subject.model, "messages": [{"role": "user", "content": parts}], "stream": True, "max_tokens": 300}
    answer = ChatCompletions().read(streamed(subject.client, "/v1/chat/completions", body))
    return "" if "red" in answer.text.lower() else f"it did not see a red picture: {_shown(answer.text)}"


def _red_picture(size: int = 64) -> bytes:
    """A PNG file of one colour."""
    rows = (b"\0" + b"\xe0\x10\x10" * size) * size
    parts = (
        (b"IHDR", struct.pack(">II", size, size) + bytes((8, 2, 0, 0, 0))),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _recalls(subject: Subject, percent: int) -> str:
    window = min(subject.window_tokens or 4096, RECALL_MAX_TOKENS)
    lines = list(_filler(window * percent // 100 // FILLER_TOKENS))
    lines.insert(len(lines) // 2, f"The secret number is {SECRET}. ")
    text = "".join(lines) + "\nWhat is the secret number in this text? Answer with the number only."
    answer = ChatCompletions().ask(subject.client, subject.model, [Turn(text)], ())
    if str(SECRET) in answer.text.replace(",", "").replace(".", ""):
        return ""
    return f"in {answer.prompt_tokens or 'unknown'} of {window} tokens it did not find {SECRET}: {_shown(answer.text)}"


def _filler(count: int) -> Iterator[str]:
    yield from (FILLER.format(number=number) for number in range(1, count + 1))


def _chat(subject: Subject, text: str) -> Json:
    return {"model": subject.model, "messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 1}


def _shown(text: str) -> str:
    return json.dumps(text[:SHOWN_CHARS] + ("..." if len(text) > SHOWN_CHARS else ""), ensure_ascii=False)
