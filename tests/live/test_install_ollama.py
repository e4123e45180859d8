"""The installer of a real Ollama checks Go and an existing installation before it installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from live import install_ollama, prompt_check


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


FAKE_OLLAMA = """#!{python}
import http.server, os, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        dies = {dies} and self.path == "/api/generate"
        self.send_response(500 if dies else 200)
        self.end_headers()
        self.wfile.write(b'{{"error": "the runner has died"}}' if dies else b'{{"done": true}}')
    def log_message(self, *_): pass
open({counter!r}, "a").write("x")
host, _, port = os.environ["OLLAMA_HOST"].partition(":")
http.server.HTTPServer((host, int(port)), Answers).serve_forever()
"""


def an_installation(folder: Path, dies: bool) -> tuple[list[str], Path]:
    """An Ollama that answers, or fails at the first prompt; the command that checks it, and its number of starts."""
    counter = folder / "starts"
    ollama = a_program(folder / "bin", "ollama", "")
    ollama.write_text(FAKE_OLLAMA.format(python=sys.executable, dies=dies, counter=str(counter)))
    for name in ("ready-made/bin", "lib/ollama"):
        a_program(folder / name, "llama-server", "version 1")
    return [sys.executable, str(Path(install_ollama.__file__)), "--cache", str(folder)], counter


def test_existing_installation_that_answers_a_prompt_is_reused_without_another_try(tmp_path: Path) -> None:
    command, starts = an_installation(tmp_path, dies=False)
    for _ in range(2):
        done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=True)
        assert done.stdout == f"OLLAMA_BIN={tmp_path / 'bin/ollama'}\n"
    assert starts.read_text() == "x"


def test_an_installation_that_dies_at_a_prompt_is_not_called_installed(tmp_path: Path) -> None:
    command, starts = an_installation(tmp_path, dies=True)
    for _ in range(2):
        done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=True)
        assert "OLLAMA_BIN" not in done.stdout and "does not answer a prompt" in done.stdout
        assert not (tmp_path / "lib/ollama/llama-server").exists(), "no test may find it"
    assert len(starts.read_text()) <= 2, "what was found out is kept"


def test_a_result_counts_for_these_files_only(tmp_path: Path) -> None:
    one, other = a_program(tmp_path, "one", "1"), a_program(tmp_path, "other", "22")
    assert prompt_check.fingerprint(one, other) == prompt_check.fingerprint(one, other)
    before = prompt_check.fingerprint(one, other)
    other.write_text("a newer file")
    assert prompt_check.fingerprint(one, other) != before


def test_the_tiny_model_is_a_complete_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    path.write_bytes(prompt_check.tiny_model())
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert len(reader.tensors) == 3 + 9 * prompt_check.LAYERS
    assert prompt_check.tiny_model() == path.read_bytes()


def test_replacement_script_only_copies(tmp_path: Path) -> None:
    install_ollama.install_quantize_script(tmp_path)
    script, source, target = tmp_path / "llama-quantize", tmp_path / "a", tmp_path / "b"
    source.write_text("weights")
    subprocess.run([script, "--allow-requantize", source, target, "COPY"], check=True)
    assert target.read_text() == "weights"
    refused = subprocess.run([script, source, target, "Q4_0"], capture_output=True)
    assert refused.returncode == 1
