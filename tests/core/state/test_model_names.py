"""The spellings of one model's name have one canonical form, as in Ollama; other names stay different."""

from __future__ import annotations

import pytest

from herd.core.state.model_names import canonical, is_ollama_name, without_local


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m", "m:latest"),
        (" M:Latest ", "m:latest"),
        ("library/m", "m:latest"),
        ("Library/M:Q4", "m:q4"),
        ("registry.ollama.ai/library/m", "m:latest"),
        ("https://Registry.Ollama.AI/library/m:latest", "m:latest"),
        ("registry.ollama.ai/alice/m", "alice/m:latest"),
        ("https://hf.co/Bob/M-GGUF:Q4_K_M", "hf.co/bob/m-gguf:q4_k_m"),
        ("localhost:5000/library/m", "localhost:5000/library/m:latest"),
    ],
)
def test_the_spellings_of_one_model_have_one_canonical_name(name: str, expected: str) -> None:
    assert canonical(name) == canonical(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        *(
            "registry.ollama.ai/m",
            "ollama.com/library/m",
            "library/alice/m",
            "library//m",
            "/m",
            "m/",
            "other/library/m",
        ),
        *("https://m", "https://library/m", "models/library/m", "huggingface.co/bob/m", "/models/library/m"),
    ],
)
def test_names_of_other_models_stay_different(name: str) -> None:
    assert canonical(name) not in (canonical("m"), canonical("library/m"), canonical("hf.co/bob/m"))


def test_only_the_end_says_that_a_model_is_local() -> None:
    assert (without_local("m:4b:Local"), without_local("m:local")) == ("m:4b", "m")
    assert without_local("m:localized") == "m:localized"


@pytest.mark.parametrize(
    "name",
    [
        *("m", "M:Q4_K_M", "_m", "m-", "a..b", "0", "named:latest", " m "),
        *("a/b", "a_b/c", "h/a/b:t", "localhost:5000/library/m", "a:b/c/d", "https://hf.co/Bob/M-GGUF:Q4_K_M"),
        *("m" * 80, "n" * 80 + "/m", "m:" + "t" * 80, "h" * 350 + "/n/m"),
    ],
)
def test_ollama_takes_these_names_for_models(name: str) -> None:
    assert is_ollama_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "a b",
            "-m",
            ".m",
            "m@q4",
            "ä",
            "m?x",
            "a\\b",
            "%2f",
            "m:",
            ":t",
            "m:a:b",
            "m:-t",
            "m" * 81,
            "m:" + "t" * 81,
        ),
        *("/m", "m/", "//m", "a//b", "n.s/m", "a:b/c", "n" * 81 + "/m", "-n/m", "a/b/c/d", "h!st/a/b"),
        *("https://m", "https://library/m", "x://y://h/a/b", "h" * 351 + "/n/m", "/models/library/m"),
    ],
)
def test_ollama_calls_these_names_invalid(name: str) -> None:
    assert not is_ollama_name(name)
