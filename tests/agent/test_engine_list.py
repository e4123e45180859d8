"""Tests how FLEET_NODE_ENGINES and the key settings are read, and that no error message contains a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from herd.agent.engine_list import EngineKeys, EngineKeySettings, InvalidEntry, ListedEngine, read_entry

VLLM = "http://127.0.0.1:8000"
OLLAMA = "http://127.0.0.1:11436"


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        ("ollama=http://127.0.0.1:11436", ListedEngine("ollama", OLLAMA)),
        (" ollama = 127.0.0.1:11436/ ", ListedEngine("ollama", OLLAMA)),
        ("http://127.0.0.1:8000", ListedEngine("", VLLM)),
        ("vllm=http://localhost:8000;key=sk-a=b", ListedEngine("vllm", VLLM, "sk-a=b")),
        ("vllm=http://127.0.0.1:8000;key_file=/a/key", ListedEngine("vllm", VLLM, key_file=Path("/a/key"))),
    ],
)
def test_an_entry_is_a_url_with_its_kind_and_its_key(entry: str, read: ListedEngine) -> None:
    assert read_entry(entry) == read


@pytest.mark.parametrize(
    "entry", ["", "vllm", "vllm=https://box:8000", "http://box", "vllm=http://user:sk-secret@box:1", "http://[::1:80"]
)
def test_an_entry_that_cannot_be_read_is_explained_without_its_key(entry: str) -> None:
    with pytest.raises(InvalidEntry, match="FLEET_NODE_ENGINES") as error:
        read_entry(entry)
    assert "sk-secret" not in str(error.value)


def test_an_unknown_option_of_an_entry_is_explained_without_its_value() -> None:
    with pytest.raises(InvalidEntry, match="key_file") as error:
        read_entry("vllm=http://127.0.0.1:8000;keys=sk-secret")
    assert "sk-secret" not in str(error.value)


def test_the_key_of_an_entry_wins_over_that_for_all_engines_and_a_file_is_read_again(tmp_path: Path) -> None:
    own, common = tmp_path / "own", tmp_path / "common"
    own.write_text("sk-own\n")
    keys = EngineKeys(
        EngineKeySettings(engine_key_file=common), [ListedEngine("vllm", VLLM, key_file=own), ListedEngine("", OLLAMA)]
    )
    keys.read()
    assert keys.key_of(VLLM) == "sk-own" and keys.key_of(OLLAMA) == "" and str(common) in keys.problem
    common.write_text("sk-common")
    own.write_text("sk-new")
    keys.read()
    assert (keys.key_of(VLLM), keys.key_of(OLLAMA), keys.problem) == ("sk-new", "sk-common", "")
    own.write_text("two words")
    keys.read()
    assert keys.key_of(VLLM) == "sk-new" and "one line with the key" in keys.problem


def test_a_key_that_would_end_its_header_is_refused() -> None:
    keys = EngineKeys(EngineKeySettings("sk-a\r\nX-Evil: 1"))
    assert "FLEET_NODE_ENGINE_KEY" in keys.invalid and "Evil" not in keys.invalid
    listed = EngineKeys(EngineKeySettings(), [ListedEngine("vllm", VLLM, "ä")])
    assert VLLM in listed.invalid and "ä" not in listed.invalid


def test_no_key_is_in_the_text_of_a_record() -> None:
    assert "sk-a" not in f"{EngineKeySettings('sk-a')!r} {ListedEngine('vllm', VLLM, 'sk-a')!r}"
