"""The installer of a real Ollama checks Go and an existing installation before it installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from live import install_ollama


def a_program(folder: Path, name: str, prints: str, status: int = 0) -> Path:
    """Writes an executable that prints one line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("printed", "version"),
    [("go version go1.26.6 linux/amd64", (1, 26)), ("go version go1.9 darwin/arm64", (1, 9)), ("nonsense", (0, 0))],
)
def test_version_of_go_is_read(printed: str, version: tuple[int, int]) -> None:
    assert install_ollama.go_version(printed) == version


def test_missing_go_is_reported(tmp_path: Path) -> None:
    with pytest.raises(install_ollama.Unavailable, match="no Go client found"):
        install_ollama.find_go(str(tmp_path))


def test_old_go_version_is_reported(tmp_path: Path) -> None:
    a_program(tmp_path, "go", "go version go1.20.1 linux/amd64")
    with pytest.raises(install_ollama.Unavailable, match=r"go1\.20\.1 .* is too old"):
        install_ollama.find_go(str(tmp_path))


def test_new_go_version_is_accepted(tmp_path: Path) -> None:
    go = a_program(tmp_path, "go", "go version go1.26.0 linux/amd64")
    assert install_ollama.find_go(str(tmp_path)) == str(go)


def test_binary_that_fails_is_not_used(tmp_path: Path) -> None:
    assert install_ollama.runs_here(a_program(tmp_path, "good", "version 1"))
    assert not install_ollama.runs_here(a_program(tmp_path, "bad", "", status=1))
    assert not install_ollama.runs_here(tmp_path / "missing")


def test_existing_installation_is_reused(tmp_path: Path) -> None:
    a_program(tmp_path / "bin", "ollama", "")
    a_program(tmp_path / "lib/ollama", "llama-server", "version 1")
    a_program(tmp_path / "lib/ollama", "llama-quantize", "")
    command = [sys.executable, str(Path(install_ollama.__file__)), "--cache", str(tmp_path)]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert done.stdout == f"OLLAMA_BIN={tmp_path / 'bin/ollama'}\n"


def test_replacement_script_only_copies(tmp_path: Path) -> None:
    install_ollama.install_quantize_script(tmp_path)
    script, source, target = tmp_path / "llama-quantize", tmp_path / "a", tmp_path / "b"
    source.write_text("weights")
    subprocess.run([script, "--allow-requantize", source, target, "COPY"], check=True)
    assert target.read_text() == "weights"
    refused = subprocess.run([script, source, target, "Q4_0"], capture_output=True)
    assert refused.returncode == 1
