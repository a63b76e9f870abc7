"""The teacher's pictures beside the student's: drawn once, as stock diffusers draws them, and of no
influence on what is trained.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.outputs.gauges import compare
from lcm.training.teacher_pictures import TeacherPictures
from tests.support.grids import cells, layout_of
from tests.support.outputs import lines_of_grids
from tests.support.runs import flags as flags_of_run
from tests.support.runs import run, trainer_of

BRIEF: dict[str, Any] = {
    "validation_prompts": ["a", "b"],
    "validation_num_steps": [1, 2],
    "validation_seed": 5,
    "validation_num_images": 3,
    "validation_teacher_steps": 4,
    "guidance_scale": 3.0,
    "max_train_steps": 2,
    "validation_steps": 1,
    "checkpointing_steps": 1,
}


@pytest.fixture(scope="module")
def drawn(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("drawn") / "out"
    assert run(sd_folder, images, output, **BRIEF) == 0
    return output


def latents(folder: Path) -> torch.Tensor:
    return load_file(folder / "validation" / "teacher.safetensors")["latents"]


def test_the_teachers_are_those_of_stock_ddim(drawn: Path, sd_folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipe.set_progress_bar_config(disable=True)
    kept = latents(drawn)
    assert kept.shape == (2, 3, 4, 8, 8)
    for row, prompt in enumerate("ab"):
        for column in range(3):
            expected = pipe(
                prompt,
                num_inference_steps=4,
                guidance_scale=3.0,
                height=16,
                width=16,
                generator=torch.Generator("cpu").manual_seed(5 + column),
                output_type="latent",
            ).images[0]
            torch.testing.assert_close(kept[row, column], expected, rtol=1e-4, atol=1e-4)


def test_every_grid_has_its_line_and_the_last_is_of_the_file(drawn: Path, sd_folder: Path) -> None:
    lines = lines_of_grids(drawn)
    assert [line["step"] for line in lines] == [0, 1, 2]
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder, torch_dtype=torch.float32)
    lcm.attach(pipe, drawn)
    pipe.set_progress_bar_config(disable=True)
    student = torch.stack(
        [
            pipe(
                [prompt] * 3,
                num_inference_steps=2,
                guidance_scale=1.0,
                height=16,
                width=16,
                generator=[torch.Generator("cpu").manual_seed(5 + i) for i in range(3)],
                output_type="latent",
            ).images
            for prompt in "ab"
        ]
    )
    for name, value in compare({2: student}, latents(drawn)).items():
        assert lines[-1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_the_teachers_pictures_stand_first_in_every_grid_and_stay_the_same(drawn: Path) -> None:
    paths = [drawn / "validation" / f"step-{step:06d}.png" for step in (0, 1, 2)]
    first, *others = (cells(path) for path in [*paths, drawn / "images" / "grid.png"])
    assert layout_of(paths[0]).columns == ["teacher, 4 steps", "1 step", "2 steps"]
    for grid in others:
        for row in (0, 1):
            assert np.array_equal(grid[row, "teacher, 4 steps"], first[row, "teacher, 4 steps"])
            assert not np.array_equal(grid[row, "1 step"], grid[row, "teacher, 4 steps"])


def test_a_resumed_run_draws_them_no_second_time_and_has_the_same_lines(
    drawn: Path, sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(drawn, output)
    for name in ("checkpoint-2", "validation/step-000001.png"):
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setattr(TeacherPictures, "_draw", None)
    assert run(sd_folder, images, output, **BRIEF) == 0
    assert lines_of_grids(output) == lines_of_grids(drawn)
    # nothing of it is of use to another teacher, or for other pictures
    line = flags_of_run(sd_folder, images, output, **BRIEF)
    pictures = trainer_of([*line, "--max_train_steps", "3"]).run.publisher.teacher
    assert pictures is not None
    unet, spec = pictures.family.unet, pictures.spec
    keys = {pictures.key(unet)}
    for change in ({"seed": 6}, {"guidance_scale": 2.0}, {"num_steps": [5]}, {"prompts": ["a"]}):
        other = dataclasses.replace(spec, **change)
        keys.add(dataclasses.replace(pictures, spec=other).key(unet))
    frozen = (p for name, p in unet.named_parameters() if ".lora_" not in name)
    next(frozen).data.add_(1.0)
    keys.add(pictures.key(unet))
    assert len(keys) == 6


def test_what_is_trained_knows_nothing_of_it(
    drawn: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    changes = {**BRIEF, "validation_teacher_steps": 0}
    assert run(sd_folder, images, tmp_path / "out", **changes) == 0
    assert lines_of_grids(tmp_path / "out") == []
    assert not (tmp_path / "out" / "validation" / "teacher.safetensors").exists()
    with_it, without = (load_file(folder / WEIGHTS_NAME) for folder in (drawn, tmp_path / "out"))
    assert all(torch.equal(with_it[name], without[name]) for name in with_it)


@pytest.mark.parametrize(
    ("trained", "played", "told", "guidance"),
    [
        ([7.5, 7.5], 1.0, False, 7.5),
        ([2.0, 10.0], 1.0, False, 6.0),
        ([1.0, 1.0], 3.0, False, 3.0),  # --preserve_cfg
        ([2.0, 10.0], 6.0, True, 6.0),  # --w_embedding
        ([], 1.0, False, 1.0),
    ],
)
def test_the_teacher_is_guided_as_the_student_is_to_draw(
    drawn: Path, trained: list[float], played: float, told: bool, guidance: float
) -> None:
    recipe = dataclasses.replace(
        lcm.read_recipe(drawn), trained_guidance_scale=trained, guidance_scale=played
    )
    assert recipe.teacher_guidance(told=told) == guidance


@pytest.mark.parametrize(
    "changes",
    [
        {"full_finetune": True, "w_embedding": True, "lora_rank": None},
        {"preserve_cfg": True, "proportion_empty_prompts": 0.1, "mixed_precision": "bf16"},
        {"lora_dropout": 0.5, "gradient_checkpointing": "full", "target": "ema"},
    ],
)
def test_every_kind_of_run_is_compared_with_its_teacher(
    changes: dict[str, Any], sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    line = flags_of_run(sd_folder, images, tmp_path, **{**BRIEF, **changes})
    publisher = trainer_of(line).run.publisher
    noted: list[dict[str, Any]] = []
    publisher.folder.mkdir(exist_ok=True)
    assert publisher.validate(0, note=lambda step, values: noted.append(values))
    (values,) = noted
    assert all(value is not None for value in values.values())
    kept = latents(tmp_path)
    assert kept.dtype == torch.float32 and kept.std() > 0
