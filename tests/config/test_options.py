"""Options of training, each by real runs on tiny teachers: averages, dropout, first adapters,
prompts, whole U-Nets, cards.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lcm
import train_lcm_lora
from lcm.adapter.lora import add_lora, lora_parameters
from lcm.adapter.names import WEIGHTS_NAME
from lcm.config.flags import parse_config
from lcm.data.batch import Trajectory
from lcm.methods.perceptual import make_lpips
from lcm.models.conditioning import Conditioning
from lcm.models.families import load_family
from lcm.models.networks import guidance_embedding, make_networks
from lcm.outputs.checkpoint import load_checkpoint
from lcm.publish.card import write_card
from tests.support.outputs import snapshot, weights_at
from tests.support.runs import encoded, expect_refusal, flags, same, trainer_of, update
from tests.support.worlds import build_sd, build_sdxl, build_unet, inputs, randomize_lora

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
PROMPTS = ["a red star", "a blue ring", "a green disc"]
FULL = {"full_finetune": True, "lora_rank": None}
W_EMBEDDING = {**FULL, "w_embedding": True, "guidance_scale_min": 2.0, "guidance_scale_max": 10.0}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 2.0, "guidance_scale": 5.5},
    "export_ema": {"export_ema_decay": 0.6},
    "dropout": {
        "lora_alpha": 2.0,
        "guidance_scale": 5.5,
        "lora_dropout": 0.5,
        "gradient_accumulation_steps": 2,
    },
    "fine-tuned": {"objective": "ct", "lora_alpha": 2.0, "init_adapter": "plain"},
    "preserve_cfg": {"preserve_cfg": True, "proportion_empty_prompts": 0.5, "guidance_scale": 6.0},
    "pcm": {"objective": "pcm", "phases": 2, "guidance_per_phase": [5.0, 2.0]},
    "tcd": {"objective": "tcd"},
    "prompts lcm": {"train_data_dir": None, "prompts_file": "prompts"},
    "prompts endpoint": {
        "train_data_dir": None,
        "prompts_file": "prompts",
        "objective": "endpoint",
    },
    "prompts reflow": {"train_data_dir": None, "prompts_file": "prompts", "objective": "reflow"},
    "full": {**FULL, "export_ema_decay": 0.5, "target": "ema"},
    "w_embedding": W_EMBEDDING,
    "full sdxl": {**FULL, "max_train_steps": 2},
}
"""Whole runs; `init_adapter` names another run, `prompts_file` stands for a file of PROMPTS."""

Arguments = Callable[..., list[str]]
Done = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options")
    (path / "prompts").write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def arguments(sd_folder: Path, sdxl_folder: Path, images: Path, folder: Path) -> Arguments:
    """The command line of a run in RUNS, with changes, into a folder."""

    def line(name: str, output: Path, **changes: Any) -> list[str]:
        values = {
            "lora_rank": 4,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            "validation_steps": 100,
            "validation_prompts": PROMPTS[:2],
            "validation_num_steps": [2, 4],
            **RUNS[name],
            **changes,
        }
        for path in ("init_adapter", "prompts_file"):
            if values.get(path) is not None:
                values[path] = folder / values[path]
        return flags(sdxl_folder if "sdxl" in name else sd_folder, images, output, **values)

    return line


@pytest.fixture(scope="module")
def done(arguments: Arguments, folder: Path) -> Done:
    """The finished output folder of a run, made when first asked for."""

    def output(name: str) -> Path:
        if not (folder / name / "README.md").exists():
            first = RUNS[name].get("init_adapter")
            if first is not None:
                output(first)
            assert train_lcm_lora.main(arguments(name, folder / name)) == 0
        return folder / name

    return output


def result(output: Path) -> dict[str, Tensor]:
    """What a run gives away."""
    return load_file(output / (UNET_FILE if (output / "unet").exists() else WEIGHTS_NAME))


def picture(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    images: np.ndarray = pipe(
        PROMPTS[0], height=16, width=16, generator=generator, output_type="np", **options
    ).images
    return images


def refused(capsys: pytest.CaptureFixture[str], line: list[str], *messages: str) -> None:
    """One line that says `messages`, and no output folder."""
    expect_refusal(capsys, line, *messages)
    assert not Path(line[line.index("--output_dir") + 1]).exists()


# --- resuming -------------------------------------------------------------------------------------

RESUMED = [
    "export_ema",
    "dropout",
    "fine-tuned",
    "prompts lcm",
    "prompts endpoint",
    "full",
    "w_embedding",
]


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    name: str, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    whole, halved = done(name), tmp_path / "halved"
    shutil.copytree(whole / "checkpoint-1", halved / "checkpoint-1")
    assert train_lcm_lora.main(arguments(name, halved)) == 0
    first, second = (load_checkpoint(output / "checkpoint-3").tensors for output in (whole, halved))
    assert same(first, second)
    assert same(result(whole), result(halved))
    assert not same(first, load_checkpoint(whole / "checkpoint-1").tensors)


# --- export_ema_decay -----------------------------------------------------------------------------


def test_the_average_that_is_given_away_has_constant_decay(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    output = done("export_ema")
    student = trainer_of(arguments("export_ema", tmp_path)).student
    names = [
        name.removesuffix(".default.weight")
        for name, _ in student.unet.named_parameters()
        if ".lora_" in name
    ]
    average = [p.detach().double() for p in student.parameters]
    for step in (1, 2, 3):
        weights = weights_at(output, step)
        average = [0.6 * a + 0.4 * w.double() for a, w in zip(average, weights, strict=True)]
        adapter = load_file(output / f"checkpoint-{step}" / WEIGHTS_NAME)
        differs = False
        for name, a, raw in zip(names, average, weights, strict=True):
            module, part = name.rsplit(".", 1)
            matrix = "lora_down" if part == "lora_A" else "lora_up"
            key = f"lora_unet_{module.replace('.', '_')}.{matrix}.weight"
            torch.testing.assert_close(adapter[key].double(), a, rtol=1e-3, atol=1e-6)  # float16
            differs = differs or not torch.allclose(adapter[key].float(), raw, rtol=1e-2, atol=1e-4)
        assert differs, step
    assert same(result(output), load_file(output / "checkpoint-3" / WEIGHTS_NAME))


# --- lora_dropout ---------------------------------------------------------------------------------


def dropping(seed: int | None, checkpointing: bool = False) -> tuple[Any, Callable[[str], Tensor]]:
    """A U-Net with dropout in training, and the answer of one of its roles to fixed inputs."""
    unet = build_unet()
    add_lora(unet, 4, dropout=0.5)
    randomize_lora(unet)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    nets = make_networks(unet, ema_decay=None)
    nets.dropout_seed = seed
    fixed = inputs(unet)
    return unet, lambda role: getattr(nets, role)(*fixed)


def test_student_and_target_drop_the_same_and_another_seed_drops_otherwise() -> None:
    _, answer = dropping(1)
    student = answer("student").detach()
    assert torch.equal(answer("target"), student)
    assert torch.equal(answer("student").detach(), student)
    _, other = dropping(2)
    assert not torch.allclose(other("student"), student)
    assert torch.equal(other("teacher"), answer("teacher"))


def test_masks_leave_the_other_random_numbers_alone() -> None:
    _, answer = dropping(1)
    before = torch.get_rng_state()
    answer("student")
    answer("target")
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputed_activations_drop_the_same() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet, answer = dropping(1, checkpointing)
        answer("student").square().mean().backward()
        gradients.append([p.grad for p in lora_parameters(unet)])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_dropout_takes_part_in_training(done: Done, arguments: Arguments, tmp_path: Path) -> None:
    without = tmp_path / "without"
    assert (
        train_lcm_lora.main(arguments("dropout", without, lora_dropout=0.0, max_train_steps=1)) == 0
    )
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights_at(without, 1), weights_at(done("dropout"), 1), strict=True)
    )


def test_pictures_are_drawn_without_dropout(arguments: Arguments, tmp_path: Path) -> None:
    drawn = []
    for rate in (0.0, 0.5):
        trainer = trainer_of(arguments("dropout", tmp_path / str(rate), lora_dropout=rate))
        randomize_lora(trainer.run.student.unet)
        trainer.run.config.output.folder.mkdir()
        trainer.run.publisher.validate(7)
        assert trainer.run.student.unet.training
        drawn.append(
            np.asarray(
                Image.open(trainer.run.config.output.folder / "validation" / "step-000007.png")
            )
        )
    assert np.array_equal(*drawn)
    assert drawn[0].std() > 0


# --- init_adapter ---------------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_adapter_and_keeps_its_guidance(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    first, output = done("plain"), tmp_path / "out"
    assert (
        train_lcm_lora.main(arguments("fine-tuned", output, max_train_steps=1, learning_rate=1e-12))
        == 0
    )
    assert same(result(output), result(first))
    assert any(tensor.abs().max() > 0 for key, tensor in result(first).items() if "lora_up" in key)
    recipe = lcm.read_recipe(output)
    assert (recipe.objective, recipe.trained_guidance_scale) == ("ct", [5.5, 5.5])
    assert lcm.read_recipe(first).trained_guidance_scale == [5.5, 5.5]
    assert not same(result(done("fine-tuned")), result(first))


def test_a_method_with_a_teacher_brings_its_own_guidance(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    adapter = done("plain") / "checkpoint-2" / WEIGHTS_NAME
    trainer = trainer_of(
        arguments("plain", tmp_path / "out", init_adapter=adapter, guidance_scale=3.0)
    )
    assert trainer.run.publisher.recipe.trained_guidance_scale == [3.0, 3.0]
    assert all(
        torch.equal(a.half(), b.half())
        for a, b in zip(trainer.run.student.parameters, weights_at(done("plain"), 2), strict=True)
    )


def test_training_from_images_alone_has_no_guidance(arguments: Arguments, tmp_path: Path) -> None:
    trainer = trainer_of(arguments("fine-tuned", tmp_path / "out", init_adapter=None))
    assert trainer.run.publisher.recipe.trained_guidance_scale == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"lora_rank": 2}, ["has rank 4 and alpha 2", "--lora_rank 4 --lora_alpha 2"]),
        ({"lora_alpha": None}, ["has rank 4 and alpha 2", "--lora_rank 4 --lora_alpha 2"]),
        ({"lora_target_modules": ["to_q", "to_k"]}, ["pass its --lora_target_modules"]),
        ({"pretrained_teacher_model": "sdxl"}, ["was made for a sd model", "the teacher is sdxl"]),
        ({"pretrained_teacher_model": "sd_v"}, ["that predicts epsilon", "predicts v_prediction"]),
        ({"init_adapter": "nowhere"}, ["nowhere"]),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    changes: dict[str, Any],
    messages: list[str],
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    done("plain")
    if "pretrained_teacher_model" in changes:
        changes = {
            "pretrained_teacher_model": request.getfixturevalue(
                f"{changes['pretrained_teacher_model']}_folder"
            )
        }
    refused(capsys, arguments("fine-tuned", tmp_path / "out", **changes), *messages)


@pytest.mark.parametrize("name", ["prompts lcm", "prompts endpoint"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lora_target_modules": ["to_q", "to_x"]},
            "no linear or conv layer of the U-Net is named 'to_x'",
        ),
        ({"init_adapter": "nowhere"}, "nowhere"),
        ({"init_adapter": "plain"}, "pass --lora_rank 4 --lora_alpha 2"),
        (
            {"init_adapter": "plain", "lora_alpha": 2.0, "lora_target_modules": ["to_q"]},
            "pass its --lora_target_modules",
        ),
        ({"init_adapter": "prompts"}, "prompts does not fit the teacher's U-Net"),
    ],
    ids=str,
)
def test_an_adapter_is_checked_before_hours_of_trajectories(
    name: str,
    changes: dict[str, Any],
    message: str,
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done("plain")
    refused(
        capsys,
        arguments(name, tmp_path / "out", trajectory_dir=tmp_path / "kept", **changes),
        message,
    )
    assert not (tmp_path / "kept").exists()


def test_trajectories_are_those_of_the_teacher_whatever_the_run_starts_from(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    kept = {"trajectory_dir": tmp_path / "kept", "lora_alpha": 2.0}
    (first, second) = (
        trainer_of(
            arguments("prompts endpoint", tmp_path / "out", **kept, init_adapter=adapter)
        ).trajectories[0]
        for adapter in (None, done("plain"))
    )
    assert first is not None
    assert second is not None
    assert first.folder == second.folder


def test_an_adapter_of_another_trainer_may_be_a_start(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    save_file(result(done("plain")), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    trainer = trainer_of(
        arguments("fine-tuned", tmp_path / "out", init_adapter=tmp_path / "theirs.safetensors")
    )
    assert all(
        torch.equal(a.half(), b.half())
        for a, b in zip(trainer.run.student.parameters, weights_at(done("plain"), 3), strict=True)
    )


def test_an_adapter_of_another_trainer_for_another_model_is_refused(
    done: Done,
    arguments: Arguments,
    sdxl_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(result(done("plain")), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    changes = {
        "init_adapter": tmp_path / "theirs.safetensors",
        "pretrained_teacher_model": sdxl_folder,
    }
    refused(
        capsys,
        arguments("fine-tuned", tmp_path / "out", **changes),
        "init_adapter",
        "theirs.safetensors",
    )


# --- preserve_cfg and empty prompts ---------------------------------------------------------------


def test_preserving_guidance_distils_the_unguided_teacher(
    done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    trainer = trainer_of(arguments("preserve_cfg", tmp_path))
    assert trainer.run.objective.guidance.is_none
    batch = encoded(trainer, next(trainer.run.inputs.batches(range(1))))
    broken = dataclasses.replace(batch, uncond=batch.uncond.map(lambda part: part * float("nan")))
    assert torch.equal(
        trainer.run.objective(trainer.run.student.nets, broken),
        trainer.run.objective(trainer.run.student.nets, batch),
    )
    recipe = lcm.read_recipe(done("preserve_cfg"))
    assert (recipe.guidance_scale, recipe.trained_guidance_scale) == (6.0, [1.0, 1.0])


def test_preserve_cfg_may_stand_bare(arguments: Arguments, tmp_path: Path) -> None:
    line = arguments("plain", tmp_path, proportion_empty_prompts=0.5)
    assert parse_config([*line, "--preserve_cfg"]).preserve_cfg is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proportion_empty_prompts": 0.0}, "pass --proportion_empty_prompts"),
        ({"guidance_scale_min": 2.0, "guidance_scale_max": 9.0}, "leave the range out"),
        (
            {"train_data_dir": None, "prompts_file": "prompts", "proportion_empty_prompts": 0.0},
            "pass images instead",
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
    t = torch.tensor(
        [999, 774, 749, 524, 499, 274, 249, 49]
    )  # the first and last grid points of every phase, 40 in all
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


# --- full_finetune --------------------------------------------------------------------------------


def test_the_whole_unet_is_a_stock_one_with_the_trained_weights(
    arguments: Arguments, done: Done, tmp_path: Path
) -> None:
    output = done("full")
    assert not (output / WEIGHTS_NAME).exists()
    unet = UNet2DConditionModel.from_pretrained(output, subfolder="unet")
    tensors = load_checkpoint(output / "checkpoint-3").tensors
    teacher = UNet2DConditionModel.from_pretrained(
        lcm.read_recipe(output).teacher, subfolder="unet"
    )
    start = [p.detach() for p in teacher.parameters()]
    assert len(start) == len(weights_at(output, 1))
    average = [p.double() for p in start]
    for step in (1, 2, 3):
        average = [
            0.5 * a + 0.5 * w.double()
            for a, w in zip(average, weights_at(output, step), strict=True)
        ]
    for i, parameter in enumerate(unet.parameters()):
        torch.testing.assert_close(parameter.double(), average[i], rtol=1e-5, atol=1e-6)
        assert torch.equal(parameter, tensors[f"export_ema.{i}"])
    assert all(not torch.equal(p, first) for p, first in zip(unet.parameters(), start, strict=True))


@pytest.mark.parametrize("name", ["full", "w_embedding"])
def test_the_teacher_stays_what_it_was(name: str, arguments: Arguments, tmp_path: Path) -> None:
    trainer = trainer_of(arguments(name, tmp_path))
    before = {key: value.clone() for key, value in trainer.run.family.unet.state_dict().items()}
    first = [p.detach().clone() for p in trainer.run.student.parameters]
    batches = trainer.run.inputs.batches(range(2))
    update(trainer, batches)
    update(trainer, batches)
    assert same(before, trainer.run.family.unet.state_dict())
    assert any(
        not torch.equal(a, b) for a, b in zip(first, trainer.run.student.parameters, strict=True)
    )


def test_attach_puts_the_unet_into_a_pipeline(done: Done) -> None:
    pipe, output = build_sd(), done("full")
    before = picture(pipe, num_inference_steps=2, guidance_scale=1.0)
    recipe = lcm.attach(pipe, output)
    assert recipe == lcm.read_recipe(output) == lcm.read_recipe(output / "checkpoint-3")
    assert same(pipe.unet.state_dict(), result(output))
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert not np.allclose(picture(pipe, num_inference_steps=2, guidance_scale=1.0), before)


def test_a_whole_unet_has_no_weight_and_replaces_no_adapters(done: Done) -> None:
    pipe = build_sd()
    unet, scheduler = pipe.unet, pipe.scheduler
    with pytest.raises(ValueError, match=r"cannot be attached with weight 0\.5"):
        lcm.attach(pipe, done("full"), 0.5)
    with pytest.raises(ValueError, match="use a base model of the adapter's family"):
        lcm.attach(build_sdxl(), done("full"))
    add_lora(pipe.unet, 4)
    with pytest.raises(ValueError, match="adapters would be lost"):
        lcm.attach(pipe, done("full"))
    assert pipe.unet is unet
    assert pipe.scheduler is scheduler


def test_a_finished_unet_is_never_overwritten(
    done: Done, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done("full") / "unet", tmp_path / "unet")
    before = snapshot(tmp_path)
    expect_refusal(capsys, arguments("full", tmp_path), "already holds a run")
    assert snapshot(tmp_path) == before


def test_a_whole_unet_trains_in_float32_and_is_stored_as_its_teacher(
    arguments: Arguments, tmp_path: Path
) -> None:
    assert (
        train_lcm_lora.main(arguments("full", tmp_path, mixed_precision="bf16", max_train_steps=1))
        == 0
    )
    assert {tensor.dtype for tensor in weights_at(tmp_path, 1)} == {torch.float32}
    assert {tensor.dtype for tensor in result(tmp_path).values()} == {torch.bfloat16}


def test_a_whole_sdxl_unet_trains_and_attaches(done: Done) -> None:
    output, pipe = done("full sdxl"), build_sdxl()
    assert lcm.attach(pipe, output).family == "sdxl"
    assert same(pipe.unet.state_dict(), result(output))
    assert not same(build_sdxl().unet.state_dict(), result(output))
    assert np.isfinite(picture(pipe, num_inference_steps=2, guidance_scale=1.0)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 8},
        {"lora_alpha": 4.0},
        {"lora_dropout": 0.1},
        {"lora_target_modules": ["to_q"]},
        {"init_adapter": "plain"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_flags_of_adapters_are_refused_for_a_whole_unet(
    changes: dict[str, Any],
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(
        capsys,
        arguments("full", tmp_path / "out", **changes),
        f"{next(iter(changes))} has no effect with full_finetune",
    )


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
    nets = trainer_of(arguments("w_embedding", tmp_path)).student.nets
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
    hook = trainer.run.student.unet.time_embedding.cond_proj.register_forward_pre_hook(
        lambda _, args: told.append(args[0].detach())
    )
    trainer.run.objective(trainer.run.student.nets, batch)
    hook.remove()
    stock = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, expected - 1.0, embedding_dim=256
    )
    assert len(told) == 2  # the target, then the student
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


# --- loss_type lpips ------------------------------------------------------------------------------


class LPIPS(nn.Module):
    """Stands for the package's network: a distance between pictures with one number for every
    pair.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert a.shape[1:] == b.shape[1:] == (3, 16, 16)
        return self.scale * (a - b).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def with_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lpips")
    module.__spec__ = ModuleSpec("lpips", None)
    module.LPIPS = LPIPS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)


def test_lpips_without_its_package_is_one_clear_error(
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    refused(
        capsys,
        arguments("plain", tmp_path / "out", loss_type="lpips"),
        "loss_type lpips",
        "pip install lpips",
    )


@pytest.mark.usefixtures("with_lpips")
def test_lpips_compares_decoded_pictures_and_trains(arguments: Arguments, tmp_path: Path) -> None:
    assert (
        train_lcm_lora.main(
            arguments("plain", tmp_path / "out", loss_type="lpips", max_train_steps=2)
        )
        == 0
    )
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)
    first, second = (weights_at(tmp_path / "out", step) for step in (1, 2))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("with_lpips")
def test_lpips_is_the_distance_of_the_pictures_that_the_vae_decodes(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    torch.manual_seed(0)
    prediction, target = (
        torch.randn(2, 4, 8, 8, requires_grad=True),
        torch.randn(2, 4, 8, 8, requires_grad=True),
    )
    loss = make_lpips(family.pixels, "cpu")(prediction, target, 0.001)
    vae = build_sd().vae.eval()
    a, b = (vae.decode(latents / 0.5).sample for latents in (prediction, target.detach()))
    expected = 3.0 * (a - b).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad((expected * torch.tensor([1.0, 2.0])).sum(), prediction)
    (loss * torch.tensor([1.0, 2.0])).sum().backward()
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad, gradient, rtol=1e-3, atol=1e-6)
    assert target.grad is None


@pytest.mark.usefixtures("with_lpips")
def test_lpips_holds_no_more_than_the_activations_of_one_picture() -> None:
    """The stand-in decoder keeps 192 times what it is given."""
    kept = []

    def decode(latents: Tensor) -> Tensor:
        assert len(latents) == 1
        return torch.stack([(latents * i).exp() for i in range(192)]).mean(0)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    prediction, target = torch.randn(4, 3, 16, 16, requires_grad=True), torch.randn(4, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = make_lpips(decode, "cpu")(prediction, target, 0.001)
    assert sum(kept) < 10 * prediction.numel()
    loss.sum().backward()
    assert prediction.grad is not None


@pytest.mark.usefixtures("with_lpips")
def test_lpips_decodes_in_float32_whatever_the_run(arguments: Arguments, tmp_path: Path) -> None:
    pipe = build_sd()
    pipe.vae.register_to_config(force_upcast=False)
    pipe.save_pretrained(tmp_path / "teacher")
    changes = {"pretrained_teacher_model": tmp_path / "teacher", "mixed_precision": "bf16"}
    dtypes = {}
    for loss_type in ("huber", "lpips"):
        trainer = trainer_of(arguments("plain", tmp_path / "out", loss_type=loss_type, **changes))
        dtypes[loss_type] = trainer.run.family.pipe.vae.dtype
        loss, grad_norm = trainer.train_step(trainer.run.inputs.batches(range(1)))
        assert 0 < float(loss) < float("inf")
        assert 0 < float(grad_norm) < float("inf")
    assert dtypes == {"huber": torch.bfloat16, "lpips": torch.float32}


def test_lpips_of_noisy_landing_points_is_refused(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(
        capsys,
        arguments("pcm", tmp_path / "out", loss_type="lpips"),
        "loss_type lpips",
        "use huber",
    )


# --- tangent_mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_dropout": 0.5, "gradient_checkpointing": True, "target": "ema"}, W_EMBEDDING],
    ids=["adapter", "dropout", "w_embedding"],
)
def test_forward_mode_trains_on_the_latents_of_images(
    changes: dict[str, Any], arguments: Arguments, tmp_path: Path
) -> None:
    scm = {
        "objective": "scm",
        "tangent_mode": "jvp",
        "tangent_warmup": 0.0,
        "lora_alpha": None,
        "guidance_scale": None,
    }
    trainer = trainer_of(arguments("plain", tmp_path, **{**scm, **changes}))
    loss, grad_norm = trainer.train_step(trainer.run.inputs.batches(range(1)))
    assert 0 < float(loss) < float("inf")
    assert 0 < float(grad_norm) < float("inf")


# --- prompts_file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "points"), [("prompts lcm", 1), ("prompts endpoint", 41)])
def test_prompts_take_the_place_of_images(
    name: str, points: int, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    """`endpoint` needs whole trajectories; others learn from the latents that the teacher ends in,
    and these alone are kept.
    """
    output = done(name)
    first, last = weights_at(output, 1), weights_at(output, 3)
    assert any(not torch.equal(a, b) for a, b in zip(first, last, strict=True))
    trainer = trainer_of(
        arguments(name, tmp_path / "again", trajectory_dir=output / "trajectories")
    )
    batch = next(trainer.run.inputs.batches(range(1)))
    assert set(batch.prompts) <= set(PROMPTS)
    assert isinstance(batch.content, Trajectory)
    assert batch.content.tensor.shape[1] == points
    latents = encoded(trainer, batch)
    assert latents.trajectory is not None
    assert torch.equal(latents.x0, batch.content.tensor[:, 0])
    assert not (tmp_path / "again" / "trajectories").exists()  # those of the first run were found


@pytest.mark.parametrize("name", ["prompts lcm", "prompts endpoint"])
def test_a_dry_run_with_prompts_leaves_nothing_behind(
    name: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, at_exit = tmp_path / "scratch", []
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(
        atexit,
        "register",
        lambda function, *args, **kwargs: at_exit.append((function, args, kwargs)),
    )
    line = arguments(name, tmp_path / "out", dry_run=True, trajectory_dir=tmp_path / "kept")
    assert train_lcm_lora.main(line) == 0
    for function, args, kwargs in at_exit:
        if function is shutil.rmtree:
            function(*args, **kwargs)
    assert [path for path in tmp_path.rglob("*") if path != scratch] == []


def test_a_dry_run_of_a_whole_unet_leaves_nothing_behind(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert train_lcm_lora.main(arguments("w_embedding", tmp_path / "out", dry_run=True)) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "plain",
            {"objective": "endpoint", "lora_alpha": None},
            "pass --prompts_file instead of images",
        ),
        (
            "prompts lcm",
            {"objective": "ct"},
            "has no teacher to draw trajectories with; pass images",
        ),
        ("prompts lcm", {"prompts_file": "nowhere"}, "there is no file"),
    ],
)
def test_methods_and_data_that_do_not_go_together_are_refused(
    name: str,
    changes: dict[str, Any],
    message: str,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(capsys, arguments(name, tmp_path / "out", **changes), message)


# --- model cards ----------------------------------------------------------------------------------

CARDS: dict[str, tuple[int, list[str]]] = {
    "plain": (
        4,
        [
            "LCMScheduler.from_config",
            "guidance_scale=1,",
            "guidance of 5.5 is already in the weights",
            "rank 4, alpha 2",
        ],
    ),
    "fine-tuned": (
        4,
        [
            "LCMScheduler.from_config",
            "guidance of 5.5 is already in the weights",
            "none: no teacher",
        ],
    ),
    "pcm": (
        2,
        [
            "DDIMScheduler.from_config",
            'timestep_spacing="trailing"',
            "num_inference_steps=2,",
            "in 2 steps",
            "2 to 5",
        ],
    ),
    "tcd": (
        4,
        ["TCDScheduler.from_config", "original_inference_steps=50", "eta=0.3,", "cfg 1.", "CFG 1."],
    ),
    "preserve_cfg": (
        4,
        [
            "guidance_scale=6,",
            "leaves guidance to the pipeline",
            "negative prompts",
            "cfg 6.",
            "CFG 6.",
        ],
    ),
    "prompts endpoint": (
        4,
        ["DDIMScheduler.from_config", 'timestep_spacing="trailing"', "the teacher's own point"],
    ),
    "full": (4, ["UNet2DConditionModel.from_pretrained", "the whole U-Net"]),
    "full sdxl": (4, ["UNet2DConditionModel.from_pretrained", "StableDiffusionXLPipeline"]),
    "w_embedding": (
        4,
        [
            "guidance_scale=6,",
            "`guidance_scale` is told to the U-Net, which was trained with 2 to 10",
        ],
    ),
}
"""Run -> steps in the snippet, and what the card says."""


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_snippet_draws_the_first_picture_of_the_grid(
    name: str, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, says = CARDS[name]
    shutil.copytree(done(name), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    card = Path("README.md").read_text()
    for words in says:
        assert words in card, words
    exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    drawn = np.asarray(Image.open("image.png")).astype(int)
    column = {2: 0, 4: 1}[steps]
    cell = np.asarray(Image.open("images/grid.png")).astype(int)[
        :16, 16 * column : 16 * (column + 1)
    ]
    assert np.abs(cell - drawn).max() <= 1
    assert drawn.std() > 0


@pytest.mark.parametrize(("name", "relation"), [("plain", "adapter"), ("full", "finetune")])
def test_the_cards_front_matter_says_what_was_made(
    name: str, relation: str, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(lcm.read_recipe(done(name)), teacher="someone/teacher")
    write_card(tmp_path, recipe, parse_config(arguments(name, tmp_path)), PROMPTS)
    facts = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert (facts["base_model"], facts["base_model_relation"]) == ("someone/teacher", relation)
    assert ("lora" in facts["tags"]) is (relation == "adapter")


@pytest.mark.parametrize(
    ("changes", "solver", "loss"),
    [
        ({"objective": "cd"}, "heun, 1 steps a pair, grid of 50", "l2"),
        ({"objective": "stochastic_flow"}, "none: coupling sde, grid of 50", "energy"),
        (
            {"objective": "ct", "guidance_scale": None, "discretization": "ect"},
            "none: no teacher",
            "huber, c = 0.001",
        ),
        ({"loss_type": "cauchy"}, "ddim, 1 steps a pair, grid of 50", "cauchy, c = 0.1"),
    ],
    ids=str,
)
def test_the_card_names_solver_and_loss_as_they_were_used(
    changes: dict[str, Any],
    solver: str,
    loss: str,
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
) -> None:
    write_card(
        tmp_path,
        lcm.read_recipe(done("plain")),
        parse_config(arguments("plain", tmp_path, **changes)),
        PROMPTS,
    )
    card = (tmp_path / "README.md").read_text()
    assert f"| solver | {solver} |" in card
    assert f"| loss | {loss} |" in card


@pytest.mark.parametrize(
    ("name", "scheduler", "eta"), [("pcm", DDIMScheduler, 0.0), ("tcd", TCDScheduler, 0.3)]
)
def test_the_recipe_plays_with_the_methods_scheduler(
    name: str, scheduler: type, eta: float, done: Done
) -> None:
    pipe = build_sd()
    recipe = lcm.attach(pipe, done(name))
    assert type(pipe.scheduler) is scheduler
    assert recipe.eta == eta
    if name == "pcm":
        pipe.scheduler.set_timesteps(2)
        assert pipe.scheduler.timesteps.tolist() == [999, 499]
        assert recipe.num_inference_steps == [2]
