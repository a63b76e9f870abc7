"""A real byte-pair `CLIPTokenizer` whose merges cover the words of a world's captions.

Any other text still tokenises: it falls apart into single characters, as unknown words do in Stable
Diffusion.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

from examples.shapes.render import WORLD
from examples.worlds import World

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]
MODEL_MAX_LENGTH = 77  # every tool around Stable Diffusion hard-codes it


def byte_characters() -> list[str]:
    """The 256 printable stand-ins of bytes that GPT-2 and CLIP use."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }
    return [table[byte] for byte in range(256)]


def apply_merges(word: str, merges: list[Pair]) -> list[str]:
    """Byte-pair encoding of one word: the earliest merge of the list that fits comes first."""
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    while True:
        pairs = list(itertools.pairwise(pieces))
        ranks = [merges.index(pair) for pair in pairs if pair in merges]
        if not ranks:
            return pieces
        at = pairs.index(merges[min(ranks)])
        pieces[at : at + 2] = ["".join(pairs[at])]


def word_merges(words: list[str]) -> list[Pair]:
    """Merges that make every word one token. A word adds only what the words before it left in
    pieces.
    """
    merges: list[Pair] = []
    for word in words:
        left, *rest = apply_merges(word, merges)
        for right in rest:
            merges.append((left, right))
            left += right
    return merges


def write_vocabulary(folder: Path, tokens: Iterable[str], merges: Iterable[Pair]) -> None:
    """Writes vocab.json and merges.txt, the files of a tokenizer that every release of transformers
    reads; from 5.0 on it writes tokenizer.json in their place, which older ones do not read.
    """
    vocabulary = {token: number for number, token in enumerate(tokens)}
    text = json.dumps(vocabulary, ensure_ascii=False) + "\n"
    (folder / "vocab.json").write_text(text, encoding="utf-8", newline="\n")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def build_tokenizer(size: int = 0, world: World = WORLD) -> CLIPTokenizer:
    """The tokenizer; up to `size` tokens with words that no text has, as a vocabulary of that size
    would have them.
    """
    words = sorted(
        {word for text in world.captions for word in text.split()},
        key=lambda word: (len(word), word),
    )
    merges = word_merges(words)
    characters = byte_characters()
    tokens = [
        *characters,
        *(c + END_OF_WORD for c in characters),
        *dict.fromkeys(a + b for a, b in merges),
    ]
    tokens += [f"unused{i}{END_OF_WORD}" for i in range(size - len(tokens) - 2)]
    tokens += [START, END]
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(Path(folder), tokens, merges)
        return CLIPTokenizer(
            *(str(Path(folder, name)) for name in ("vocab.json", "merges.txt")),
            bos_token=START,
            eos_token=END,
            unk_token=END,
            pad_token=END,
            model_max_length=MODEL_MAX_LENGTH,
        )
