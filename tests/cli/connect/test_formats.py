"""Files keep everything that herd does not set; files that cannot be edited safely are refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import given
from hypothesis import strategies as st

from herd.cli.connect import Unreadable
from herd.cli.connect.formats import jsonc, shell_lines, toml_lines, yaml_lines

# --- JSON with comments ---

COMMENTED = """// my settings
{
  // the theme
  "theme": "dark", // at night
  "agent": {
    /* a model */ "old": 1
  },
  "list": [1, {"a": 2,},],
}
"""


def test_comments_order_and_other_values_of_json_stay() -> None:
    edited = jsonc.with_values(COMMENTED, {("agent", "model"): "m", ("theme",): "light", ("a", "b"): {"c": [1]}})
    assert edited == (
        '// my settings\n{\n  // the theme\n  "theme": "light", // at night\n  "agent": {\n'
        '    /* a model */ "old": 1,\n'
        '    "model": "m"\n  },\n  "list": [1, {"a": 2,},],\n  "a": {\n    "b": {\n      "c": [\n        1\n      ]\n'
        "    }\n  }\n}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{ }\n",
        "{\n  // nothing yet\n}",
        '{"a": 1}',
        '{"a": 1,}',
        '{"a": {"b": null}}',
        '\ufeff{"x": "é"}\r\n',
    ],
)
def test_a_value_is_added_to_every_form_of_object(text: str) -> None:
    before = jsonc.read(text) if text else {}
    assert isinstance(before, dict)
    edited = jsonc.with_values(text, {("a", "new") if isinstance(before.get("a"), dict) else ("new",): "v"})
    after = jsonc.read(edited)
    assert isinstance(after, dict)
    assert (after.get("a") or {}).get("new") == "v" if isinstance(before.get("a"), dict) else after["new"] == "v"
    assert jsonc.with_values(edited, {}) == edited


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), JSON, st.sampled_from([None, 1, 4]))
def test_every_json_document_keeps_its_other_values(document: dict[str, Any], value: Any, indent: int | None) -> None:
    text = json.dumps(document, indent=indent)
    try:
        edited = jsonc.with_values(text, {("a", "x"): value}, allows_comments=False)
    except Unreadable:
        assert not isinstance(document.get("a", {}), dict)
        return
    assert json.loads(edited) == {**document, "a": {**document.get("a", {}), "x": value}}


@pytest.mark.parametrize(
    "text", ["{", '{"a" 1}', "[1,]x", "{'a': 1}", '{"a": 1} {}', "nul", '{"a": "\n"}', "[1]", '{"a": 1']
)
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        jsonc.with_values(text, {("b",): 1})


@pytest.mark.parametrize("text", ['{"a": 1,}', '{"a": 1 /* c */}', '{"a": 1} // c'])
def test_a_client_that_reads_plain_json_gets_no_comments(text: str) -> None:
    with pytest.raises(Unreadable):
        jsonc.with_values(text, {("b",): 1}, allows_comments=False)


# --- TOML ---

CODEX = """# mine
model = "old" # the model
notes = \"\"\"
model_provider = "not this"
[not.a.table]
\"\"\"

[tools]
model = "kept"

[model_providers.herd]
name = 'x' # name
retries = 3

[model_providers.herd.http_headers]
a = "b"
"""
TABLE = ("model_providers", "herd")


def test_comments_and_other_lines_of_toml_stay() -> None:
    edited = toml_lines.with_values(
        CODEX.replace("[not.a.table]\n", ""), {((), "model"): "new", (TABLE, "name"): "herd", (TABLE, "base_url"): "u"}
    )
    lines = edited.splitlines()
    assert lines[:2] == ["# mine", 'model = "new" # the model']
    assert 'name = "herd" # name' in lines
    assert lines[lines.index("retries = 3") + 1] == 'base_url = "u"'
    assert tomllib.loads(edited)["model_providers"]["herd"]["http_headers"] == {"a": "b"}


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "[a]\nx = 1\n", 'model = "x"\r\n[a]\r\n', "a = [\n  1,\n]\n"]
)
def test_values_are_added_to_every_form_of_toml(text: str) -> None:
    values: dict[tuple[toml_lines.Table, str], toml_lines.Scalar] = {
        ((), "model"): 'a "quoted" name\\',
        ((), "window"): 5,
        (TABLE, "name"): "herd",
    }
    edited = toml_lines.with_values(text, values)
    parsed = tomllib.loads(edited)
    assert (parsed["model"], parsed["window"]) == ('a "quoted" name\\', 5)
    assert parsed["model_providers"] == {"herd": {"name": "herd"}}
    assert tomlkit.parse(edited).unwrap() == parsed
    assert toml_lines.with_values(edited, values) == edited


@pytest.mark.parametrize(
    "text",
    ["a = ", "model_providers = {herd = {}}\n", CODEX, 'model = [\n"x"\n]\n', "model_providers.herd.name = 'x'\n"],
)
def test_toml_that_is_invalid_or_cannot_be_edited_by_lines_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        toml_lines.with_values(text, {((), "model"): "m", ((), "model_provider"): "h", (TABLE, "name"): "herd"})


# --- YAML ---

AIDER = """# mine
model: old # the model
alias:
  - "fast:gpt"
read: [a.md, b.md]
prompt: |
  Be brief: always.
  model: no
dark-mode: true
"""
SIMPLE = ("", "# c\n", "---\na: 1\n", AIDER, "a:\n- x\n- y: 1\n", "a: 'it''s'\r\nb: {c: 1}\r\n", "url: http://x:1/v1\n")


@pytest.mark.parametrize("text", SIMPLE)
def test_entries_are_set_in_every_simple_form_of_yaml(text: str) -> None:
    values: dict[str, yaml_lines.Scalar] = {
        "model": "openai/a:b",
        "openai-api-base": "http://h:1/v1",
        "word": "yes",
        "n": 5,
    }
    edited = yaml_lines.with_values(text, values)
    assert yaml.safe_load(edited) == {**(yaml.safe_load(text) or {}), **values}
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in edited.splitlines() if line.startswith("#")
    ]
    assert yaml_lines.with_values(edited, values) == edited


CONTINUE = """name: My Config
version: 0.0.1
schema: v1

models:
  # local
  - name: GPT
    provider: openai
    roles:
      - chat
  - name: herd
    provider: old

# rules
rules:
  - Be brief
"""


@pytest.mark.parametrize(
    "text",
    ["", CONTINUE, CONTINUE.replace("  - name: herd\n    provider: old\n", ""), "models: []\n", "models:\n- name: a\n"],
)
def test_an_item_is_set_in_a_list_of_yaml(text: str) -> None:
    edited = yaml_lines.with_list_item(text, "models", ("name", "herd"), ["model: m", "roles:", "  - chat"])
    before, after = yaml.safe_load(text) or {}, yaml.safe_load(edited)
    others = [one for one in before.get("models") or [] if one["name"] != "herd"]
    item = {"name": "herd", "model": "m", "roles": ["chat"]}
    assert sorted(after["models"], key=str) == sorted([*others, item], key=str)
    assert {**after, "models": None} == {**before, "models": None}
    assert edited.count("#") == text.count("#")
    assert yaml_lines.with_list_item(edited, "models", ("name", "herd"), ["model: m", "roles:", "  - chat"]) == edited


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2\n",
        'a: "x\n',
        "a: b: c\n",
        "a: 1\na: 2\n",
        "- x\n",
        "  a: 1\n",
        "a: 1\n---\nb: 2\n",
        "a: &x 1\nb: *x\n",
        "{a: 1}\n",
        "a:\n\t- b\n",
        "just text\n",
        "a: 1\n  nonsense here\n",
        "? a\n: b\n",
    ],
)
def test_yaml_that_is_invalid_or_not_simple_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        yaml_lines.with_values(text, {"model": "m"})


YAML_LINES = st.sampled_from(
    """a: 1;b: 'x;c: [1, {d: 2}];e:;  - f;  g: 1;- h;    - i: 2;;# j;k: |;  l: [;m: n: o;p: "q" r;   s: 2;  -;      - v
  - w: |;     y: 1;  - [z;- aa: 1;  cc;dd: >-;ee: # c;gg: @a;hh: a#b;jj: -;kk: - x;ll: ? y;nn: {a};oo: [a,];qq: x:
? x;...;- - t;-u;v:w""".replace("\n", ";").split(";")
)


@given(st.lists(YAML_LINES, max_size=7))
def test_what_is_accepted_is_valid_yaml_with_one_more_entry(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    try:
        edited = yaml_lines.with_values(text, {"model": "m"})
    except Unreadable:
        return
    assert yaml.safe_load(edited) == {**(yaml.safe_load(text) or {}), "model": "m"}


# --- environment variables ---


def test_an_env_file_keeps_its_other_lines() -> None:
    text = "# mine\nexport A=1\nB='x y'\n\nOLD=\n"
    edited = shell_lines.with_variables(text, {"A": "2", "C": "http://h:1"})
    assert edited == "# mine\nA=2\nB='x y'\n\nOLD=\nC=http://h:1\n"


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(Unreadable, match="line 2"):
        shell_lines.with_variables("A=1\nif true; then\n", {"A": "2"})


@pytest.mark.parametrize(
    ("shell", "line"),
    [("sh", "export K='it'\"'\"'s'"), ("fish", "set -gx K 'it\\'s'"), ("powershell", "$env:K = 'it''s'")],
)
def test_values_are_quoted_for_each_shell(shell: str, line: str) -> None:
    assert shell_lines.commands({"K": "it's"}, shell) == (line,)


Editor = Callable[[str], str]
EDITORS: list[Editor] = [
    lambda text: jsonc.with_values(text, {("a",): 1}),
    lambda text: toml_lines.with_values(text, {((), "a"): 1}),
    lambda text: yaml_lines.with_values(text, {"a": 1}),
    lambda text: shell_lines.with_variables(text, {"a": "1"}),
]


@pytest.mark.parametrize("edit", EDITORS)
@given(text=st.text(max_size=30))
def test_any_text_is_edited_or_refused(edit: Editor, text: str) -> None:
    try:
        assert "1" in edit(text)
    except Unreadable as refused:
        assert str(refused)
