"""What a finished run has written, and what the same command does where it finds it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import LCMScheduler
from PIL import Image
from safetensors.torch import load_file

import lcm
import train_lcm_lora
from lcm.adapter.lora import lora_modules
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.damage import flip_bit
from tests.support.grids import cells
from tests.support.outputs import content, differences, lines_of_grids, lines_of_updates, snapshot
from tests.support.runs import expect_refusal, flags, run, trainer_of
from tests.support.worlds import write_images

FINISHED = {
    "validation_prompts": ["a red star", "blue"],
    "validation_num_steps": [1, 2],
    "report_to": "tensorboard",
}


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
        "SHA256SUMS",
        "images/grid.png",
        "validation/step-000000.png",
        "validation/step-000002.png",
        "validation/step-000004.png",
        "validation/teacher.safetensors",
        "checkpoint-2/state.safetensors",
        "checkpoint-4/pytorch_lora_weights.safetensors",
    } <= written
    assert any("logs/" in name and "tfevents" in name for name in written)
    assert not any(name.endswith((".pkl", ".bin", ".pt", ".part")) for name in written)
    rows = lines_of_updates(finished)
    assert [row["step"] for row in lines_of_grids(finished)] == [0, 2, 4]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(
        np.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["samples_per_second"] > 0
        for row in rows
    )
    grid = cells(finished / "images" / "grid.png")
    columns = ("teacher, 2 steps", "1 step", "2 steps")
    assert set(grid) == {(row, column) for row in (0, 1) for column in columns}
    assert {picture.shape for picture in grid.values()} == {(16, 16, 3)}
    config = yaml.safe_load((finished / "config.yaml").read_text())
    expected = {"lora_rank": 2, "guidance_scale": 5.0, "num_ddim_timesteps": 50}
    assert expected.items() <= config.items()


def test_training_changed_the_adapter_and_verification_saw_the_file(finished: Path) -> None:
    before, after = (
        load_file(finished / f"checkpoint-{step}" / "pytorch_lora_weights.safetensors")
        for step in (2, 4)
    )
    assert any(not torch.equal(before[key], after[key]) for key in before)
    final = load_file(finished / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(final[key], after[key]) for key in final)


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
        assert content(output / name) == content(finished / name), name


def test_a_result_that_is_not_whole_is_made_again_without_training(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All else stays as it is, and a card that somebody edited."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    card = (output / "README.md").read_text() + "\nMy own words.\n"
    (output / "README.md").write_text(card)
    os.truncate(output / WEIGHTS_NAME, (output / WEIGHTS_NAME).stat().st_size // 2)
    assert run(sd_folder, images, output, **FINISHED) == 0
    said = capsys.readouterr().err
    assert f"no whole result ({WEIGHTS_NAME} is not what was written" in said
    assert "it is made again from checkpoint-4, without training" in said
    assert (output / "README.md").read_text() == card
    logs = {f"only in one: {name}" for name in snapshot(output) if name.startswith("logs/")}
    assert set(differences(output, finished)) - logs == {"differs: README.md"}


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
        "guidance_scale: 5.0 -> 3.0",
    )
    batch = {"train_batch_size": 3}
    expect_refusal(
        capsys, flags(sd_folder, images, finished, **batch), "samples per update: 2 -> 3"
    )
    shorter = {"max_train_steps": 3}
    expect_refusal(
        capsys, flags(sd_folder, images, finished, **shorter), "step 4", "beyond max_train_steps=3"
    )
    copy = shutil.copytree(finished, tmp_path / "other")
    elsewhere = {"resume_from_checkpoint": finished / "checkpoint-2"}
    expect_refusal(capsys, flags(sd_folder, images, copy, **elsewhere), "already holds")
    path = {"resume_from_checkpoint": tmp_path}
    expect_refusal(capsys, flags(sd_folder, images, finished, **path), "is no checkpoint")
    assert snapshot(finished) == before


def test_an_adapter_without_checkpoints_is_never_overwritten(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = shutil.copy(finished / "pytorch_lora_weights.safetensors", tmp_path)
    expect_refusal(capsys, flags(sd_folder, images, tmp_path), "already holds a run")
    os.truncate(adapter, 1000)
    expect_refusal(
        capsys,
        flags(sd_folder, images, tmp_path),
        "already holds a run",
        "no checkpoint-<step> folder",
        "is not whole",
    )


def test_a_run_interrupted_before_its_first_checkpoint_starts_again(
    finished: Path, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "config.yaml", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "lo')
    assert run(sd_folder, images, tmp_path, max_train_steps=1) == 0
    assert [line["step"] for line in lines_of_updates(tmp_path)] == [1]


def test_a_damaged_checkpoint_costs_the_updates_after_the_one_before(
    finished: Path,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It stays, under another name; named, it is refused."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    damaged = output / "checkpoint-4"
    flip_bit(damaged / "state.safetensors", -1)
    line = flags(sd_folder, images, output, **FINISHED)
    expect_refusal(
        capsys,
        [*line, "--resume_from_checkpoint", "checkpoint-4"],
        f"{damaged} is no checkpoint, or damaged: state.safetensors is not what was written",
        f"pass {output / 'checkpoint-2'}, which is sound",
    )
    assert train_lcm_lora.main(line) == 0
    said = capsys.readouterr().err
    assert "checkpoint-4: state.safetensors is not what was written" in said
    assert "going on from checkpoint-2, the newest sound one" in said
    assert f"{damaged} is now checkpoint-4.damaged" in said
    shutil.rmtree(output / "checkpoint-4.damaged")
    logs = {f"only in one: {name}" for name in snapshot(output) if name.startswith("logs/")}
    assert set(differences(output, finished)) <= logs
    for step in (2, 4):
        (output / f"checkpoint-{step}" / "state.json").write_text("{")
    before = snapshot(output)
    expect_refusal(capsys, line, "no checkpoint in", "start again in another --output_dir")
    assert snapshot(output) == before


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
    output = tmp_path / "out"
    expect_refusal(capsys, flags(sd_folder, changed, output), "other images or captions")
    # the same data in another place is the same run
    assert run(sd_folder, tmp_path / "same", output) == 0
