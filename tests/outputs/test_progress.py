"""What a run shows while it trains: means by quarter of the time, the way from the teacher, the
time that is left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lcm.adapter.lora import lora_modules
from lcm.methods import METHODS
from lcm.outputs.progress import Progress, Window
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.outputs import lines_of_updates
from tests.support.runs import flags, run, trainer_of
from tests.support.schedules import make_schedule
from tests.support.worlds import randomize_lora

CPU = torch.device("cpu")


# --- losses by time -------------------------------------------------------------------------------


def test_losses_are_averaged_by_the_quarter_of_their_times() -> None:
    window, accelerator = Window(1000, CPU), Accelerator(cpu=True)
    window.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 249, 250]))
    window.add(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([499, 999, 249]))
    means = window.means(accelerator)
    assert list(means) == [
        "loss",
        "loss_t_000_249",
        "loss_t_250_499",
        "loss_t_500_749",
        "loss_t_750_999",
    ]
    assert list(means.values()) == pytest.approx([4.0, 10 / 3, 4.0, None, 6.0])
    window.add(torch.tensor([8.0]), torch.tensor([500]))
    # it was emptied
    assert list(window.means(accelerator).values()) == [
        8.0,
        None,
        None,
        8.0,
        None,
    ]


def test_the_names_say_which_times_fall_where_they_cannot_be_quartered() -> None:
    window = Window(10, CPU)
    window.add(torch.arange(10.0), torch.arange(10))
    means = window.means(Accelerator(cpu=True))
    del means["loss"]
    for name, mean in means.items():
        low, high = map(int, name.removeprefix("loss_t_").split("_"))
        assert mean == (low + high) / 2  # of the times themselves
    assert [int(name[-3:]) - int(name[-7:-4]) + 1 for name in means] == [3, 2, 3, 2]


@pytest.mark.parametrize("name", METHODS)
def test_every_objective_tells_the_times_that_the_student_was_asked_at(name: str) -> None:
    schedule, asked = make_schedule(), []

    class Nets(GaussianRoles):
        def student(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
            asked.append(t)
            return super().student(x_t, t, conditioning)

    objective, nets, batch = make_objective(name, schedule), Nets(schedule), make_batch(6)
    if name == "scm":  # its target network is asked at t and below it, as another object
        nets.target = GaussianRoles(schedule).student
    times = objective(nets, batch, 0.5).times
    # a play, from its first time on; and a step from noise beside it, that comes after it
    place = {"rollout": 0, "hyper": -2}.get(name, -1)
    first = asked[place]
    assert torch.equal(first[:6], times.t)
    assert ((times.t >= 0) & (times.t < 1000)).all()


# --- the lines ------------------------------------------------------------------------------------


def test_a_line_is_the_mean_of_the_lines_of_its_updates(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """The mean counts samples: an update has four, in two batches."""
    brief = {
        "validation_prompts": ["a"],
        "validation_num_steps": [1],
        "checkpointing_steps": 9,
        "validation_steps": 9,
    }
    options = {**brief, "gradient_accumulation_steps": 2, "max_train_steps": 3}
    assert run(sd_folder, images, tmp_path / "each", **options) == 0
    assert run(sd_folder, images, tmp_path / "all", **options, logging_steps=9) == 0
    each, (line,) = lines_of_updates(tmp_path / "each"), lines_of_updates(tmp_path / "all")
    assert line["loss"] == pytest.approx(sum(row["loss"] for row in each) / 3, rel=1e-5)
    last = {name: each[-1][name] for name in ("step", "epoch", "grad_norm", "delta_norm", "lr")}
    assert last.items() <= line.items()
    assert line["peak_memory_gib"] > 0.05
    quarters = [name for name in line if name.startswith("loss_t_")]
    assert len(quarters) == 4
    for name in quarters:
        seen = [row[name] for row in each if row[name] is not None]
        assert (line[name] is None) == (not seen)
        assert not seen or min(seen) * 0.999 <= line[name] <= max(seen) * 1.001


# --- the way from the teacher ---------------------------------------------------------------------


def test_the_norm_of_an_adapter_is_that_of_what_peft_would_merge(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """Linear layers and convolutions alike, at a strength of alpha / rank = 3 / 2."""
    trainer = trainer_of(flags(sd_folder, images, tmp_path, lora_alpha=3))
    assert trainer.state.student.delta_norm() == 0
    randomize_lora(trainer.state.student.unet)
    layers = lora_modules(trainer.state.student.unet).values()
    merged = [layer.get_delta_weight("default") for layer in layers]
    assert {delta.dim() for delta in merged} == {2, 4}
    expected = sum(float(delta.detach().double().square().sum()) for delta in merged) ** 0.5
    assert float(trainer.state.student.delta_norm()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("w_embedding", [False, True])
def test_the_norm_of_a_whole_unet_is_its_distance_from_the_teacher(
    sd_folder: Path, images: Path, tmp_path: Path, w_embedding: bool
) -> None:
    changes = {"full_finetune": True, "w_embedding": w_embedding, "lora_rank": None}
    student = trainer_of(flags(sd_folder, images, tmp_path, **changes)).state.student
    assert student.delta_norm() == 0
    with torch.no_grad():
        for parameter in student.parameters:
            parameter.add_(0.5)
    assert float(student.delta_norm()) == pytest.approx(
        0.5 * sum(p.numel() for p in student.parameters) ** 0.5, rel=1e-4
    )


# --- the bar --------------------------------------------------------------------------------------


def test_pauses_and_the_steps_before_a_resume_do_not_count_for_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty steps were made before, ten now of two seconds each; after the fifth, a grid takes an
    hour. Fifty are left.
    """
    for name in ("COLUMNS", "LINES"):  # what a line that is cut has room for, without a terminal
        monkeypatch.setenv(name, "200")
    clock = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr("lcm.outputs.progress.time.perf_counter", lambda: clock[0])
    lines: list[dict[str, Any]] = []

    class Log:
        def append(self, metrics: dict[str, Any]) -> None:
            lines.append(metrics)

    window = Window(1000, CPU)
    counts = {"step": 40, "total": 100, "samples_per_step": 8}
    progress = Progress(Accelerator(cpu=True), window, Log(), **counts)  # type: ignore[arg-type]
    for step in range(41, 51):
        clock[0] += 2.0
        window.add(torch.ones(8), torch.arange(8))
        progress.advance()
        if step == 45:
            with progress.paused():
                clock[0] += 3600.0
    progress.write_line(50, {"lr": 1e-4})
    shown = str(progress.bar)
    assert "50/100 [00:20<01:40,  2.00s/step" in shown
    assert re.search(r"loss=1\.0000, lr=1\.0e-04, images/s=4\]", shown)
    assert (lines[0]["seconds_per_step"], lines[0]["samples_per_second"]) == (2.0, 4.0)
    progress.write_line(50, {"lr": 1e-4})
    assert len(lines) == 1  # there was no update since
    progress.close()
