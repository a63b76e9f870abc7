"""Whole runs in this process: what they write, that they resume bit for bit, and how they fail."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

import lcm
import train_lcm_lora
from lcm.adapter.files import read_header
from lcm.adapter.lora import lora_modules
from lcm.adapter.names import WEIGHTS_NAME
from lcm.dry_run.rehearse import rehearse
from lcm.outputs.checkpoint import load_checkpoint
from tests.support.outputs import (
    adapted_layers,
    lines_but_for_the_machine,
    snapshot,
)
from tests.support.runs import expect_refusal, flags, run, trainer_of, update
from tests.support.worlds import build_sd, write_images

FINISHED = {"validation_prompts": ["a red star", "blue"], "report_to": "tensorboard"}


@pytest.fixture(scope="module")
def finished(sd_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    assert run(sd_folder, images, output, **FINISHED) == 0
    return output


def test_the_output_folder_holds_what_the_readme_promises(finished: Path) -> None:
    written = set(snapshot(finished))
    assert {
        "pytorch_lora_weights.safetensors",
        "README.md",
        "config.yaml",
        "metrics.jsonl",
        "data_report.json",
        "data_report.png",
        "report.html",
        "images/grid.png",
        "validation/step-000000.png",
        "validation/step-000002.png",
        "checkpoint-2/state.safetensors",
        "checkpoint-4/pytorch_lora_weights.safetensors",
    } <= written
    assert any("logs/" in name and "tfevents" in name for name in written)
    assert not any(name.endswith((".pkl", ".bin", ".pt", ".part")) for name in written)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(
        np.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["samples_per_second"] > 0
        for row in rows
    )
    assert Image.open(finished / "images" / "grid.png").size == (4 * 16, 2 * 16)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert (config["lora_rank"], config["guidance_scale"], config["num_ddim_timesteps"]) == (
        2,
        7.5,
        50,
    )


def test_training_changed_the_adapter_and_verification_saw_the_file(finished: Path) -> None:
    before, after = (
        load_file(finished / f"checkpoint-{step}" / "pytorch_lora_weights.safetensors")
        for step in (2, 4)
    )
    assert any(not torch.equal(before[key], after[key]) for key in before)
    final = load_file(finished / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(final[key], after[key]) for key in final)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_stock_diffusers_draws_the_grid_from_the_file(
    family: str, images: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A whole run, then only stock calls, as the model card prints them: every picture of the grid
    comes back.
    """
    teacher = request.getfixturevalue(f"{family}_folder")
    prompts = ["a red star", "blue"]
    assert (
        run(
            teacher,
            images,
            tmp_path,
            validation_prompts=prompts,
            lora_alpha=6,
            num_ddim_timesteps=40,
        )
        == 0
    )
    pipeline_class = StableDiffusionPipeline if family == "sd" else StableDiffusionXLPipeline
    pipe = pipeline_class.from_pretrained(teacher, dtype=torch.float32)
    pipe.load_lora_weights(tmp_path)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=40)
    pipe.set_progress_bar_config(disable=True)
    grid = np.asarray(Image.open(tmp_path / "images" / "grid.png")).astype(int)
    for row, prompt in enumerate(prompts):
        for column, steps in enumerate((1, 2, 4, 8)):
            generator = torch.Generator("cpu").manual_seed(0)
            image = pipe(
                prompt,
                num_inference_steps=steps,
                guidance_scale=1.0,
                height=16,
                width=16,
                generator=generator,
            ).images[0]
            cell = grid[16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)]
            assert np.abs(cell - np.asarray(image)).max() <= 1
    recipe = lcm.read_recipe(tmp_path)
    assert (recipe.family, recipe.scheduler_config["original_inference_steps"]) == (family, 40)


def test_the_model_cards_snippet_runs(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The code that draws, what a style adds to it, and the toolkit's own."""
    card = (finished / "README.md").read_text()
    alone, with_style, toolkit = (part.split("```")[0] for part in card.split("```python\n")[1:])
    for path in finished.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    shutil.copy(
        finished / "checkpoint-2" / WEIGHTS_NAME, tmp_path / "path" / "to" / "style.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(alone, "README.md", "exec"), names)
    assert Image.open(tmp_path / "image.png").size == (16, 16)
    exec(compile(with_style, "README.md", "exec"), names)
    assert names["pipe"].get_active_adapters() == ["lcm", "style"]
    assert next(iter(lora_modules(names["pipe"].unet).values())).scaling == {
        "lcm": 1.0,
        "style": 0.8,
    }
    exec(compile(toolkit, "README.md", "exec"), names)
    assert names["recipe"] == lcm.read_recipe(finished)
    assert isinstance(names["pipe"].scheduler, LCMScheduler)


@pytest.mark.parametrize("target", ["online", "ema"])
def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    sd_folder: Path, images: Path, tmp_path: Path, target: str
) -> None:
    options = {
        "target": target,
        "lr_scheduler": "cosine",
        "guidance_scale_min": 2.0,
        "guidance_scale_max": 9.0,
        "max_train_steps": 5,
    }
    assert run(sd_folder, images, tmp_path / "whole", **options) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "halved")
    for path in (tmp_path / "halved").iterdir():
        # as if killed after step 3, with lines already logged
        if path.name not in (
            "checkpoint-2",
            "metrics.jsonl",
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(sd_folder, images, tmp_path / "halved", **options) == 0
    whole, halved = (
        load_checkpoint(tmp_path / name / "checkpoint-5") for name in ("whole", "halved")
    )
    assert whole.tensors.keys() == halved.tensors.keys()
    assert all(torch.equal(whole.tensors[key], halved.tensors[key]) for key in whole.tensors)
    files = [tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("whole", "halved")]
    assert read_header(files[0]) == read_header(files[1])
    first, second = map(load_file, files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert lines_but_for_the_machine(tmp_path / "whole") == lines_but_for_the_machine(
        tmp_path / "halved"
    )


def test_a_run_can_be_lengthened(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    assert run(sd_folder, images, tmp_path / "at once", max_train_steps=4) == 0
    assert run(sd_folder, images, tmp_path / "in two", max_train_steps=2) == 0
    assert run(sd_folder, images, tmp_path / "in two", max_train_steps=4) == 0
    first, second = (
        load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        for name in ("at once", "in two")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_checkpointing_activations_may_begin_on_resuming_and_changes_no_bit(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    options = {"max_train_steps": 4, "target": "ema", "lora_dropout": 0.5}
    assert run(sd_folder, images, tmp_path / "whole", **options) == 0
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "halved" / "checkpoint-2")
    changes = {**options, "gradient_checkpointing": True}
    assert run(sd_folder, images, tmp_path / "halved", **changes) == 0
    whole, halved = (
        load_checkpoint(tmp_path / name / "checkpoint-4").tensors for name in ("whole", "halved")
    )
    assert whole.keys() == halved.keys()
    assert all(torch.equal(whole[key], halved[key]) for key in whole)


def test_the_same_command_on_a_finished_run_says_so_and_touches_nothing(
    finished: Path, sd_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.rglob("*")}
    assert run(sd_folder, images, finished, **FINISHED) == 0
    assert f"{finished} is finished: all 4 updates were made" in capsys.readouterr().err
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.rglob("*")
    } == before


def test_what_a_kill_left_of_the_end_is_made_by_the_same_command(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """Killed while the finished adapter was published, and before that the adapter of a checkpoint
    and a grid.
    """
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    for name in ("README.md", "images/grid.png", "checkpoint-4/pytorch_lora_weights.safetensors"):
        (output / name).unlink()
    (output / "checkpoint-4" / "unverified-pytorch_lora_weights.safetensors").write_bytes(b"half")
    (output / ".pytorch_lora_weights.safetensors.part").write_bytes(b"half")
    assert run(sd_folder, images, output, **FINISHED) == 0
    logs = {name for name in snapshot(output) if name.startswith("logs/")}
    before, after = snapshot(finished), snapshot(output)
    assert after.keys() - logs == {name for name in before if not name.startswith("logs/")}
    for name in ("images/grid.png", "README.md", "metrics.jsonl"):
        assert after[name] == before[name], name


def test_a_grid_that_a_kill_prevented_is_drawn_by_the_same_command(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
    assert run(sd_folder, images, tmp_path, **FINISHED) == 0
    ours, theirs = (folder / "validation" / "step-000002.png" for folder in (tmp_path, finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_card_means_that_all_is_done(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """A lengthened run that is killed before it publishes is not taken for finished when it comes
    back.
    """
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    trainer = trainer_of(flags(sd_folder, images, output, **{**FINISHED, "max_train_steps": 5}))
    trainer.open_folder()
    assert not (output / "README.md").exists()


def test_only_the_newest_checkpoints_are_kept(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    assert run(sd_folder, images, tmp_path, checkpointing_steps=1, checkpoints_total_limit=2) == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]


def test_bf16_trains_and_verifies(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    assert (
        run(
            sd_folder,
            images,
            tmp_path,
            mixed_precision="bf16",
            gradient_checkpointing=True,
            max_train_steps=2,
        )
        == 0
    )
    trained = [
        v
        for k, v in load_checkpoint(tmp_path / "checkpoint-2").tensors.items()
        if k.startswith("trained.")
    ]
    assert len(trained) == 2 * len(adapted_layers(tmp_path))
    assert all(value.dtype == torch.float32 for value in trained)


def test_low_precision_is_computed_with_as_it_is_loaded(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """As in pipelines: no autocast, under which norms and adapter would be float32."""
    trainer = trainer_of(flags(sd_folder, images, tmp_path, mixed_precision="bf16"))
    seen = []
    for module in trainer.state.student.unet.modules():
        module.register_forward_hook(
            lambda module, args, output: seen.append((output, torch.is_autocast_enabled("cpu")))
        )
    update(trainer, trainer.run.inputs.batches(range(1)))
    tensors = [
        (output.dtype, autocast) for output, autocast in seen if isinstance(output, torch.Tensor)
    ]
    assert len(tensors) > 100
    # sines and cosines of the time are float32
    assert set(tensors) == {
        (torch.bfloat16, False),
        (torch.float32, False),
    }
    assert sum(dtype == torch.float32 for dtype, _ in tensors) == 3  # teacher, target, student


def test_v_prediction_teacher_with_zero_terminal_snr_trains(
    sd_v_folder: Path, images: Path, tmp_path: Path
) -> None:
    assert run(sd_v_folder, images, tmp_path, max_train_steps=2) == 0
    recipe = lcm.read_recipe(tmp_path)
    assert (recipe.prediction_type, recipe.zero_terminal_snr) == ("v_prediction", True)
    assert recipe.scheduler_config["rescale_betas_zero_snr"] is True


def test_a_weight_that_forgets_pure_noise_is_refused_once_the_teacher_is_known(
    sd_v_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_refusal(
        capsys,
        flags(sd_v_folder, images, tmp_path / "out", weighting="min_snr"),
        "min_snr is 0",
        "uniform or velocity",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_teachers_own_resolution_is_trained_written_down_and_the_same_run(
    family: str, images: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """16 pixels, 8 x 8 latents of a VAE that halves."""
    teacher = request.getfixturevalue(f"{family}_folder")
    trainer = trainer_of(flags(teacher, images, tmp_path, resolution=None))
    batch = next(trainer.run.inputs.batches(range(1)))
    assert (batch.content.tensor.shape[2:], batch.noise.shape[2:]) == ((16, 16), (8, 8))
    assert trainer.run.publisher.recipe.resolution == 16
    if family == "sd":
        assert run(teacher, images, tmp_path, resolution=None, max_train_steps=1) == 0
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["resolution"] == 16
        assert json.loads((tmp_path / "data_report.json").read_text())["resolution"] == 16
        assert run(teacher, images, tmp_path, resolution=16, max_train_steps=2) == 0


def test_dry_run_reports_and_writes_nothing(
    sd_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True))
        rehearse(trainer.run, trainer.state)
    data = (
        "kept 6 samples",
        "captions: 6 for 6 samples",
        "shorter sides of the images: 16 to 16 pixels",
    )
    for words in (
        *data,
        "parameters frozen",
        "loss",
        "saved, reloaded and compared",
        "peak",
        "an hour",
        "disk",
    ):
        assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_dry_run_draws_one_row_alone(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(
        flags(sd_folder, images, tmp_path / "out", validation_num_steps=[3, 2], dry_run=True)
    )
    drawn: list[tuple[int, ...]] = []
    decode = trainer.run.family.decode
    monkeypatch.setattr(
        trainer.run.family,
        "decode",
        lambda latents: (drawn.append(tuple(latents.shape)), decode(latents))[1],
    )
    at_play = []
    trainer.state.student.unet.conv_in.register_forward_pre_hook(
        lambda layer, args: None if layer.training else at_play.append(len(args[0]))
    )
    assert trainer.run.publisher.try_drawing().size == (32, 16)
    assert drawn == [(1, 4, 8, 8)] * 2
    assert at_play == [1] * 5


def test_a_finished_run_is_never_overwritten(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = snapshot(finished)
    other = {"lora_rank": 4, "guidance_scale": 3.0}
    expect_refusal(
        capsys,
        flags(sd_folder, images, finished, **other),
        "another configuration",
        "lora_rank: 2 -> 4",
        "guidance_scale: 7.5 -> 3.0",
    )
    batch = {"train_batch_size": 3}
    expect_refusal(
        capsys, flags(sd_folder, images, finished, **batch), "samples per update: 2 -> 3"
    )
    shorter = {"max_train_steps": 3}
    expect_refusal(
        capsys, flags(sd_folder, images, finished, **shorter), "step 4", "beyond max_train_steps=3"
    )
    elsewhere = {"resume_from_checkpoint": finished / "checkpoint-2", "output_dir": finished}
    shutil.copytree(finished, tmp_path / "other")
    expect_refusal(
        capsys,
        flags(
            sd_folder, images, tmp_path / "other", **{**elsewhere, "output_dir": tmp_path / "other"}
        ),
        "already holds",
    )
    path = {"resume_from_checkpoint": tmp_path}
    expect_refusal(capsys, flags(sd_folder, images, finished, **path), "is not a checkpoint")
    assert snapshot(finished) == before


def test_an_adapter_without_checkpoints_is_never_overwritten(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(finished / "pytorch_lora_weights.safetensors", tmp_path)
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), "already holds a run")


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "config.yaml",
        "metrics.jsonl",
        "data_report.json",
        "data_report.png",
        "report.html",
    ],
)
def test_files_of_something_else_are_not_overwritten(
    sd_folder: Path, images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), f"holds a {name} of something else")
    assert snapshot(tmp_path) == {name: b"mine"}


def test_a_run_interrupted_before_its_first_checkpoint_starts_again(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "config.yaml", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "lo')
    assert run(sd_folder, images, tmp_path, max_train_steps=1) == 0
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [1]


def test_a_damaged_checkpoint_is_named(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    state = tmp_path / "out" / "checkpoint-4" / "state.json"
    arguments = flags(sd_folder, images, tmp_path / "out")
    state.write_text('{"step": 4}')
    expect_refusal(capsys, arguments, "lacks config, data")
    state.write_text("{")
    expect_refusal(capsys, arguments, "checkpoint-4 is damaged", "pass an earlier checkpoint")


def test_an_adapter_that_fails_its_check_costs_no_state(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path))
    update(trainer, trainer.run.inputs.batches(range(1)))
    trainer.state.student.parameters[0].data.fill_(1e6)  # beyond float16
    with pytest.raises(ValueError, match="not finite"):
        trainer.save()
    assert load_checkpoint(tmp_path / "checkpoint-1").facts["step"] == 1


def test_the_launchers_precision_must_be_the_runs(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), "pass --mixed_precision bf16")


@pytest.mark.parametrize(("launched", "flag"), [("4", None), ("4", 2), ("1", 2)])
def test_the_launchers_accumulation_must_be_the_runs(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    launched: str,
    flag: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Accelerate would take its own number, while the loop counts with the flag."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", launched)
    assert Accelerator(gradient_accumulation_steps=flag or 1).gradient_accumulation_steps == int(
        launched
    )
    line = flags(sd_folder, images, tmp_path / "out", gradient_accumulation_steps=flag)
    expect_refusal(capsys, line, f"pass --gradient_accumulation_steps {launched}")
    assert not (tmp_path / "out").exists()
    same = flags(sd_folder, images, tmp_path / "out", gradient_accumulation_steps=launched)
    assert trainer_of(same).run.machine.accelerator.gradient_accumulation_steps == int(launched)


@pytest.mark.parametrize(
    ("variable", "name"),
    [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")],
)
def test_launches_that_split_the_model_are_refused(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    variable: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    expect_refusal(
        capsys, flags(sd_folder, images, tmp_path / "out"), name, "accelerate launch --multi_gpu"
    )
    assert not (tmp_path / "out").exists()


def test_resuming_with_other_data_is_refused(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    changed = write_images(tmp_path / "images", count=5)
    shutil.copytree(images, tmp_path / "same")
    arguments = flags(sd_folder, changed, tmp_path / "out")
    expect_refusal(capsys, arguments, "other images or captions")
    moved = flags(sd_folder, tmp_path / "same", tmp_path / "out")
    assert train_lcm_lora.main(moved) == 0  # the same data in another place is the same run


@pytest.mark.parametrize("occupied", ["file", "below a file"])
def test_an_output_folder_that_cannot_be_written_is_named(
    sd_folder: Path, images: Path, tmp_path: Path, occupied: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" if occupied == "file" else tmp_path / "file" / "out"
    expect_refusal(
        capsys, flags(sd_folder, images, output), "cannot be written", "choose another folder"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_before_the_update(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sd_folder, images, tmp_path / "out", max_train_steps=2) == 0
    before = snapshot(tmp_path / "out")
    pipe = build_sd()
    teacher = tmp_path / "teacher"
    pipe.save_pretrained(teacher)
    trainer = trainer_of(
        flags(teacher, images, tmp_path / "broken", max_train_steps=4, checkpointing_steps=1)
    )
    weights = [p.detach().clone() for p in trainer.state.student.parameters]
    batches = trainer.run.inputs.batches(range(2))
    update(trainer, batches)
    trainer.save()
    updated = [p.detach().clone() for p in trainer.state.student.parameters]
    assert any(not torch.equal(a, b) for a, b in zip(weights, updated, strict=True))
    with torch.no_grad():
        trainer.run.family.unet.conv_in.weight.fill_(float("inf"))
    with pytest.raises(
        FloatingPointError,
        match=r"step 2: the loss or its gradient is not finite \(samples: \d\.png.*checkpoint-1",
    ) as caught:
        update(trainer, batches)
    assert "The update was not made" in str(caught.value)
    assert all(
        torch.equal(a, b) for a, b in zip(updated, trainer.state.student.parameters, strict=True)
    )
    assert (tmp_path / "broken" / "checkpoint-1" / "state.json").is_file()
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"train_data_dir": "nowhere"}, ["nowhere is not a folder"]),
        (
            {"pretrained_teacher_model": "./nowhere"},
            ["is not a folder; pass a diffusers pipeline folder, a .safetensors file"],
        ),
        ({"lora_rank": 0}, ["lora_rank must be positive"]),
        ({"lora_alpha": -1}, ["lora_alpha must be positive"]),
        ({"resolution": 18}, ["resolution must be a multiple of 4"]),
        (
            {"lora_target_modules": ["to_x"]},
            ["no linear or conv layer of the U-Net is named 'to_x'"],
        ),
        ({"learning_rate": "fast"}, []),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing_behind(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    messages: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = flags(sd_folder, images, tmp_path / "new" / "out", **changes)
    if not messages:  # a value of the wrong type is argparse's own usage error
        with pytest.raises(SystemExit):
            train_lcm_lora.main(arguments)
        assert "invalid float value: 'fast'" in capsys.readouterr().err
    else:
        expect_refusal(capsys, arguments, *messages)
    assert list(tmp_path.iterdir()) == []
