"""The spellings of one model's name have one canonical form, as in Ollama; other names stay different."""

from __future__ import annotations

import pytest

from herd.core.state.model_names import canonical, without_local


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
