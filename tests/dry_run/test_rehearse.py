"""The dry run: what it foresees is what a real run takes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lcm.dry_run.rehearse
from lcm.cli import main as cli
from lcm.config.command_line import parse_config
from lcm.dry_run.memory_fit import AVERAGES, MOMENTS, TRAINED
from lcm.dry_run.preparation import preparations
from lcm.dry_run.rehearse import rehearse
from lcm.dry_run.step_memory import measure_steps
from lcm.system.memory import LiveMemory
from lcm.training.plan import plan_of
from tests.support.outputs import lines_of_updates, snapshot
from tests.support.rehearsals import BRIEF
from tests.support.runs import flags, run, trainer_of, update
from tests.support.worlds import write_images


@pytest.mark.parametrize("keep", [None, 1, 2, 9])
@pytest.mark.parametrize("step", [0, 3, 4, 10, 12])
def test_checkpoints_and_grids_to_come_are_counted(
    step: int, keep: int | None, tmp_path: Path
) -> None:
    """As the loop of the trainer writes them, one by one."""
    options = {
        "max_train_steps": 12,
        "checkpointing_steps": 5,
        "validation_steps": 4,
        "checkpoints_total_limit": keep,
    }
    config = parse_config(flags(tmp_path, tmp_path, tmp_path / "out", **options))
    to_come: Any = SimpleNamespace(config=config, facts=SimpleNamespace(num_updates=12))
    there = [5, 10][: step // 5]
    for number in there:
        (tmp_path / "out" / f"checkpoint-{number}").mkdir(parents=True)
        (tmp_path / "out" / f"checkpoint-{number}" / "state.json").touch()
    present, most, written, grids = there[-keep:] if keep else there, len(there), 0, int(step == 0)
    for now in range(step + 1, 13):
        if now % 5 == 0 or now == 12:
            written, present = written + 1, [*present, now]
            most = max(most, len(present))
            present = present[-keep:] if keep else present
        grids += now % 4 == 0 and now != 12
    plan = plan_of(to_come, step)
    assert (plan.updates, plan.checkpoints, plan.grids) == (12 - step, written, grids + 1)
    if len(there) <= (keep or 9):
        assert plan.together == most - len(there)


def test_what_is_missing_in_a_cache_is_foreseen_and_nothing_is_written(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, cache = write_images(tmp_path / "images", 12), tmp_path / "cache"
    options = {
        **BRIEF,
        "latent_cache_dir": cache,
        "random_flip": True,
        "cache_variants": 2,
        "proportion_empty_prompts": 0.1,
    }
    build = ["cache", "build", *flags(sd_folder, images, tmp_path / "out", **options)]
    assert cli.main([*build, "--max_train_samples", "5"]) == 0
    before = snapshot(cache)
    trainer = trainer_of(
        flags(sd_folder, images, tmp_path / "out", cache_latents=True, dry_run=True, **options)
    )
    rehearse(trainer.run, trainer.state)
    foreseen = {made.what: made for made in preparations(trainer.run)}
    assert snapshot(cache) == before and not (tmp_path / "out").exists()
    capsys.readouterr()
    assert cli.main(build) == 0
    made = dict(
        re.findall(
            r"^(prompt embeddings|latents) in .* reused, (\d+) made",
            capsys.readouterr().err,
            re.MULTILINE,
        )
    )
    assert {what: str(row.missing) for what, row in foreseen.items()} == made
    assert foreseen["latents"].missing >= 7 and foreseen["latents"].need.folder in cache.iterdir()
    new = {name: len(content) for name, content in snapshot(cache).items() if name not in before}
    for row in foreseen.values():
        written = sum(size for name, size in new.items() if name.startswith(row.need.folder.name))
        assert row.need.nbytes == pytest.approx(written, rel=0.01)
        assert row.seconds > 0


def test_trajectories_are_found_by_a_teacher_that_has_its_adapter_by_now(
    sd_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts").write_text("a\nb\nc\n")
    options = {
        **{
            "train_data_dir": None,
            "prompts_file": tmp_path / "prompts",
            "trajectory_dir": tmp_path / "kept",
        },
        **{"max_train_steps": 1, "num_ddim_timesteps": 4, "validation_num_steps": 1},
    }
    for missing in (3, 0):
        trainer = trainer_of(flags(sd_folder, Path(), tmp_path / "out", dry_run=True, **options))
        (found,) = preparations(trainer.run)
        tensors = missing * 4 * 8 * 8 * 2
        assert (found.wanted, found.missing) == (3, missing)
        assert tensors <= found.need.nbytes <= tensors + 1000  # a header
        assert (found.seconds > 0) == (missing > 0)
        assert run(sd_folder, Path(), tmp_path / str(missing), **options) == 0


@pytest.mark.parametrize(
    ("world", "changes", "others"),
    [
        ("sd_folder", {"export_ema_decay": 0.9}, [3, 9]),
        ("sdxl_folder", {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}, [6]),
        (
            "sd_folder",
            {"full_finetune": True, "lora_rank": None, "target": "ema", "mixed_precision": "bf16"},
            [9],
        ),
    ],
)
def test_the_memory_of_other_batch_sizes_is_foreseen(
    request: pytest.FixtureRequest,
    images: Path,
    tmp_path: Path,
    world: str,
    changes: dict[str, Any],
    others: list[int],
) -> None:
    teacher = request.getfixturevalue(world)
    trainer = trainer_of(flags(teacher, images, tmp_path / "out", train_batch_size=4, **changes))
    memory = measure_steps(trainer.run, trainer.state)
    assert memory is not None and sorted(memory.steps) == [1, 2, 4]
    for batch_size in others:
        trainer = trainer_of(
            flags(teacher, images, tmp_path / "out", train_batch_size=batch_size, **changes)
        )
        batches = trainer.run.inputs.batches(range(2))
        update(trainer, batches)
        with LiveMemory() as counted:
            update(trainer, batches)
        assert memory.above(batch_size) == pytest.approx(counted.peak, rel=0.1)
    moments = sum(
        t.nbytes for name, t in trainer.record().tensors.items() if name.startswith("optimizer")
    )
    averages = sum(t.nbytes for name, t in trainer.record().tensors.items() if "ema." in name)
    assert (memory.held[MOMENTS], memory.held[AVERAGES]) == (moments, averages)
    assert memory.held[TRAINED] == sum(p.nbytes for p in trainer.state.student.parameters)


def test_the_rehearsal_tells_it_all(
    sd_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**BRIEF, "gradient_accumulation_steps": 2}
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **options))
    with caplog.at_level(logging.INFO):
        rehearse(trainer.run, trainer.state)
    lines = [re.sub(" +", " ", line.strip()) for line in caplog.text.splitlines()]
    said = "\n".join(line.split(" ", 2)[2] for line in lines)
    assert run(sd_folder, images, tmp_path / "out", **options) == 0
    first = lines_of_updates(tmp_path / "out")[0]
    assert f"one step loss {first['loss']:.4f}, gradient norm {first['grad_norm']:.4f}" in said
    for words in (
        "time",
        "an hour",
        "to the end of the run: 4 updates",
        "3 grids",
        "2 checkpoints",
        "held (U-Net",
        "drawing one prompt",
    ):
        assert words in said
    assert lines[-1].endswith("this run fits: it takes 0 % of the memory, and the disk has room")


@pytest.mark.parametrize("updates", [1, 9])
def test_no_more_updates_are_made_than_the_run_has_and_no_rate_makes_them_diverge(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    updates: int,
) -> None:
    options = {**BRIEF, "max_train_steps": updates, "learning_rate": 1000}
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **options))
    made, rates, step = [], [], lcm.dry_run.rehearse.train_step

    def counted(run: Any, state: Any, batches: Any) -> Any:
        made.append(state.step)
        rates.append(state.student.optimizer.param_groups[0]["lr"])
        return step(run, state, batches)

    monkeypatch.setattr(lcm.dry_run.rehearse, "train_step", counted)
    with caplog.at_level(logging.INFO):
        rehearse(trainer.run, trainer.state)
    assert made == list(range(min(updates, 6))) and max(rates) <= 1e-5
    assert trainer.state.student.optimizer.param_groups[0]["lr"] == 1000
    text = caplog.text
    told = [
        "memory    measuring",
        "held (",
        "timing",
        "an update (",
        "saving",
        "drawing",
        "this run",
    ]
    assert [text.index(words) for words in told] == sorted(text.index(words) for words in told)


def test_a_run_without_pictures_is_rehearsed_without_drawing(
    sd_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"validation_prompts": "none", "max_train_steps": 1}
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **options))
    with caplog.at_level(logging.INFO):
        rehearse(trainer.run, trainer.state)
    assert "this run fits" in caplog.text
    assert "drawing" not in caplog.text and "grids" not in caplog.text
