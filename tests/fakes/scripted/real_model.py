"""The scripted task for a model that a real Ollama runs: its answers, and the template that chooses between them.

The template counts the results of tools in the conversation and ends the prompt with the cue for this number. The model
cannot read, so a wrong result does not stop it: whether the task was done is seen in the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fakes.scripted.task import FINISHED, STEPS, STEPS_BY_CALLS, Call, OfferedTool

NO_TOOLS = "<|no-tools|>"
SIDE_ANSWER = "A note about the sky"
"""The answer to a request without tools: agents ask for titles and summaries."""

TEMPLATE = (
    '{{ $results := "" }}'
    "{{ if .Tools }}<|im_start|>system\n{{ range .Tools }}{{ .Function }}{{ end }}<|im_end|>\n{{ end }}"
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}{{ if .ToolCalls }}{{ range .ToolCalls }}"
    '<tool_call>\n{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}\n</tool_call>{{ end }}'
    "{{ end }}<|im_end|>\n"
    '{{ if eq .Role "tool" }}{{ $results = printf "%s+" $results }}{{ end }}{{ end }}'
    "<|im_start|>assistant\n{{ if .Tools }}<|results{{ $results }}|>{{ else }}" + NO_TOOLS + "{{ end }}"
)
"""Ollama takes the text before a call's braces in this template as the mark of a call in the model's text."""


def cue(results: int) -> str:
    """The last token of a prompt with this number of results of tools."""
    return f"<|results{'+' * results}|>"


def call_text(call: Call) -> str:
    called = {"name": call.name, "arguments": call.arguments}
    return f"<tool_call>\n{json.dumps(called, ensure_ascii=False)}\n</tool_call>"


def answers_of(folder: Path, offered: Sequence[OfferedTool]) -> dict[str, str]:
    """The model's answer by cue, for the task in `folder` and an agent that offers these tools."""
    tools = {tool.name: tool for tool in offered}
    answers = {NO_TOOLS: SIDE_ANSWER}
    for results, step in STEPS_BY_CALLS.items():
        if step == len(STEPS):
            answers[cue(results)] = FINISHED
            continue
        calls = [make(folder, tools, "") for make in STEPS[step]]
        answers[cue(results)] = f"Step {step + 1}. " + "\n".join(call_text(call) for call in calls if call is not None)
    return answers
