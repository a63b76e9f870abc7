"""Base models that cannot work are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcm.adapter.names import WEIGHTS_NAME
from lcm.models.base_model import load_base
from lcm.models.families import load_family
from tests.support.single_file import write_single_file
from tests.support.worlds import build_sd, build_sdxl_unet, build_unet


def refuse(message: str, path: Path | str, **options: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_base(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickled_files_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not even a pickle")
    refuse(r"^path: .*pickled checkpoint.*use its \.safetensors version", path)


def test_what_is_no_base_model_is_named(world: Path, tmp_path: Path) -> None:
    refuse("^path: there is no file", tmp_path / "nowhere.safetensors")
    for nowhere in (tmp_path / "nowhere", Path("nowhere"), "nowhere/", "a b/c", "models/a/b"):
        refuse("^path: .*is not a folder; pass", nowhere)
    refuse(
        "no complete .* checkpoint in the original layout",
        world / "sd" / "unet" / "diffusion_pytorch_model.safetensors",
    )
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, tmp_path / WEIGHTS_NAME)
    refuse(r"^path: .*is an adapter \(LoRA\), not a base model", tmp_path / WEIGHTS_NAME)
    refuse("^path: .*holds an adapter, not a base model", tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((world / "sd.safetensors").read_bytes()[:2000])
    refuse("^path: .*damaged", tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("kind", "beginning", "message"),
    [
        (
            "sd",
            "first_stage_model.",
            "lacks its VAE; use a checkpoint that has all parts or name another VAE",
        ),
        ("sd", "cond_stage_model.", "no complete .* checkpoint"),
        ("sd", "model.diffusion_model.", "no complete .* checkpoint"),
        ("sdxl", "conditioner.embedders.1.", "lacks its second text encoder"),
        (
            "sd",
            "model.diffusion_model.middle_block.1",
            "base_config: the U-Net .* tensors|does not load",
        ),
    ],
)
def test_a_missing_part_is_named(
    world: Path, tmp_path: Path, kind: str, beginning: str, message: str
) -> None:
    weights = load_file(world / f"{kind}.safetensors")
    save_file(
        {name: t for name, t in weights.items() if not name.startswith(beginning)},
        tmp_path / "m.safetensors",
    )
    refuse(message, tmp_path / "m.safetensors", base_config=world / kind)


def test_a_unet_among_the_parts_of_another_kind_is_refused(tmp_path: Path) -> None:
    build_sd(unet=build_sdxl_unet()).save_pretrained(tmp_path)
    refuse("^path: the U-Net of .* is one of SDXL, its other parts", tmp_path)


def test_a_configuration_of_another_kind_is_refused(world: Path, tmp_path: Path) -> None:
    single = world / "sd.safetensors"
    refuse(
        "^base_config: .*StableDiffusionPipeline checkpoint.*describes a StableDiffusionXL",
        single,
        base_config=world / "sdxl",
    )
    refuse("^base_config: .*has no model_index", single, base_config=tmp_path)
    refuse("^base_config: .*configuration could not be downloaded; pass a diffusers folder", single)
    refuse("could not be downloaded|does not load", single, base_config="someone/nothere")
    for name, unet in (
        ("wide", build_unet(cross_attention_dim=24)),
        ("deep", build_unet(layers_per_block=2)),
    ):
        build_sd(unet=unet).save_pretrained(tmp_path / name)
        refuse(
            "does not load with the configuration|the U-Net in", single, base_config=tmp_path / name
        )
    build_sd(unet=build_unet(transformer_layers_per_block=2)).save_pretrained(tmp_path / "large")
    large = write_single_file(
        build_sd(unet=build_unet(transformer_layers_per_block=2)), tmp_path / "large.safetensors"
    )
    # diffusers would leave layers out
    refuse("^base_config: the U-Net in .* tensors, that of", large, base_config=world / "sd")


def test_arguments_without_a_meaning_are_refused(world: Path) -> None:
    refuse(
        "^base_config: .*configuration of its own; leave it out",
        world / "sd",
        base_config=world / "sd",
    )
    for name in ("revision", "variant"):
        refuse(
            f"^{name}: a single file has none",
            world / "sd.safetensors",
            base_config=world / "sd",
            **{name: "fp16"},
        )


def test_a_teacher_is_refused_by_the_name_of_its_flag(world: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^pretrained_teacher_model: there is no file"):
        load_family("nowhere.safetensors")
    with pytest.raises(ValueError, match=r"^base_config: .*could not be downloaded"):
        load_family(str(world / "sd.safetensors"))
    with pytest.raises(ValueError, match=r"^teacher_revision: a single file has none"):
        load_family(str(world / "sd.safetensors"), revision="main")
