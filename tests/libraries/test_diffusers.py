"""diffusers is asked in the words of the release that is here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from packaging.version import Version

from lcm.libraries import diffusers as library


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_precision_that_was_asked_for_is_the_one_that_is_loaded(
    dtype: torch.dtype, sd_folder: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, **library.in_dtype(dtype))
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {dtype}


@pytest.mark.parametrize("can_link", [True, False])
def test_a_file_that_is_still_written_has_the_name_of_its_kind_for_a_while(
    can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / ".adapter.safetensors.part"
    file.write_bytes(b"content")
    with library.named_as_safetensors(file) as named:
        assert named.suffix == ".safetensors" and named.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [file]
    with library.named_as_safetensors(tmp_path / "a.safetensors") as named:
        assert named == tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    ("diffusers", "transformers", "is_fine"),
    [
        ("0.35.0", "4.48.0", True),
        ("0.38.0", "5.5.4", True),
        ("0.40.0", "5.17.0", False),
        ("0.41.0", "5.17.0", True),
        ("0.42.1", "5.24.0", True),
    ],
)
def test_pairs_that_fall_over_text_encoders_are_refused(
    diffusers: str, transformers: str, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "VERSION", Version(diffusers))
    monkeypatch.setattr(library, "transformers", SimpleNamespace(__version__=transformers))
    library.check_text_encoders(["unet.conv_in"])
    if is_fine:
        library.check_text_encoders(["unet.conv_in", "text_encoder.layers.0"])
    else:
        with pytest.raises(ValueError, match=r"pip install --upgrade 'diffusers>=0\.41'"):
            library.check_text_encoders(["unet.conv_in", "text_encoder_2.layers.0"])
