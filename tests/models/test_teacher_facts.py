"""Facts of a teacher come from its checkpoint."""

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
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from lcm.models.families import load_family
from tests.support.schedules import SD_BETAS
from tests.support.teachers import teacher_with
from tests.support.worlds import build_sd


def test_facts_come_from_the_checkpoint(
    sd_folder: Path, sd_v_folder: Path, sdxl_folder: Path
) -> None:
    sd, v, sdxl = (load_family(str(folder)) for folder in (sd_folder, sd_v_folder, sdxl_folder))
    assert [f.name for f in (sd, v, sdxl)] == ["sd", "sd", "sdxl"]
    assert [f.schedule.prediction_type for f in (sd, v, sdxl)] == [
        "epsilon",
        "v_prediction",
        "epsilon",
    ]
    assert [f.zero_terminal_snr for f in (sd, v, sdxl)] == [False, True, False]
    assert float(v.schedule.alphas[999]) == 0.0
    assert float(sd.schedule.alphas[999]) == pytest.approx(0.0682649, rel=1e-5)


def test_half_precision_teacher_has_one_dtype_and_a_vae_that_needs_float32_keeps_it(
    sd_folder: Path, tmp_path: Path
) -> None:
    family = load_family(str(sd_folder), dtype=torch.float16)
    assert {family.unet.dtype, family.pipe.text_encoder.dtype} == {torch.float16}
    assert family.pipe.vae.dtype == torch.float32  # force_upcast is the default of AutoencoderKL
    pipe = build_sd()
    pipe.vae.register_to_config(force_upcast=False)
    pipe.save_pretrained(tmp_path)
    assert load_family(str(tmp_path), dtype=torch.float16).pipe.vae.dtype == torch.float16


def test_resolution_must_fit_the_unet(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    assert family.latent_shape(16) == (4, 8, 8)
    with pytest.raises(ValueError, match="multiple of 4 for this teacher; got 18"):
        family.latent_shape(18)


@pytest.mark.parametrize(
    ("folder", "sample_size"), [("sd_folder", 8), ("sd_folder", 12), ("sdxl_folder", 8)]
)
def test_the_native_resolution_is_what_the_stock_pipeline_draws(
    folder: str, sample_size: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(request.getfixturevalue(folder), teacher)
    config = json.loads((teacher / "unet" / "config.json").read_text())
    (teacher / "unet" / "config.json").write_text(
        json.dumps({**config, "sample_size": sample_size})
    )
    pipe = DiffusionPipeline.from_pretrained(teacher)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red star", num_inference_steps=1).images
    assert image.size == (load_family(str(teacher)).native_resolution,) * 2


def test_a_teacher_without_a_side_of_its_own_needs_the_flag(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    family.unet.register_to_config(sample_size=[8, 12])
    with pytest.raises(
        ValueError, match=r"^resolution: .*sample_size \[8, 12\].*pass --resolution"
    ):
        _ = family.native_resolution


STOCK = [
    DDIMScheduler(),
    DDPMScheduler(**SD_BETAS),
    PNDMScheduler(**SD_BETAS, skip_prk_steps=True),
    EulerAncestralDiscreteScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    ),
    DPMSolverMultistepScheduler(**SD_BETAS, use_karras_sigmas=True),
    UniPCMultistepScheduler(trained_betas=[0.001, 0.002, 0.01]),
]


@pytest.mark.parametrize("scheduler", STOCK, ids=lambda scheduler: type(scheduler).__name__)
def test_the_noise_of_training_is_that_of_the_teachers_own_scheduler(
    tmp_path: Path, scheduler: Any
) -> None:
    schedule = load_family(str(teacher_with(scheduler, tmp_path))).schedule
    torch.testing.assert_close(schedule.alphas[:-1].square(), scheduler.alphas_cumprod)
