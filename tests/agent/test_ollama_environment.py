"""How this machine's Ollama was started, from whoever tells."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from herd.agent.ollama_environment import OllamaSetup, from_systemd, is_server, read_setup, setup_from, whole

SYSTEMD = """Environment=PATH=/usr/local/bin:/usr/bin "OLLAMA_HOST=0.0.0.0 # all" OLLAMA_NUM_PARALLEL=4 OLLAMA_MAX_LOADED_MODELS=2
EnvironmentFiles=
"""
"""As `systemctl show ollama --property=Environment` of systemd 252 prints it."""


def told(**values: str) -> Mapping[str, str]:
    return values


def test_the_service_managers_words_are_read() -> None:
    values = from_systemd(SYSTEMD)
    assert (values["OLLAMA_NUM_PARALLEL"], values["OLLAMA_MAX_LOADED_MODELS"], values["OLLAMA_HOST"]) == (
        "4",
        "2",
        "0.0.0.0 # all",
    )
    assert from_systemd("") == from_systemd("Environment=") == from_systemd('Environment="open') == {}


def test_the_first_who_tells_is_believed_and_the_next_asked_for_the_rest() -> None:
    setup = setup_from(
        dict, lambda: told(OLLAMA_NUM_PARALLEL="3"), lambda: told(OLLAMA_NUM_PARALLEL="9", OLLAMA_MAX_LOADED_MODELS="2")
    )
    assert setup == OllamaSetup(3, 2)


def test_nobody_more_is_asked_once_all_is_known() -> None:
    def not_asked() -> Mapping[str, str]:
        raise AssertionError("asked")

    assert setup_from(lambda: told(OLLAMA_NUM_PARALLEL="3", OLLAMA_MAX_LOADED_MODELS="1"), not_asked) == OllamaSetup(
        3, 1
    )


@pytest.mark.parametrize("text", ["", "0", "-1", "four", "1e3", "9999999999999", "\u0663", "1.5"])
def test_what_is_no_number_or_leaves_it_to_ollama_is_not_known(text: str) -> None:
    assert whole(text) is None


def test_a_quoted_number_is_one() -> None:
    assert (whole(' "4" '), whole("8\n")) == (4, 8)


def test_only_the_server_is_looked_into() -> None:
    assert is_server("ollama", ["/usr/local/bin/ollama", "serve"]) and is_server("Ollama.exe", ["ollama.exe", "serve"])
    assert (
        not is_server("ollama", ["ollama", "run", "serve"])
        and not is_server("sh", ["sh", "serve"])
        and not is_server("ollama", [])
    )


def test_this_machine_can_be_asked_whatever_runs_here() -> None:
    assert isinstance(read_setup(), OllamaSetup)
