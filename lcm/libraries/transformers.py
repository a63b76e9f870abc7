"""transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import transformers
from transformers import CLIPTokenizerFast

READS_TOKENIZER_FILE = int(transformers.__version__.partition(".")[0]) >= 5
"""Whether `CLIPTokenizer` reads tokenizer.json, the one file that transformers 5 writes of a
tokenizer, and says where in a text its tokens stand.
"""


# transformers >= 5: nothing
def tokenizers_of_folder(folder: Path) -> dict[str, Any]:
    """The tokenizers of a model's folder that its class does not read, by name."""
    if READS_TOKENIZER_FILE:
        return {}
    places = {name: folder / name for name in ("tokenizer", "tokenizer_2")}
    return {
        name: CLIPTokenizerFast.from_pretrained(place)
        for name, place in places.items()
        if (place / "tokenizer.json").is_file() and not (place / "vocab.json").is_file()
    }


# transformers >= 5 for everybody who gets the folder: nothing
def save_for_all(pipe: Any, folder: str | os.PathLike[str], **options: Any) -> None:
    """Saves a pipeline with its tokenizers in the layout that every release reads, too: vocab.json
    and merges.txt.
    """
    pipe.save_pretrained(folder, **options)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(pipe, name, None)
        if getattr(tokenizer, "is_fast", False):
            tokenizer.backend_tokenizer.model.save(str(Path(folder, name)))


# transformers >= 5: the tokenizer itself
def with_offsets(tokenizer: Any) -> Any:
    """The tokenizer, or one of the same words, that takes `return_offsets_mapping`."""
    if tokenizer.is_fast:
        return tokenizer
    rules = transformers.convert_slow_tokenizer.convert_slow_tokenizer(tokenizer)
    return CLIPTokenizerFast(tokenizer_object=rules)
