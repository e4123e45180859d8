"""Asks a real Ollama one prompt, with a tiny model that is written here without any package.

`--version` proves little: a llama-server whose instructions the processor lacks dies only when it computes. The result
is stored beside the installation, for this processor and these files, so that one check is enough.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import platform
import random
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

RESULTS_FILE = "prompt-results.json"
PROMPT_TIMEOUT_S = 120.0
WIDTH, HEADS, HIDDEN, LAYERS, CONTEXT_TOKENS = 64, 4, 128, 2, 512
"""The model's size: it answers nonsense, but it computes like every other."""
ALIGNMENT_BYTES = 32
_U32, _F32, _TEXT, _LIST = 4, 6, 8, 9
"""Types of metadata in a GGUF file."""
_TENSOR_F32, _TENSOR_F16 = 0, 1


def answers_a_prompt(ollama: Path, llama_server: Path, results: Path) -> bool:
    """Whether this Ollama answers on this processor, from `results` if the same files were tried here before."""
    key = fingerprint(ollama, llama_server)
    known: dict[str, bool] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(results.read_text())
    if key not in known:
        known[key] = try_prompt(ollama)
        results.write_text(json.dumps(known, indent=1))
    return known[key]


def fingerprint(*files: Path) -> str:
    """Identifies the files by size and time, and the processor by its model and features."""
    parts = [platform.machine(), processor()]
    for path in files:
        status = path.resolve().stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def processor() -> str:
    """The lines of /proc/cpuinfo that describe the first processor; its general name on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def try_prompt(ollama: Path) -> bool:
    """Starts `ollama serve` with an own port and folder, and asks one prompt."""
    with tempfile.TemporaryDirectory(prefix="herd-prompt-") as name, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        reserved.close()
        environment = {
            **os.environ,
            "HOME": name,
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(Path(name) / "models"),
            "OLLAMA_NO_CLOUD": "1",
        }
        try:
            server = subprocess.Popen(
                [ollama, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError:
            return False
        try:
            return wait_until_up(port, server) and ask_prompt(port)
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            server.kill()
            server.wait()


def wait_until_up(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Whether the server accepts connections before it ends or the time is over."""
    deadline = time.monotonic() + PROMPT_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False


def ask_prompt(port: int) -> bool:
    """Uploads the model and asks it for two tokens; an error of any kind means that this Ollama does not work."""
    model = tiny_model()
    digest = f"sha256:{hashlib.sha256(model).hexdigest()}"
    create = {"model": "t", "files": {"t.gguf": digest}, "stream": False}
    prompt = {"model": "t", "prompt": "hi", "raw": True, "stream": False, "options": {"num_predict": 2, "num_ctx": 64}}
    for path, body in (
        (f"/api/blobs/{digest}", model),
        ("/api/create", json.dumps(create).encode()),
        ("/api/generate", json.dumps(prompt).encode()),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROMPT_TIMEOUT_S)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status >= 300:
            return False
    return b'"done":true' in answer.replace(b" ", b"")


def tiny_model() -> bytes:
    """A GGUF file (version 3) of a llama model with random weights; about 300 kB, always the same bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "\u2581", "a", "b", "c"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 4]
    metadata = b"".join(
        (
            _entry("general.architecture", _TEXT, _text("llama")),
            *(_entry(f"llama.{name}", _U32, struct.pack("<I", value)) for name, value in _numbers(len(tokens)).items()),
            _entry("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)),
            _entry("tokenizer.ggml.model", _TEXT, _text("llama")),
            _entry("tokenizer.ggml.tokens", _LIST, _head(_TEXT, tokens) + b"".join(map(_text, tokens))),
            _entry(
                "tokenizer.ggml.scores", _LIST, _head(_F32, tokens) + struct.pack(f"<{len(tokens)}f", *_scores(tokens))
            ),
            _entry("tokenizer.ggml.token_type", _LIST, _head(5, tokens) + struct.pack(f"<{len(tokens)}i", *kinds)),
            _entry("tokenizer.ggml.bos_token_id", _U32, struct.pack("<I", 1)),
            _entry("tokenizer.ggml.eos_token_id", _U32, struct.pack("<I", 2)),
            _entry("tokenizer.ggml.unknown_token_id", _U32, struct.pack("<I", 0)),
        )
    )
    infos, data = _tensors(len(tokens))
    entries = len(_numbers(0)) + 9
    head = b"GGUF" + struct.pack("<IQQ", 3, infos.count(b".weight"), entries) + metadata + infos
    return head + b"\0" * (-len(head) % ALIGNMENT_BYTES) + data


def _numbers(vocabulary: int) -> dict[str, int]:
    return {
        "context_length": CONTEXT_TOKENS,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": WIDTH // HEADS,
        "vocab_size": vocabulary,
    }


def _scores(tokens: list[str]) -> list[float]:
    return [-float(rank) for rank in range(len(tokens))]


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _head(kind: int, values: list[str]) -> bytes:
    return struct.pack("<IQ", kind, len(values))


def _tensors(vocabulary: int) -> tuple[bytes, bytes]:
    """The descriptions of all tensors, and their values."""
    square, up, down = (WIDTH, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (WIDTH, vocabulary), "output_norm": (WIDTH,)}
    shapes["output"] = (WIDTH, vocabulary)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {block + name: square for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {block + "attn_norm": (WIDTH,), block + "ffn_norm": (WIDTH,)}
        shapes |= {block + "ffn_gate": up, block + "ffn_up": up, block + "ffn_down": down}
    rng = random.Random(1)
    infos, data = b"", bytearray()
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        kind = _TENSOR_F32 if is_norm else _TENSOR_F16
        infos += _text(f"{name}.weight") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", kind, len(data))
        count = shape[0] * (1 if is_norm else shape[1])
        values = [1.0] * count if is_norm else [rng.gauss(0.0, 0.05) for _ in range(count)]
        data += struct.pack(f"<{count}{'f' if is_norm else 'e'}", *values)
        data += b"\0" * (-len(data) % ALIGNMENT_BYTES)
    return infos, bytes(data)
