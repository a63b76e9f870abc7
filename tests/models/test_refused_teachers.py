"""Folders and weights that cannot be a teacher are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file

from lcm.models.families import load_family
from lcm.training.teachers import caution
from tests.support.schedules import SD_BETAS
from tests.support.teachers import teacher_with
from tests.support.worlds import build_sd, build_unet


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(sd_folder: Path, tmp_path: Path, component: str) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    shutil.rmtree(tmp_path / "teacher" / component)
    with pytest.raises(FileNotFoundError, match=f"lacks its component '{component}'"):
        load_family(str(tmp_path / "teacher"))


def test_folders_that_are_no_teacher_are_explained(sd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json"):
        load_family(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_family(str(tmp_path / "nowhere"))
    shutil.copytree(sd_folder, tmp_path / "teacher")
    index = tmp_path / "teacher" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(
        ValueError, match="is a FluxPipeline; this toolkit works with StableDiffusionPipeline and"
    ):
        load_family(str(tmp_path / "teacher"))


def test_weights_that_were_deleted_are_an_error_of_one_line(
    sd_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    (tmp_path / "teacher" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="could not be loaded"):
        load_family(str(tmp_path / "teacher"))


def test_epsilon_with_zero_terminal_snr_is_refused(tmp_path: Path) -> None:
    build_sd("epsilon", zero_snr=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="epsilon model cannot have zero terminal SNR"):
        load_family(str(tmp_path))


def test_an_inpainting_unet_is_refused(tmp_path: Path) -> None:
    build_sd(unet=build_unet(in_channels=9)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="inpainting models cannot be distilled"):
        load_family(str(tmp_path))


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(),
        EDMDPMSolverMultistepScheduler(),
        EDMEulerScheduler.from_config(
            DDIMScheduler(**SD_BETAS).config
        ),  # which carries the betas of another class
        FlowMatchEulerDiscreteScheduler(),
        EulerDiscreteScheduler(
            **SD_BETAS, timestep_type="continuous", prediction_type="v_prediction"
        ),
        DPMSolverMultistepScheduler(**SD_BETAS, use_flow_sigmas=True),
        UniPCMultistepScheduler(**SD_BETAS, prediction_type="flow_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_teacher_of_another_kind_of_noise_is_refused(tmp_path: Path, scheduler: Any) -> None:
    name = type(scheduler).__name__
    with pytest.raises(
        ValueError,
        match=rf"pretrained_teacher_model: .*{name}.*flow matching.*use a teacher that predicts "
        r"epsilon",
    ):
        load_family(str(teacher_with(scheduler, tmp_path)))


def test_betas_that_the_playing_scheduler_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"pretrained_teacher_model: .*cannot play \(sigmoid.*use another teacher"
    ):
        load_family(str(teacher_with(DDPMScheduler(beta_schedule="sigmoid"), tmp_path)))


def rewrite(path: Path, **changes: Any) -> None:
    """Entries of a configuration file, None removes."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def test_noise_left_to_differing_defaults_is_refused(tmp_path: Path) -> None:
    """DDIMScheduler would start its betas at 0.0001, LCMScheduler made of the same file at
    0.00085.
    """
    config = (
        teacher_with(DDIMScheduler(**SD_BETAS), tmp_path) / "scheduler" / "scheduler_config.json"
    )
    rewrite(config, beta_start=None)
    with pytest.raises(
        ValueError,
        match=r"pretrained_teacher_model: .*leaves beta_start to the default of DDIMScheduler, "
        r"0\.0001,",
    ):
        load_family(str(tmp_path))
    # these defaults agree
    rewrite(config, beta_start=0.00085, prediction_type=None, num_train_timesteps=None)
    expected = DDIMScheduler(**SD_BETAS).alphas_cumprod
    torch.testing.assert_close(load_family(str(tmp_path)).schedule.alphas[:-1].square(), expected)


@pytest.mark.parametrize("fact", ["latents_mean", "latents_std"])
def test_a_vae_with_latents_normalised_per_channel_is_refused(
    sd_folder: Path, tmp_path: Path, fact: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    rewrite(tmp_path / "teacher" / "vae" / "config.json", **{fact: [0.0, 1.0, 2.0, 3.0]})
    with pytest.raises(
        ValueError,
        match=f"pretrained_teacher_model: the VAE of .*teacher has {fact}.*use a teacher",
    ):
        load_family(str(tmp_path / "teacher"))
    with pytest.raises(
        ValueError, match=f"pretrained_vae_model_name_or_path: the VAE of .*vae has {fact}"
    ):
        load_family(str(sd_folder), vae_path=str(tmp_path / "teacher" / "vae"))
    load_family(str(tmp_path / "teacher"), vae_path=str(sd_folder / "vae"))


def test_a_tokenizer_without_its_vocabulary_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    for path in (tmp_path / "teacher" / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=r"pretrained_teacher_model: .*(vocabulary|could not be loaded)",
    ):
        load_family(str(tmp_path / "teacher"))


@pytest.mark.parametrize(
    "component",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"],
)
def test_weight_files_that_lack_tensors_are_refused(
    sd_folder: Path, tmp_path: Path, component: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    path = tmp_path / "teacher" / f"{component}.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[::2]), path, metadata={"format": "pt"})
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=r"pretrained_teacher_model: .*(lacks tensors|could not be loaded)",
    ):
        load_family(str(tmp_path / "teacher"))


@pytest.mark.parametrize(
    "component",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"],
)
def test_truncated_weight_files_are_refused(
    sd_folder: Path, tmp_path: Path, component: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    path = tmp_path / "teacher" / f"{component}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        FileNotFoundError, match=r"pretrained_teacher_model: .* could not be loaded"
    ):
        load_family(str(tmp_path / "teacher"))


def test_another_vae_can_be_named_and_a_wrong_one_is_refused(
    sd_folder: Path, sd_v_folder: Path, tmp_path: Path
) -> None:
    assert (
        load_family(
            str(sd_folder), vae_path=str(sd_v_folder / "vae")
        ).pipe.vae.config.scaling_factor
        == 0.5
    )
    with pytest.raises(
        FileNotFoundError, match=r"pretrained_vae_model_name_or_path: .* could not be loaded"
    ):
        load_family(str(sd_folder), vae_path=str(tmp_path))


def test_a_target_that_follows_at_once_is_warned_of_with_zero_terminal_snr(
    sd_folder: Path, sd_v_folder: Path
) -> None:
    for folder, target, is_warned in (
        (sd_v_folder, "online", True),
        (sd_v_folder, "ema", False),
        (sd_folder, "online", False),
    ):
        warning = caution(load_family(str(folder)), target)
        assert (warning is not None) == is_warned
        assert warning is None or "--target ema" in warning
