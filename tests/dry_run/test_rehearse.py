"""The dry run: what it foresees is what a real run takes, and what it advises helps."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lcm.dry_run.step_memory
import lcm.training.step
import train_lcm_lora
from lcm.cli import main as cli
from lcm.config.command_line import parse_config
from lcm.dry_run.memory_fit import (
    AVERAGES,
    MOMENTS,
    TRAINED,
    UNET,
    Memory,
    advice,
    worst,
)
from lcm.dry_run.preparation import Gain, preparations
from lcm.dry_run.rehearse import log, rehearse
from lcm.dry_run.saving import measure_besides
from lcm.dry_run.step_memory import PROBES, attempt, measure_steps
from lcm.outputs.saving import BESIDES
from lcm.system.disk_space import Need, readable, shortages
from lcm.system.memory import LiveMemory, counting, held_on, is_out_of_memory, total_memory
from lcm.training.plan import PAGES, duration, guess_output_need, output_need, plan_of
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import ENCODED, UPDATED
from tests.support.outputs import snapshot
from tests.support.runs import flags, run, trainer_of, update
from tests.support.worlds import write_images

MIB = 2**20


RECOMPUTING = [f"--gradient_checkpointing {mode} (peak about" for mode in ("selective", "full")]
BRIEF = {"validation_num_steps": 1, "validation_prompts": "a"}
"""Next to no drawing."""


def bytes_in(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


# --- what a run takes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"export_ema_decay": 0.9}, {"full_finetune": True, "lora_rank": None}]
)
def test_the_disk_of_a_run_is_foreseen(
    sd_folder: Path, images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = {
        "max_train_steps": 5,
        "validation_prompts": ["a", "b"],
        "validation_num_steps": [1, 2],
        **changes,
    }
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **options))
    plan = plan_of(trainer.run, 0)
    guess = guess_output_need(trainer.run, plan, trainer.record())
    measure_steps(trainer.run, trainer.state)
    found = measure_besides(trainer.run, trainer.state, log)
    foreseen = output_need(
        trainer.run.config.output, plan, found.checkpoint, found.result, 2 * found.row
    )
    assert not (tmp_path / "out").exists()
    assert run(sd_folder, images, tmp_path / "out", **options) == 0
    checkpoints = list(tmp_path.glob("out/checkpoint-*"))
    grids = list(tmp_path.glob("out/validation/*.png"))
    assert (
        (plan.checkpoints, plan.together, plan.grids)
        == (len(checkpoints), len(checkpoints), len(grids) + 1)
        == (3, 3, 4)
    )
    for checkpoint in checkpoints:
        assert found.checkpoint == pytest.approx(bytes_in(checkpoint), rel=0.01)
    result = [
        *grids,
        *tmp_path.glob("out/images/*.png"),
        *tmp_path.glob("out/*.safetensors"),
        *tmp_path.glob("out/unet/*"),
    ]
    written = sum(map(bytes_in, checkpoints)) + sum(path.stat().st_size for path in result)
    assert foreseen.nbytes - PAGES == pytest.approx(written, rel=0.01)
    assert bytes_in(tmp_path / "out") - written < PAGES
    assert (
        foreseen.nbytes
        <= guess.nbytes
        <= foreseen.nbytes + (plan.checkpoints + 1) * (BESIDES + found.result)
    )


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
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
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


# --- where it does not fit ------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Memory runs out, as on a GPU, at more samples than so many in one forward pass of the
    student.
    """

    def limit(samples: int) -> None:
        encode = lcm.training.step.encode

        def choosy(family: Any, batch: Any, device: torch.device) -> Any:
            if len(batch.keys) > samples:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return encode(family, batch, device)

        monkeypatch.setattr("lcm.training.step.encode", choosy)

    return limit


def error_line(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    assert train_lcm_lora.main(line) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return error


def test_where_memory_runs_out_the_advice_is_to_be_taken(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small_memory: Callable[[int], None],
) -> None:
    line = [*flags(sd_folder, images, tmp_path / "out", train_batch_size=12, **BRIEF), "--dry_run"]
    small_memory(3)
    error = error_line(capsys, line)
    assert "this run does NOT fit: a batch of 12 needs about" in error
    options = [
        "--train_batch_size 3 --gradient_accumulation_steps 4 (the same run",
        "--gradient_checkpointing selective (peak about",
        "--gradient_checkpointing full (peak about",
    ]
    options += ["--mixed_precision bf16 (peak about", "--lora_rank 1"]
    assert [error.find(option) for option in options] == sorted(
        error.find(option) for option in options
    )
    assert all(option in error for option in options)
    assert (
        train_lcm_lora.main(
            [*line, "--train_batch_size", "3", "--gradient_accumulation_steps", "4"]
        )
        == 0
    )
    assert "this run fits" in capsys.readouterr().err
    turned = ["--gradient_checkpointing", "full", "--lora_rank", "1", "--cache_latents"]
    small_memory(0)
    total = readable(lcm.dry_run.step_memory.total_memory(torch.device("cpu")))
    assert error_line(capsys, [*line, *turned]).endswith(
        f"not even one sample does into {total}; pass --mixed_precision bf16, or --use_8bit_adam"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_that_takes_nearly_all_memory_is_warned_of_and_one_that_takes_more_refused(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = [
        *flags(sd_folder, images, tmp_path / "out", train_batch_size=4, lora_rank=1, **BRIEF),
        "--dry_run",
    ]
    trainer = trainer_of(line)
    memory = measure_steps(trainer.run, trainer.state)
    assert memory is not None
    peak = memory.peak()
    monkeypatch.setattr("lcm.dry_run.step_memory.total_memory", lambda device: int(peak / 0.95))
    assert train_lcm_lora.main(line) == 0
    warned = capsys.readouterr().err
    assert (
        "memory is tight" in warned
        and "--train_batch_size 2 --gradient_accumulation_steps 2" in warned
    )
    monkeypatch.setattr("lcm.dry_run.step_memory.total_memory", lambda device: int(peak * 0.9))
    advised = re.search(
        r"--train_batch_size (\d) --gradient_accumulation_steps (\d)", error_line(capsys, line)
    )
    assert advised is not None and int(advised[1]) * int(advised[2]) == 4
    assert train_lcm_lora.main([*line, *advised[0].split()]) == 0
    assert "this run fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "where",
    ["lcm.training.publisher.Publisher.try_drawing", "lcm.training.publisher.Publisher.export"],
)
def test_memory_that_runs_out_besides_training_is_told_as_such(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(where, fail)
    error = error_line(capsys, [*flags(sd_folder, images, tmp_path / "out"), "--dry_run"])
    assert "as it saves or draws; pass --gradient_checkpointing selective, or" in error


def test_memory_that_runs_out_in_a_real_run_is_one_line(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small_memory: Callable[[int], None],
) -> None:
    small_memory(1)
    assert run(sd_folder, images, tmp_path / "out", **BRIEF) == 2
    (error,) = re.findall("error: (memory ran out.*)", capsys.readouterr().err)
    for words in (
        "pass a smaller --train_batch_size",
        "--gradient_checkpointing",
        "--dry_run tells",
    ):
        assert words in error


def test_a_disk_without_room_is_refused_by_the_rehearsal_and_warned_of_by_the_run(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = flags(
        sd_folder,
        images,
        tmp_path / "out",
        max_train_steps=5,
        checkpointing_steps=1,
        validation_steps=5,
        **BRIEF,
    )
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: int(1.3 * MIB))
    error = error_line(capsys, [*line, "--dry_run"])
    for words in (
        "the disk has 1.3 MiB free",
        "5 checkpoints, 2 grids",
        "--checkpoints_total_limit 2",
        "another --output_dir",
    ):
        assert words in error
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 4 * MIB)
    assert train_lcm_lora.main(line) == 0
    (warning,) = [text for text in capsys.readouterr().err.splitlines() if "the disk has" in text]
    assert "the disk has 4.0 MiB free" in warning and "--checkpoints_total_limit 2" in warning


def test_what_lies_on_one_disk_shares_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = [Need(tmp_path / "not" / "there", 60, "a", "do x"), Need(tmp_path, 50, "b", "do y")]
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 100)
    assert [shortages([need]) for need in needs] == [[], []]
    (line,) = shortages(needs)
    assert (
        "100 bytes free" in line
        and "a in" in line
        and "60 bytes" in line
        and line.endswith("do x; do y")
    )
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 110)
    assert shortages(needs) == []


def test_a_build_of_the_cache_that_has_no_room_warns_once(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the prompts take more, the latents of six images less
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 20_000)
    assert (
        cli.main(
            [
                "cache",
                "build",
                *flags(sd_folder, images, tmp_path / "out", latent_cache_dir=tmp_path / "cache"),
            ]
        )
        == 0
    )
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "the disk has" in text]
    assert "prompt embeddings" in line and line.endswith("choose another --latent_cache_dir")


# --- the parts ------------------------------------------------------------------------------------


def memory_with(**changes: Any) -> Memory:
    steps = {1: {ENCODED: 100, UPDATED: 20}, 11: {ENCODED: 100, UPDATED: 220}}
    values: dict[str, Any] = {
        "total": 1000,
        "wanted": 11,
        "held": {UNET: 50, TRAINED: 20},
        "steps": steps,
        "besides": {"drawing": 90},
    }
    return Memory(**{**values, **changes})


def test_each_part_of_a_step_is_a_line_and_the_peak_the_higher_one() -> None:
    memory = memory_with()
    assert [memory.above(size) for size in (1, 4, 5, 6, 11, 21)] == [100, 100, 100, 120, 220, 420]
    assert memory.peak(1) == 170 and memory.peak(21) == 490
    assert memory.largest() == 42  # 70 + 20 * 42 = 910 of 920
    assert memory_with(besides={"drawing": 2000}).largest() == 0
    assert memory_with(steps={2: {ENCODED: 10, UPDATED: 40}}).above(6) == 120


def test_of_several_processes_the_one_counts_that_takes_most() -> None:
    other = memory_with(total=800, held={TRAINED: 30, "other": 5}, besides={})
    found = worst([memory_with(), other])
    assert (found.total, found.held) == (800, {UNET: 50, TRAINED: 30, "other": 5})


def test_what_fails_on_another_process_fails_on_all(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out"))
    assert attempt(trainer.run, trainer.state, lambda: 3) == [3]
    monkeypatch.setattr("lcm.dry_run.step_memory.gather_object", lambda mine: [*mine, (True, None)])
    assert attempt(trainer.run, trainer.state, lambda: 3) is None


def test_on_a_gpu_its_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is played here: 100 bytes held, of which a tensor is 40."""
    state = {"now": 100, "peak": 500}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: state["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: state["peak"])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: state.update(peak=state["now"])
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    gpu = torch.device("cuda")
    with counting(gpu) as most:
        state.update(now=150, peak=400)
        assert most() == 300
        state.update(now=100)
        assert most() == 50  # what was alive when it was last asked
    assert held_on(gpu, {"weights": [torch.zeros(10)]}) == {"weights": 40, "other": 60}
    assert total_memory(gpu) == 3700


def test_only_lack_of_memory_is_taken_for_it(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        trainer = trainer_of(flags(sd_folder, images, tmp_path / "out"))
        attempt(trainer.run, trainer.state, fail)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_knobs_that_are_turned_or_bring_nothing_are_not_named(tmp_path: Path) -> None:
    config = parse_config(
        flags(
            tmp_path, tmp_path, tmp_path, train_batch_size=11, mixed_precision="bf16", lora_rank=1
        )
    )
    assert advice(config, memory_with()) == (
        "pass --train_batch_size 1 --gradient_accumulation_steps 11 (the same run, peak 170 "
        "bytes), or --gradient_checkpointing selective, or --gradient_checkpointing full"
    )
    encoding = {1: {ENCODED: 300, UPDATED: 20}, 11: {ENCODED: 900, UPDATED: 220}}
    assert advice(
        config, memory_with(steps=encoding, recomputing={"selective": 2000, "full": 960})
    ).endswith(
        "or --gradient_checkpointing full (peak about 960 bytes), or --cache_latents (peak about "
        "290 bytes)"
    )


def test_a_smaller_batch_is_no_larger_than_what_has_fitted_where_memory_ran_out(
    tmp_path: Path,
) -> None:
    config = parse_config(flags(tmp_path, tmp_path, tmp_path, train_batch_size=12))
    steps = memory_with().steps
    for ran_out, size in ((False, 6), (True, 3)):
        memory = memory_with(steps={1: steps[1], 3: steps[1]}, ran_out=ran_out)
        assert f"--train_batch_size {size} --gradient_accumulation_steps {12 // size} " in advice(
            config, memory
        )


def test_a_cache_pays_from_the_epoch_on_in_which_it_has_saved_its_making() -> None:
    gain = Gain(live=0.1, making=0.25, reading=0.0)
    assert gain.seconds(samples=30, records=10) == pytest.approx(0.5)
    assert gain.advice(0.3, samples=30, records=10) == (
        "encoding is 30 % of an update; --cache_latents would pay from epoch 3 on, and save 0.5 "
        "s of this run"
    )
    assert gain.advice(0.3, samples=15, records=10).endswith(
        "would pay from epoch 3 on, and this run has 1.5"
    )
    assert "would not pay" in Gain(live=0.1, making=0.25, reading=0.2).advice(0.3, 15, 10)


def test_sizes_and_times_are_said_as_people_do() -> None:
    assert [readable(n) for n in (0, 999, 1000, 3 * MIB, 999 * MIB, 80 * 1024 * MIB)] == [
        *("0 bytes", "999 bytes", "1.0 KiB", "3.0 MiB", "999 MiB", "80.0 GiB")
    ]
    assert [duration(s) for s in (0.26, 42, 3661, 90000)] == [
        "0.3 s",
        "42 s",
        "1:01:01",
        "1 day, 1:00:00",
    ]


def test_a_batch_far_beyond_the_memory_is_refused_without_being_tried(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a GPU nothing is raised where memory ends: the process would be killed."""
    tried: list[int] = []
    count = lcm.dry_run.step_memory.count_step

    def spy(run: Run, state: TrainState, batch_size: int) -> dict[str, int]:
        tried.append(batch_size)
        return count(run, state, batch_size)

    monkeypatch.setattr("lcm.dry_run.step_memory.count_step", spy)
    monkeypatch.setattr("lcm.dry_run.step_memory.total_memory", lambda device: 2**28)
    line = [
        *flags(sd_folder, images, tmp_path / "out", train_batch_size=100_000, **BRIEF),
        "--dry_run",
    ]
    assert "this run does NOT fit: a batch of 100000 needs about" in error_line(capsys, line)
    assert max(tried) == max(PROBES)
