"""The scripted models: unique pieces, and a matrix that finds each successor."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest

from fakes.llamacpp.scripted_gguf import CERTAINTY, pieces_of, scripted_tensors
from fakes.llamacpp.tiny_gguf import CONTROL, NORMAL, TinyModel, Vocabulary

ANSWERS = {
    "<|a|>": '<call>{"name": "cat", "of": "/a/long/path/notes.txt"}</call>\n<call>{"name": "cat", "of": "/a"}</call>',
    "<|b|>": '<call>{"name": "edit", "of": "/a/long/path/notes.txt", "new": "naïve 東京"}</call>',
    "<|c|>": "Done.",
}


def test_pieces_are_unique_and_make_the_answers() -> None:
    chains = pieces_of(ANSWERS, {"<call>{"})
    spoken = list(chain.from_iterable(chains.values()))
    assert len(set(spoken)) == len(spoken) and "<call>{" not in spoken
    assert {cue: "".join(pieces).replace("▁", " ") for cue, pieces in chains.items()} == ANSWERS


def test_equal_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="another one's"):
        pieces_of({"<|a|>": "Done.", "<|b|>": "Done."}, set())


def test_each_token_has_one_clear_successor() -> None:
    chains = pieces_of(ANSWERS, set())
    tokens = ["<|im_end|>", *chains, *chain.from_iterable(chains.values())]
    types = [CONTROL] * (1 + len(chains)) + [NORMAL] * (len(tokens) - 1 - len(chains))
    vocabulary = Vocabulary([token.encode() for token in tokens], types, [0.0] * len(tokens))
    made = scripted_tensors(TinyModel(layers=1), vocabulary, chains)
    logits = made["token_embd.weight"].astype(np.float32) @ made["output.weight"].astype(np.float32).T
    for cue, pieces in chains.items():
        for token, successor in pairwise([cue, *pieces, "<|im_end|>"]):
            others = np.delete(logits[tokens.index(token)], tokens.index(successor))
            assert logits[tokens.index(token), tokens.index(successor)] > CERTAINTY * 0.99
            assert abs(others).max() < 1
