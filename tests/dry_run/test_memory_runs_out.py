"""Where memory runs out: what is refused, and that the advice helps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lcm.dry_run.step_memory
import lcm.training.step
import train_lcm_lora
from lcm.config.command_line import parse_config
from lcm.dry_run.memory_fit import advice
from lcm.dry_run.step_memory import PROBES, attempt, measure_steps
from lcm.system.disk_space import readable
from lcm.system.memory import is_out_of_memory
from lcm.training.run import Run
from lcm.training.state import TrainState
from tests.support.rehearsals import BRIEF, error_line, memory_with
from tests.support.runs import flags, run, trainer_of


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


def test_what_fails_on_another_process_fails_on_all(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out"))
    assert attempt(trainer.run, trainer.state, lambda: 3) == [3]
    monkeypatch.setattr("lcm.dry_run.step_memory.gather_object", lambda mine: [*mine, (True, None)])
    assert attempt(trainer.run, trainer.state, lambda: 3) is None


def test_only_lack_of_memory_is_taken_for_it(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        trainer = trainer_of(flags(sd_folder, images, tmp_path / "out"))
        attempt(trainer.run, trainer.state, fail)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


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
