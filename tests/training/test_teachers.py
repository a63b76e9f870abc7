"""One adapter on several teachers: nothing else changes, and what cannot be mixed is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from lcm.adapter.lora import base_state
from lcm.config.command_line import parse_config
from lcm.data.sampler import teacher_of
from lcm.dry_run.memory_fit import ENCODERS, UNET
from lcm.dry_run.preparation import preparations
from lcm.dry_run.step_memory import held_by
from lcm.models.families import StableDiffusion
from lcm.publish.card import make_card
from lcm.system.memory import memory_of
from lcm.training.plan import summarize
from lcm.training.setup import build_recipe
from lcm.training.teachers import load_teachers
from tests.support.runs import FROM_TRAJECTORIES, flags, same, trained, trainer_of
from tests.support.worlds import build_sd, build_unet, vary


@pytest.fixture(scope="module")
def fine_tunes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fine-tunes of the SD world's model: `unet` of its U-Net alone, `all` of its text encoder
    and VAE too.
    """
    folder = tmp_path_factory.mktemp("fine-tunes")
    for name in ("unet", "all"):
        pipe = build_sd()
        vary(pipe.unet, 1)
        if name == "all":
            vary(pipe.text_encoder, 2)
            vary(pipe.vae, 3)
        pipe.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red star\na blue ring\na green disc\n")
    return path


MIXED: dict[str, dict[str, Any]] = {
    "pictures": {"gradient_accumulation_steps": 2, "target": "ema"},
    "cache": {"cache_latents": True},
    "trajectories": FROM_TRAJECTORIES,
}


def options(name: str, prompts: Path, folder: Path) -> dict[str, Any]:
    """The options of a run in MIXED; what it makes lies in `folder`."""
    places = {
        "cache": {"latent_cache_dir": folder / "cache"},
        "trajectories": {"prompts_file": prompts, "trajectory_dir": folder / "trajectories"},
    }
    return {**MIXED[name], **places.get(name, {})}


@pytest.mark.parametrize("name", MIXED)
def test_a_mixture_of_a_teacher_with_itself_is_the_plain_run(
    name: str, sd_folder: Path, images: Path, prompts: Path, tmp_path: Path
) -> None:
    both = options(name, prompts, tmp_path)
    plain = trained(trainer_of(flags(sd_folder, images, tmp_path / "plain", **both)), 3)
    assert same(
        trained(
            trainer_of(
                flags(sd_folder, images, tmp_path / "mixed", extra_teachers=sd_folder, **both)
            ),
            3,
        ),
        plain,
    )


@pytest.mark.parametrize("name", MIXED)
def test_an_update_is_that_of_a_plain_run_on_its_teacher(
    name: str, sd_folder: Path, fine_tunes: Path, images: Path, prompts: Path, tmp_path: Path
) -> None:
    """The first update, made on the extra teacher, whose U-Net and text encoder are its own; the
    latents are the first one's.
    """
    seed = next(seed for seed in range(99) if teacher_of(seed, 0, 2) == 1)
    both = {**options(name, prompts, tmp_path), "seed": seed}
    pipe = StableDiffusionPipeline.from_pretrained(fine_tunes / "all", torch_dtype=torch.float32)
    pipe.vae = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32).vae
    pipe.save_pretrained(tmp_path / "teacher")
    mixed = trainer_of(
        flags(sd_folder, images, tmp_path / "mixed", extra_teachers=fine_tunes / "all", **both)
    )
    assert same(
        trained(mixed, 1),
        trained(trainer_of(flags(tmp_path / "teacher", images, tmp_path / "alone", **both)), 1),
    )
    # frozen weights are what they were
    for family, folder in zip(mixed.run.families, (sd_folder, fine_tunes / "all"), strict=True):
        files = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert same(base_state(family.unet), files)


def test_a_mixture_goes_on_bit_for_bit_after_an_odd_update(
    sd_folder: Path, fine_tunes: Path, images: Path, prompts: Path, tmp_path: Path
) -> None:
    both = {
        **options("trajectories", prompts, tmp_path),
        "extra_teachers": [fine_tunes / "unet", fine_tunes / "all"],
        "max_train_steps": 5,
    }
    whole = trained(trainer_of(flags(sd_folder, images, tmp_path / "whole", **both)), 5)
    part = trainer_of(flags(sd_folder, images, tmp_path / "part", **both))
    trained(part, 3)
    part.save()
    again = trainer_of(flags(sd_folder, images, tmp_path / "part", **both))
    assert again.state.step == 3
    assert same(trained(again, 5), whole)
    with pytest.raises(ValueError, match="extra_teachers"):
        trainer_of(
            flags(
                sd_folder,
                images,
                tmp_path / "part",
                **{**both, "extra_teachers": fine_tunes / "unet"},
            )
        )


def test_recipe_and_card_name_all_teachers(
    sd_folder: Path, fine_tunes: Path, images: Path, tmp_path: Path
) -> None:
    config = parse_config(
        flags(sd_folder, images, tmp_path, extra_teachers=fine_tunes / "unet", resolution=16)
    )
    recipe = build_recipe(config, StableDiffusion(build_sd()), 16, None)
    assert (recipe.teacher, recipe.extra_teachers) == (sd_folder.name, ["unet"])
    card = make_card(recipe, config, config.flat(), ["a red star"])
    assert ["extra teachers", "`unet`"] in card.texts["facts"]


def test_what_teachers_have_in_common_is_held_once(
    sd_folder: Path, fine_tunes: Path, images: Path, tmp_path: Path
) -> None:
    extra = [fine_tunes / "unet", fine_tunes / "all"]
    config = parse_config(flags(sd_folder, images, tmp_path, extra_teachers=extra))
    first, unet, everything = load_teachers(config.teacher, torch.float32)
    assert unet.pipe.vae is everything.pipe.vae is first.pipe.vae
    assert unet.pipe.text_encoder is first.pipe.text_encoder
    assert everything.pipe.text_encoder is not first.pipe.text_encoder


def size(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def test_a_dry_run_counts_all_teachers(
    sd_folder: Path, fine_tunes: Path, images: Path, prompts: Path, tmp_path: Path
) -> None:
    """Two of three teachers are the same: trajectories are made for two, and each U-Net is
    held.
    """
    changes = {
        **options("trajectories", prompts, tmp_path),
        "extra_teachers": [fine_tunes / "all", sd_folder],
        "dry_run": True,
    }
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", **changes))
    assert [(made.wanted, made.missing) for made in preparations(trainer.run)] == [(3, 3), (3, 3)]
    held = held_by(trainer.run, trainer.state)
    assert memory_of(held[UNET]) == 3 * size(build_unet())
    pipe = build_sd()
    assert memory_of(held[ENCODERS]) == size(pipe.vae) + 2 * size(pipe.text_encoder)
    assert "sd mixture of 3 teachers" in summarize(trainer.run, trainer.state)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("family", r"differs from pretrained_teacher_model in family \(sdxl, not sd\)"),
        ("prediction", r"in prediction_type \(v_prediction, not epsilon\)"),
        ("width", "in the U-Net's architecture"),
        ("heads", "in the U-Net's architecture"),
        ("betas", "in the noise schedule"),
        ("scaling", "in the VAE's scaling_factor"),
        ("nowhere", "^extra_teachers: .* is not a folder"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    name: str,
    reason: str,
    sd_folder: Path,
    sd_v_folder: Path,
    sdxl_folder: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    folder = {"family": sdxl_folder, "prediction": sd_v_folder}.get(name, tmp_path / "other")
    changes = {"width": {"block_out_channels": (8, 24)}, "heads": {"attention_head_dim": 4}}.get(
        name, {}
    )
    if name not in ("family", "prediction", "nowhere"):
        pipe = build_sd(unet=build_unet(**changes))
        if name == "betas":
            pipe.scheduler.register_to_config(beta_end=0.02)
        if name == "scaling":
            pipe.vae.register_to_config(scaling_factor=0.25)
        pipe.save_pretrained(folder)
    config = parse_config(flags(sd_folder, images, tmp_path / "out", extra_teachers=folder))
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        load_teachers(config.teacher, torch.float32)


def test_a_whole_unet_is_of_one_teacher() -> None:
    with pytest.raises(ValueError, match=r"extra_teachers: .* full_finetune"):
        parse_config(
            (
                "--pretrained_teacher_model a --train_data_dir b --full_finetune --extra_teachers c"
            ).split()
        )
