"""Writes tiny random-weight GGUF models (about 0.8 MB) that real llama.cpp and real Ollama load.

The vocabulary (bytes as fallback, syllables, two-syllable words), the chat template and the weights are invented.
Two tricks make random weights usable in tests:

- Channel 0 of the residual stream is constant: the embedding sets it to 1 and no block writes to it, so the column 0
  of the output matrix is a logit bias per token.
- By that bias, byte and control tokens are never chosen (every text is printable) and the end-of-turn token is
  chosen about once in `mean_tokens` (every text ends without a limit).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import asdict, dataclass
from math import log, sqrt
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float16]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITER_REVISION = 2
"""Part of the cached file's name. It must be increased when the format of the file changes."""

END_OF_TURN = "<|im_end|>"
SPREAD = 0.05
NEVER = -30.0
SPACE = "\u2581"
UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1
"""The token types of the GGUF vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """The parameters of a model file. Equal parameters give identical files."""

    seed: int = 1
    embedding: bool = False
    """Mean pooling and no output bias: serves embeddings instead of text."""
    mean_tokens: int = 64
    """The average length of answers at temperature 1 (shorter with the usual top-k)."""
    context_tokens: int = 8192
    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 128
    head_channels: int | None = None
    """The channels of an attention head; None: they divide the width."""
    name: str = "tiny-random"

    @property
    def head_width(self) -> int:
        return self.head_channels or self.width // self.heads


@dataclass(frozen=True, slots=True)
class Vocabulary:
    tokens: list[bytes]
    types: list[int]
    scores: list[float]

    @property
    def end_of_turn(self) -> int:
        return self.tokens.index(END_OF_TURN.encode())


def invent_vocabulary(words: int = 1600) -> Vocabulary:
    """Specials, 256 byte tokens, printable characters, 90 syllables, and `words` words of two syllables."""
    special = [(b"<unk>", UNKNOWN), (b"<s>", CONTROL), (b"</s>", CONTROL)]
    special += [(f"<0x{value:02X}>".encode(), BYTE) for value in range(256)]
    special += [(b"<|im_start|>", CONTROL), (END_OF_TURN.encode(), CONTROL)]
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
    pairs = [first + second for first in syllables for second in syllables][:words]
    characters = [chr(code) for code in range(33, 127)] + [SPACE]
    spoken = characters + syllables + [SPACE + piece for piece in syllables + pairs]
    unique = list(dict.fromkeys(spoken))
    tokens = [token for token, _ in special] + [piece.encode() for piece in unique]
    types = [kind for _, kind in special] + [NORMAL] * len(unique)
    scores = [0.0] * len(special) + [-float(rank) for rank in range(len(unique))]
    return Vocabulary(tokens, types, scores)


def write_tiny_gguf(path: Path, model: TinyModel) -> None:
    """Writes the model to `path` and replaces an existing file."""
    vocabulary = invent_vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    describe(writer, model, len(vocabulary.tokens))
    describe_vocabulary(writer, vocabulary)
    for name, values in tensors(model, vocabulary).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, model: TinyModel, vocabulary_size: int) -> None:
    """The architecture's numbers."""
    writer.add_name(model.name)
    writer.add_description("random weights, for tests only")
    writer.add_context_length(model.context_tokens)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.hidden)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_width)
    writer.add_value_length(model.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(model.head_width)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(vocabulary_size)
    writer.add_chat_template(CHAT_TEMPLATE)
    if model.embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)


def describe_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """The tokenizer: a sentence-piece kind with byte fallback."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(vocabulary.end_of_turn)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def tensors(model: TinyModel, vocabulary: Vocabulary) -> dict[str, NDArray[np.generic]]:
    """All weights by name, from one generator, in one order: the file depends on the seed alone."""
    rng = np.random.default_rng(model.seed)

    def some(*shape: int) -> Weights:
        return (rng.standard_normal(shape, dtype=np.float32) * SPREAD).astype(np.float16)

    def closed(weights: Weights) -> Weights:
        """A matrix that does not write to channel 0."""
        if not model.embedding:
            weights[0] = 0
        return weights

    ones = np.ones(model.width, dtype=np.float32)
    size = len(vocabulary.tokens)
    embedding = some(size, model.width)
    out: dict[str, NDArray[np.generic]] = {"token_embd.weight": embedding, "output_norm.weight": ones}
    if not model.embedding:
        embedding[:, 0] = 1.0
        out["output.weight"] = biased(some(size, model.width), model, vocabulary)
    attention, kv = model.heads * model.head_width, model.kv_heads * model.head_width
    for layer in range(model.layers):
        block = f"blk.{layer}."
        out[block + "attn_norm.weight"] = ones
        out[block + "ffn_norm.weight"] = ones
        out[block + "attn_q.weight"] = some(attention, model.width)
        out[block + "attn_k.weight"] = some(kv, model.width)
        out[block + "attn_v.weight"] = some(kv, model.width)
        out[block + "attn_output.weight"] = closed(some(model.width, attention))
        out[block + "ffn_gate.weight"] = some(model.hidden, model.width)
        out[block + "ffn_up.weight"] = some(model.hidden, model.width)
        out[block + "ffn_down.weight"] = closed(some(model.width, model.hidden))
    return out


def biased(output: Weights, model: TinyModel, vocabulary: Vocabulary) -> Weights:
    """The output matrix with its column 0 as the logit bias of each token."""
    constant = sqrt(model.width) / sqrt(1 + (model.width - 1) * SPREAD**2)
    """The approximate value of channel 0 after the last normalization."""
    types = np.array(vocabulary.types)
    spoken = int((types == NORMAL).sum())
    output[:, 0] = 0
    output[types != NORMAL] = 0
    output[types != NORMAL, 0] = NEVER / constant
    output[vocabulary.end_of_turn, 0] = log(spoken / model.mean_tokens) / constant
    return output


def cache_folder() -> Path:
    """The folder for models between test runs: `HERD_TEST_CACHE`, else the user's cache folder."""
    configured = os.environ.get("HERD_TEST_CACHE")
    root = (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herd-tests"
    )
    return root / "tiny-models"


def tiny_gguf(model: TinyModel | None = None, folder: Path | None = None) -> Path:
    """The path of the model's file, which is written on first use (0.1 s). Several processes may call it at once."""
    model = model or TinyModel()
    folder = folder or cache_folder()
    key = hashlib.sha256(f"{WRITER_REVISION} {sorted(asdict(model).items())}".encode()).hexdigest()[:16]
    path = folder / f"tiny-{key}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as workshop:
            draft = Path(workshop) / path.name
            write_tiny_gguf(draft, model)
            draft.replace(path)
    return path
