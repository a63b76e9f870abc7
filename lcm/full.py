"""Training the whole U-Net instead of an adapter: its copy, its folder, the proof that the folder reloads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from lcm.adapters import ExportError, probe
from lcm.networks import guidance_embedding
from lcm.recipe import Recipe

UNET_FOLDER = "unet"
RECIPE_NAME = "lcm_recipe.json"
W_EMBEDDING_DIM = 256
"""Width of the guidance embedding, that of the published latent consistency models."""


def copy_for_training(unet: Any, w_embedding: bool) -> Any:
    """A float32 copy of the teacher with gradients. With `w_embedding` it has a layer for the guidance scale, zero at first:
    it then is the teacher whatever guidance it is told. Raises ValueError when the teacher has such a layer already."""
    if unet.config.get("time_cond_proj_dim") is not None:
        raise ValueError("the teacher already has a guidance embedding: it is a distilled model; pass the model it was made from")
    # as an argument: an entry that the teacher's own file left out would be ignored inside the configuration
    added = {"time_cond_proj_dim": W_EMBEDDING_DIM} if w_embedding else {}
    with torch.device(unet.device):
        student = type(unet).from_config(unet.config, **added)
    missing, unexpected = student.load_state_dict(unet.state_dict(), strict=False)  # converts as it copies
    assert not unexpected and set(missing) <= {"time_embedding.cond_proj.weight"}
    if w_embedding:
        torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.float().requires_grad_(True)


def is_full(path: str | os.PathLike[str]) -> bool:
    """Whether this is the output folder of a run that trained the whole U-Net."""
    return Path(path, UNET_FOLDER, RECIPE_NAME).is_file()


@torch.no_grad()
def export_unet(unet: Any, folder: Path, recipe: Recipe, dtype: torch.dtype) -> Any:
    """Writes `folder`/unet, complete or not at all, reloads and compares it. Returns the reloaded U-Net.

    Raises ExportError when it does not answer as the trained one does, beyond the rounding to `dtype`.
    """
    partial, final = folder / f".{UNET_FOLDER}.part", folder / UNET_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    rounded = type(unet).from_config(unet.config).to(dtype)
    rounded.load_state_dict({name: value.to("cpu", dtype) for name, value in unet.state_dict().items()})
    rounded.save_pretrained(partial, safe_serialization=True)
    (partial / RECIPE_NAME).write_text(recipe.to_json())
    reloaded = type(unet).from_pretrained(partial, dtype=dtype).to(unet.device).eval()
    inputs = probe(reloaded)
    if unet.config.time_cond_proj_dim is not None:
        scale = torch.tensor([recipe.guidance_scale] * 2, device=unet.device)
        inputs["timestep_cond"] = guidance_embedding(scale, unet.config.time_cond_proj_dim).to(dtype)
    expected, found = rounded.to(unet.device).eval()(**inputs).sample.float(), reloaded(**inputs).sample.float()
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ExportError(f"{partial}: the reloaded U-Net answers otherwise than the trained one")
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    return reloaded


def read_full_recipe(path: str | os.PathLike[str]) -> Recipe:
    return Recipe.from_json(Path(path, UNET_FOLDER, RECIPE_NAME).read_text())


def load_unet(path: str | os.PathLike[str], like: Any) -> Any:
    """The trained U-Net, where and in which precision `like` is."""
    return type(like).from_pretrained(Path(path, UNET_FOLDER), dtype=like.dtype).to(like.device)
