"""--evaluate_steps: more prompts than a grid shows, measured at steps of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

import lcm
from lcm.config.output_sections import ValidationConfig
from lcm.outputs.gauges import compare, is_of_grid
from lcm.training.teacher_pictures import TeacherPictures
from tests.support.outputs import lines_of_grids
from tests.support.runs import run

BRIEF: dict[str, Any] = {
    "evaluate_steps": 2,
    "validation_prompts": ["shown"],
    "validation_num_steps": [2],
    "validation_seed": 5,
    "validation_num_images": 2,
    "validation_teacher_steps": 3,
    "validation_steps": 3,
    "max_train_steps": 5,
    "checkpointing_steps": 2,
}


@pytest.fixture(scope="module")
def measured(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("measured") / "out"
    assert run(sd_folder, images, output, **BRIEF) == 0
    return output


def drawn_by(pipe: Any, caption: str, steps: int, guidance: float) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    found: torch.Tensor = pipe(
        [caption] * 2,
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=16,
        width=16,
        generator=[torch.Generator("cpu").manual_seed(5 + i) for i in range(2)],
        output_type="latent",
    ).images
    return found


def test_captions_are_measured_at_their_own_steps_and_of_the_result(
    measured: Path, sd_folder: Path
) -> None:
    lines, captions = lines_of_grids(measured), [f"picture {i}" for i in range(6)]
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert {(line["gauged_prompts"], line["gauged_seeds"]) for line in lines} == {(6, 2)}
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32)
    scheduler = pipe.scheduler.config
    pipe.scheduler = DDIMScheduler.from_config(
        scheduler, timestep_spacing="trailing", set_alpha_to_one=True
    )
    guidance = lcm.read_recipe(measured).teacher_guidance(told=False)
    teacher = torch.stack([drawn_by(pipe, each, 3, guidance) for each in captions])
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32)
    lcm.attach(pipe, measured)
    student = torch.stack([drawn_by(pipe, each, 2, 1.0) for each in captions])
    for name, value in compare({2: student}, teacher).items():
        assert value is not None
        assert lines[-1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_run_that_was_killed_before_it_measured_has_the_same_lines(
    measured: Path, sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(measured, output)
    shutil.rmtree(output / "checkpoint-5")
    log = output / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(
        "".join(o for o in lines if not (is_of_grid(json.loads(o)) and '"step": 4' in o))
    )
    monkeypatch.setattr(TeacherPictures, "_draw", None)  # what is kept does
    assert run(sd_folder, images, output, **BRIEF) == 0
    assert lines_of_grids(output) == lines_of_grids(measured)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation_prompts": ["none"]}, "evaluate_steps .* validation_prompts none .* leave"),
        ({"validation_teacher_steps": 0}, "evaluate_steps .* validation_teacher_steps 0 .* leave"),
        ({"evaluate_steps": -1}, "evaluate_steps"),
    ],
)
def test_what_could_not_be_measured_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ValidationConfig(**{"evaluate_steps": 5, **changes})


def test_grids_are_shown_of_one_seed(measured: Path) -> None:
    assert load_file(measured / "validation" / "teacher.safetensors")["latents"].shape[1] == 1
    names = {path.name for path in (measured / "validation").glob("*.png")}
    assert names == {"step-000000.png", "step-000003.png", "step-000005.png"}


def test_the_report_says_of_how_many(measured: Path) -> None:
    count = lines_of_grids(measured)[0]["gauged_prompts"]
    assert f"({count} prompts, 2 seeds each)" in (measured / "report.html").read_text()
