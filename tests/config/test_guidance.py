"""Guidance of the teacher: left to the pipeline, by phase, told to the network."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

import lcm
from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig, to_yaml
from lcm.models.conditioning import Conditioning
from lcm.models.networks import guidance_embedding
from lcm.training.inputs import trajectory_spec
from tests.support.options import (
    PROMPTS,
    Arguments,
    Done,
    picture,
    refused,
)
from tests.support.runs import encoded, trainer_of
from tests.support.worlds import build_sd, build_sdxl, inputs

# --- preserve_cfg and empty prompts ---------------------------------------------------------------


def test_preserving_guidance_distils_the_unguided_teacher(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    trainer = trainer_of(arguments("preserve_cfg", tmp_path))
    assert trainer.run.objective.guidance.is_none
    batch = encoded(trainer, next(trainer.run.inputs.batches(range(1))))
    broken = dataclasses.replace(batch, uncond=batch.uncond.map(lambda part: part * float("nan")))
    assert torch.equal(
        trainer.run.objective(trainer.state.student.nets, broken).loss,
        trainer.run.objective(trainer.state.student.nets, batch).loss,
    )
    recipe = lcm.read_recipe(done("preserve_cfg"))
    assert (recipe.guidance_scale, recipe.trained_guidance_scale) == (6.0, [1.0, 1.0])


@pytest.mark.parametrize(("said", "share"), [({}, 0.1), ({"proportion_empty_prompts": 0.5}, 0.5)])
def test_preserve_cfg_drops_prompts_by_itself_and_says_so(
    said: dict[str, Any], share: float, arguments: Arguments, tmp_path: Path
) -> None:
    config = parse_config([*arguments("plain", tmp_path, **said), "--preserve_cfg"])
    assert config.method.preserve_cfg is True
    assert config.flat()["proportion_empty_prompts"] == share
    assert f"proportion_empty_prompts: {share}\n" in to_yaml(config.flat())
    # what config.yaml and checkpoints hold is the same run again
    assert TrainConfig.of(**config.flat()) == config


@pytest.mark.parametrize(("said", "played"), [({}, 2.0), ({"guidance_scale": 1.5}, 1.5)])
def test_preserved_guidance_is_played_weaker_than_it_would_be_distilled(
    said: dict[str, Any], played: float
) -> None:
    needed = {"pretrained_teacher_model": "teacher", "train_data_dir": "photos"}
    config = TrainConfig.of(**needed, **said, preserve_cfg=True)
    assert config.method.guidance_scale == played
    assert config.method.guidance_range == (1.0, 1.0)
    assert TrainConfig.of(**config.flat()) == config


def test_preserving_guidance_needs_no_pictures(arguments: Arguments, tmp_path: Path) -> None:
    """The teacher's own pictures are guided as the adapter will be, and lose their prompts."""
    line = arguments("prompts lcm", tmp_path, guidance_scale=5.5, proportion_empty_prompts=0.5)
    run = trainer_of([*line, "--preserve_cfg"]).run
    assert run.objective.guidance.is_none
    assert trajectory_spec(run.config.method, 0, 16).guidance_range == (5.5, 5.5)
    prompts = [prompt for batch in run.inputs.batches(range(8)) for prompt in batch.prompts]
    assert set(PROMPTS) >= set(prompts) - {""} and 0 < prompts.count("") < len(prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proportion_empty_prompts": 0.0}, "pass --proportion_empty_prompts"),
        ({"guidance_scale_min": 2.0, "guidance_scale_max": 9.0}, "leave the range out"),
        (
            {"train_data_dir": None, "prompts_file": "prompts", "objective": "endpoint"},
            "choose another objective",
        ),
    ],
)
def test_preserve_cfg_without_what_it_needs_is_refused(
    changes: dict[str, Any],
    message: str,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(capsys, arguments("preserve_cfg", tmp_path / "out", **changes), "preserve_cfg", message)


@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_prompt_is_what_the_pipeline_takes_for_none(
    force_zeros: bool, arguments: Arguments, sdxl_folder: Path, tmp_path: Path
) -> None:
    teacher = sdxl_folder
    if not force_zeros:
        teacher = tmp_path / "teacher"
        build_sdxl(force_zeros=False).save_pretrained(teacher)
    trainer = trainer_of(arguments("plain", tmp_path / "out", pretrained_teacher_model=teacher))
    batch = dataclasses.replace(
        next(trainer.run.inputs.batches(range(1))), prompts=["a red star", ""]
    )
    cond = encoded(trainer, batch).cond
    pipe = StableDiffusionXLPipeline.from_pretrained(teacher)
    embeds, none_embeds, pooled, none_pooled = pipe.encode_prompt(
        "a red star", do_classifier_free_guidance=True
    )
    assert cond.pooled_prompt_embeds is not None
    torch.testing.assert_close(cond.prompt_embeds, torch.cat([embeds, none_embeds]))
    torch.testing.assert_close(cond.pooled_prompt_embeds, torch.cat([pooled, none_pooled]))
    assert (
        bool((cond.prompt_embeds[1] == 0).all() and (cond.pooled_prompt_embeds[1] == 0).all())
        is force_zeros
    )
    assert cond.time_ids is not None
    size = batch.sizes[1]
    assert cond.time_ids[1].tolist() == [
        size.original_height,
        size.original_width,
        size.crop_top,
        size.crop_left,
        16,
        16,
    ]


# --- guidance_per_phase ---------------------------------------------------------------------------


class Constant:
    """A teacher whose condition adds 1 and whose unconditional half adds nothing, so that the
    guided epsilon is the guidance_scale; remembers what the target network is shown.
    """

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.x_t = x_t
        return torch.zeros_like(x_t)

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return torch.ones_like(x_t) * conditioning.prompt_embeds[:, :1, :1, None]

    def target(self, x_u: Tensor, u: Tensor, conditioning: Conditioning) -> Tensor:
        self.x_u = x_u
        return torch.zeros_like(x_u)


def test_every_phase_has_its_own_guidance_the_noisiest_first(
    arguments: Arguments, tmp_path: Path
) -> None:
    trainer = trainer_of(
        arguments("pcm", tmp_path, phases=4, guidance_per_phase=[8.0, 5.0, 3.0, 1.5])
    )
    # the first and last grid points of every phase, 40 in all
    t = torch.tensor([999, 774, 749, 524, 499, 274, 249, 49])
    times = ((t + 1) // 25 - 0.5) / 40
    rows = len(t)
    batch = encoded(trainer, next(trainer.run.inputs.batches(range(1))))
    batch = dataclasses.replace(
        batch,
        x0=batch.x0[:1].repeat(rows, 1, 1, 1),
        noise=batch.noise[:1].repeat(rows, 1, 1, 1),
        uniform_time=times,
        uniform_guidance=torch.zeros(rows),
        uniform_landing=torch.zeros(rows),
        cond=Conditioning(torch.ones(rows, 1, 1)),
        uncond=Conditioning(torch.zeros(rows, 1, 1)),
    )
    nets = Constant()
    trainer.run.objective(nets, batch)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    (a_t, s_t), (a_u, s_u) = ((alpha_bar[i].sqrt(), (1 - alpha_bar[i]).sqrt()) for i in (t, t - 25))
    # x_u = a_u (x_t - s_t g) / a_t + s_u g, solved for g
    found = (nets.x_u.double()[:, 0, 0, 0] - a_u / a_t * nets.x_t.double()[:, 0, 0, 0]) / (
        s_u - a_u / a_t * s_t
    )
    torch.testing.assert_close(
        found, torch.tensor([8.0, 8.0, 5.0, 5.0, 3.0, 3.0, 1.5, 1.5]).double(), rtol=1e-3, atol=1e-3
    )


def test_the_recipe_names_the_ends_of_the_phases_guidance(done: Done) -> None:
    assert lcm.read_recipe(done("pcm")).trained_guidance_scale == [2.0, 5.0]


def test_a_guidance_for_another_number_of_phases_is_refused(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = arguments("pcm", tmp_path / "out", guidance_per_phase=[5.0, 4.0, 3.0])
    refused(capsys, line, "guidance_per_phase", "each of the 2 phases")


# --- w_embedding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [256, 32])
def test_the_guidance_embedding_is_that_of_the_stock_pipeline(dim: int) -> None:
    scale = torch.tensor([1.0, 2.0, 3.3, 7.5, 8.5, 14.0])
    stock = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, scale - 1.0, embedding_dim=dim
    )
    assert torch.equal(guidance_embedding(scale, dim), stock)


def test_at_first_the_student_is_the_teacher_whatever_guidance_it_is_told(
    arguments: Arguments, tmp_path: Path
) -> None:
    nets = trainer_of(arguments("w_embedding", tmp_path)).state.student.nets
    assert nets.unet.config.time_cond_proj_dim == 256
    x, t, conditioning = inputs(nets.unet)
    expected = nets.teacher(x, t, conditioning)
    for scale in (1.0, 7.5, 14.0):
        told = conditioning.with_guidance_scale(torch.full((2,), scale))
        assert torch.equal(nets.student(x, t, told).detach(), expected)
        assert torch.equal(nets.teacher(x, t, told), expected)


def test_the_student_is_told_the_guidance_that_its_teacher_had(
    arguments: Arguments, tmp_path: Path
) -> None:
    trainer = trainer_of(arguments("w_embedding", tmp_path))
    batch = encoded(trainer, next(trainer.run.inputs.batches(range(1))))
    expected = 2.0 + (10.0 - 2.0) * batch.uniform_guidance
    told: list[Tensor] = []
    hook = trainer.state.student.unet.time_embedding.cond_proj.register_forward_pre_hook(
        lambda _, args: told.append(args[0].detach())
    )
    trainer.run.objective(trainer.state.student.nets, batch)
    hook.remove()
    stock = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, expected - 1.0, embedding_dim=256
    )
    assert len(told) == 3  # the average where inference comes past, the target, the student
    for embedding in told:
        torch.testing.assert_close(embedding, stock)


def test_the_stock_pipeline_plays_a_unet_that_knows_its_guidance(
    done: Done, sd_folder: Path
) -> None:
    output = done("w_embedding")
    teacher = build_sd()
    unet = UNet2DConditionModel.from_pretrained(output, subfolder="unet")
    scheduler = LCMScheduler.from_config(teacher.scheduler.config)
    components = {**teacher.components, "unet": unet, "scheduler": scheduler}
    pipe = LatentConsistencyModelPipeline(**components, requires_safety_checker=False)
    low, high = (picture(pipe, num_inference_steps=4, guidance_scale=scale) for scale in (2.0, 9.0))
    assert np.abs(low - high).max() > 1e-3
    attached = build_sd()
    recipe = lcm.attach(attached, output)
    assert (recipe.guidance_scale, recipe.trained_guidance_scale) == (6.0, [2.0, 10.0])
    for scale, expected in ((2.0, low), (9.0, high)):
        np.testing.assert_allclose(
            picture(attached, num_inference_steps=4, guidance_scale=scale), expected, atol=1e-5
        )


def test_a_guidance_embedding_needs_the_whole_unet(
    done: Done,
    arguments: Arguments,
    sd_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(
        capsys,
        arguments("plain", tmp_path / "out", w_embedding=True),
        "w_embedding",
        "pass --full_finetune too",
    )
    distilled = tmp_path / "distilled"
    shutil.copytree(sd_folder, distilled)
    shutil.rmtree(distilled / "unet")
    shutil.copytree(done("w_embedding") / "unet", distilled / "unet")
    line = arguments("w_embedding", tmp_path / "out", pretrained_teacher_model=distilled)
    refused(capsys, line, "has a guidance embedding")
