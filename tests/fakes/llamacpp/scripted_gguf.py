"""Writes GGUF models that play a script: the last token of the prompt decides the whole answer, at any temperature.

A prompt ends with a cue, a control token of its own, which the model's template chooses. The answer is cut into pieces.
Each piece is one token that occurs at one place only, so that each token has one successor. The blocks of the network
add nothing: the embedding of the last token reaches the output matrix, which finds the successor. The matrix is
the solution of that system of equations, and the embeddings have at least as many channels as the script has tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from fakes.llamacpp.tiny_gguf import (
    CONTROL,
    END_OF_TURN,
    NORMAL,
    SPACE,
    TinyModel,
    Vocabulary,
    describe,
    describe_vocabulary,
    invent_vocabulary,
    tensors,
)

PIECE_CHARACTERS = 12
"""The usual length of a piece."""
CHANNELS_STEP = 64
CERTAINTY = 40.0
"""The logit of the successor. The other tokens have 0."""


def write_scripted_gguf(path: Path, model: TinyModel, answers: Mapping[str, str]) -> None:
    """Writes a model that gives `answers[cue]` to a prompt whose last token is `cue`."""
    known = invent_vocabulary()
    chains = pieces_of(answers, {token.decode() for token in known.tokens})
    spoken = [piece for pieces in chains.values() for piece in pieces]
    least = min(known.scores)
    vocabulary = Vocabulary(
        [*known.tokens, *(token.encode() for token in [*chains, *spoken])],
        [*known.types, *[CONTROL] * len(chains), *[NORMAL] * len(spoken)],
        [*known.scores, *[0.0] * len(chains), *(least - 1 - number for number in range(len(spoken)))],
    )
    channels = -(-(len(chains) + len(spoken)) // CHANNELS_STEP) * CHANNELS_STEP
    model = replace(model, width=channels)
    writer = gguf.GGUFWriter(str(path), "llama")
    describe(writer, model, len(vocabulary.tokens))
    describe_vocabulary(writer, vocabulary)
    for name, values in scripted_tensors(model, vocabulary, chains).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pieces_of(answers: Mapping[str, str], taken: set[str]) -> dict[str, list[str]]:
    """The pieces of each answer, all different and none in `taken`. Raises `ValueError` for two equal answers."""
    used = set(taken)
    chains: dict[str, list[str]] = {}
    for cue, answer in answers.items():
        pieces: list[str] = []
        rest = answer.replace(" ", SPACE)
        while rest:
            end = PIECE_CHARACTERS
            while rest[:end] in used and end < len(rest):
                end += 1
            piece, rest = rest[:end], rest[end:]
            while pieces and piece in used:
                # Two answers end equally: the end is joined with the pieces before it.
                used.discard(pieces[-1])
                piece = pieces.pop() + piece
            if piece in used:
                raise ValueError(f"this answer is another one's or a token: {answer}")
            used.add(piece)
            pieces.append(piece)
        chains[cue] = pieces
    return chains


def scripted_tensors(
    model: TinyModel, vocabulary: Vocabulary, chains: Mapping[str, list[str]]
) -> dict[str, NDArray[np.generic]]:
    """Random embeddings of equal length, blocks that add nothing, and the output matrix that finds the successors."""
    out = tensors(model, vocabulary)
    size = len(vocabulary.tokens)
    embedding = np.random.default_rng(model.seed).standard_normal((size, model.width), dtype=np.float32)
    embedding *= np.sqrt(model.width) / np.linalg.norm(embedding, axis=1, keepdims=True)
    numbers = {token.decode(): number for number, token in enumerate(vocabulary.tokens)}
    before = [numbers[token] for cue, pieces in chains.items() for token in [cue, *pieces]]
    after = [numbers[token] for pieces in chains.values() for token in [*pieces, END_OF_TURN]]
    wanted = np.zeros((len(before), size), dtype=np.float32)
    wanted[range(len(before)), after] = CERTAINTY
    output = np.linalg.lstsq(embedding[before], wanted, rcond=None)[0].T
    out["token_embd.weight"] = embedding.astype(np.float16)
    out["output.weight"] = output.astype(np.float16)
    for name in out:
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            out[name] = np.zeros_like(out[name])
    return out
