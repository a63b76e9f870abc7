"""A whole trained U-Net: its folder, and the proof that the folder is what was trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lcm.adapter.export import ExportError, check_finite
from lcm.adapter.model_folder import CONFIG, load_model
from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER
from lcm.adapter.recipe import Recipe
from lcm.libraries.diffusers import in_dtype
from lcm.system.atomic import replacing
from lcm.system.paths import write_text
from lcm.system.transfers import fetched
from lcm.system.values import shown

SHARED = (
    *("in_channels", "out_channels", "cross_attention_dim", "addition_embed_type"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim", "encoder_hid_dim_type"),
)
"""What a U-Net has in common with the one whose place it takes: what it is given, and answers."""
W_EMBEDDING_DIM = 256
"""Width of the guidance embedding, that of the published latent consistency models."""


@torch.no_grad()
def export_unet(unet: Any, folder: Path, recipe: Recipe, dtype: torch.dtype) -> None:
    """Writes `folder`/unet, complete or not at all, and compares it with the network in training.

    No second network is made: with optimizer, average and teacher there may be no room for one.
    Raises ValueError when a value does not fit `dtype`, ExportError when the files are not what was
    trained.
    """
    state = {name: fetched(value.to(dtype)) for name, value in unet.state_dict().items()}
    check_finite(state, "tensors of the U-Net", dtype)
    with torch.device("meta"):
        shell = type(unet).from_config(unet.config)
    shell.load_state_dict(state, assign=True)
    with replacing(folder / UNET_FOLDER) as partial:
        shell.save_pretrained(partial, safe_serialization=True)
        write_text(partial / RECIPE_NAME, recipe.to_json())
        forget_origin(partial / "config.json")
        verify_unet(unet, partial, dtype)


def forget_origin(path: Path) -> None:
    """Takes from a model's configuration where diffusers had loaded it from."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.pop("_name_or_path", None) is not None:
        write_text(path, json.dumps(facts, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def verify_unet(unet: Any, folder: Path, dtype: torch.dtype) -> None:
    """Compares the configuration and, one at a time, the tensors in `folder` with the network in
    training.

    Raises ExportError on any difference beyond the rounding to `dtype`: the same class would not
    reload as what was trained.
    """
    if architecture(type(unet).load_config(folder)) != architecture(unet.config):
        raise ExportError(f"{folder}: the configuration differs from that of the trained U-Net")
    live, found = unet.state_dict(), set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name not in live or not torch.equal(
                    file.get_tensor(name), fetched(live[name].to(dtype))
                ):
                    raise ExportError(f"{path}: {name} is not what was trained")
                found.add(name)
    if missing := sorted(live.keys() - found):
        raise ExportError(
            f"{folder} lacks {len(missing)} of {len(live)} tensors, the first is {missing[0]}"
        )


def architecture(config: Any) -> Any:
    """The entries of a configuration that shape the network, as JSON has them."""
    return json.loads(
        json.dumps({name: value for name, value in config.items() if not name.startswith("_")})
    )


def load_unet(path: str | os.PathLike[str], like: Any) -> Any:
    """The trained U-Net, where and in which precision `like` is. Raises ValueError or
    FileNotFoundError, in one line, for a folder that does not load, or is no U-Net of its kind.
    """
    folder = Path(path, UNET_FOLDER)
    unet = load_model(type(like), folder, **in_dtype(like.dtype))
    for name in SHARED:
        ours, theirs = unet.config.get(name), like.config.get(name)
        if ours != theirs:
            raise ValueError(
                f"{folder / CONFIG}: {name} is {shown(ours)}, that of this pipeline's U-Net "
                f"{shown(theirs)}; use a base model of its kind"
            )
    return unet.to(like.device)
