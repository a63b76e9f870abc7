"""A model's folder means the same whichever release of transformers wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcm.libraries.transformers import PREFIX, save_for_all, with_offsets
from lcm.models.base_model import load_base
from lcm.models.prompts import tokenizers_of
from tests.support.worlds import build_sd, build_sdxl

TEXT = "a red star on a blue background"


def older(pipe: Any, folder: Path) -> None:
    """As transformers wrote it before 5.0."""
    save_for_all(pipe, folder)
    for file in folder.glob("tokenizer*/tokenizer.json"):
        file.unlink()


def newer(pipe: Any, folder: Path) -> None:
    """As transformers writes it from 5.6 on."""
    pipe.save_pretrained(folder)
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers_of(pipe), strict=False):
        with_offsets(tokenizer).backend_tokenizer.save(str(folder / name / "tokenizer.json"))
        for file in ("vocab.json", "merges.txt"):
            (folder / name / file).unlink(missing_ok=True)
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = {name.removeprefix(PREFIX): value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def embedded(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = pipe.encode_prompt(
            prompt=TEXT,
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0]
    return found


@pytest.mark.parametrize("write", [older, newer, save_for_all])
@pytest.mark.parametrize("build", [build_sd, build_sdxl])
def test_text_encoders_and_tokenizers_of_every_layout_are_read(
    build: Callable[[], Any], write: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    pipe = build()
    write(pipe, tmp_path)
    loaded = load_base(tmp_path)
    assert torch.equal(embedded(loaded), embedded(pipe))
    for ours, theirs in zip(tokenizers_of(loaded), tokenizers_of(pipe), strict=True):
        assert ours(TEXT).input_ids == theirs(TEXT).input_ids
        assert ours.model_max_length == theirs.model_max_length == 77
    half = load_base(tmp_path, dtype=torch.float16)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.float16}


def test_tokens_are_found_in_the_text() -> None:
    tokenizer = build_sd().tokenizer
    found = with_offsets(tokenizer)(TEXT, return_offsets_mapping=True)
    assert found.input_ids == tokenizer(TEXT).input_ids
    pieces = [TEXT[start:end] for start, end in found.offset_mapping]
    assert "".join(pieces) == TEXT.replace(" ", "")
