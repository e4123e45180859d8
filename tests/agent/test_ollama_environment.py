"""Tests how Ollama's settings are read from its environment, in the order of the sources."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from herd.agent.ollama_environment import (
    OllamaSetup,
    from_systemd,
    is_server,
    parse_count,
    port_of,
    read_setup,
    setup_from,
)

SYSTEMD = """Environment=PATH=/usr/bin "OLLAMA_HOST=0.0.0.0 # all" OLLAMA_NUM_PARALLEL=4 OLLAMA_MAX_LOADED_MODELS=2
EnvironmentFiles=
"""
"""As `systemctl show ollama --property=Environment` of systemd 252 prints it."""


def environment(**values: str) -> Mapping[str, str]:
    return values


def test_the_output_of_systemd_is_parsed() -> None:
    values = from_systemd(SYSTEMD)
    assert (values["OLLAMA_NUM_PARALLEL"], values["OLLAMA_MAX_LOADED_MODELS"], values["OLLAMA_HOST"]) == (
        "4",
        "2",
        "0.0.0.0 # all",
    )
    assert from_systemd("") == from_systemd("Environment=") == from_systemd('Environment="open') == {}


def test_the_first_source_wins_and_the_next_one_gives_the_missing_values() -> None:
    setup = setup_from(
        dict,
        lambda: environment(OLLAMA_NUM_PARALLEL="3"),
        lambda: environment(OLLAMA_NUM_PARALLEL="9", OLLAMA_MAX_LOADED_MODELS="2"),
    )
    assert setup == OllamaSetup(3, 2)


def test_no_further_source_is_read_once_all_values_are_known() -> None:
    def must_not_be_read() -> Mapping[str, str]:
        raise AssertionError("the source was read")

    assert setup_from(
        lambda: environment(OLLAMA_NUM_PARALLEL="3", OLLAMA_MAX_LOADED_MODELS="1"), must_not_be_read
    ) == OllamaSetup(3, 1)


@pytest.mark.parametrize("text", ["", "0", "-1", "four", "1e3", "9999999999999", "\u0663", "1.5"])
def test_zero_and_texts_that_are_not_numbers_are_none(text: str) -> None:
    assert parse_count(text) is None


def test_a_quoted_number_is_parsed() -> None:
    assert (parse_count(' "4" '), parse_count("8\n")) == (4, 8)


def test_only_the_server_process_is_recognized() -> None:
    assert is_server("ollama", ["/usr/local/bin/ollama", "serve"]) and is_server("Ollama.exe", ["ollama.exe", "serve"])
    assert (
        not is_server("ollama", ["ollama", "run", "serve"])
        and not is_server("sh", ["sh", "serve"])
        and not is_server("ollama", [])
    )


def test_reading_this_machine_does_not_raise() -> None:
    assert all(isinstance(read_setup(port, is_only), OllamaSetup) for port in (1, 11434) for is_only in (True, False))


@pytest.mark.parametrize(
    ("environment", "port", "gpus"),
    [
        ({}, 11434, None),
        ({"OLLAMA_HOST": "0.0.0.0:11436", "CUDA_VISIBLE_DEVICES": "1"}, 11436, (1,)),
        ({"OLLAMA_HOST": "http://127.0.0.1:11437/", "HIP_VISIBLE_DEVICES": "0, 2"}, 11437, (0, 2)),
        ({"OLLAMA_HOST": "0.0.0.0", "CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, 11434, None),
    ],
)
def test_a_second_ollama_is_recognised_by_its_port_and_has_its_own_graphics_cards(
    environment: dict[str, str], port: int, gpus: tuple[int, ...] | None
) -> None:
    assert port_of(environment) == port and setup_from(lambda: environment).gpus == gpus
