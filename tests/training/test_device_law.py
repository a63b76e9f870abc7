"""No step of a run reads the device more often than once, or leaves a part on the CPU: shown on the
meta device (`benchmarks/device_law/`), where anything else raises, also at true size.

`python -m benchmarks.device_law.run` makes the steps of all methods, options and models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.device_law.law import DeviceLaw
from benchmarks.device_law.runs import TEACHERS, build_pipe, trainer_on
from benchmarks.device_law.steps import (
    CONTENTS,
    METHOD_OPTIONS,
    RUNS,
    batch_of,
    contents_of,
    objective_of,
    objectives,
    step_under_law,
    unexpected,
)
from lcm.adapter.export import export_lora
from lcm.adapter.kohya import stem
from lcm.adapter.lora import lora_modules
from lcm.diffusion.losses import energy
from lcm.diffusion.solvers.base import repeated
from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.diffusion.times import Times
from lcm.methods import METHODS
from lcm.training.loop import Trainer
from lcm.training.metrics import METRICS, measure
from lcm.training.setup import make_state
from tests.support.runs import flags
from tests.support.schedules import stable_diffusion_schedule
from tests.support.worlds import build_sd, build_sdxl

TINY = {"resolution": 16}
Make = Callable[..., Trainer]


@pytest.fixture
def make(images: Path, tmp_path: Path) -> Make:
    """Runs of these flags on pipelines that are on meta."""

    def made(pipes: list[Any], **changes: Any) -> Trainer:
        values = {"resolution": None, "train_batch_size": 1, "max_train_steps": 9, **changes}
        return trainer_on(pipes, flags(Path("teacher"), images, tmp_path / "out", **values))

    return made


def tiny(family: str = "sd") -> Any:
    return (build_sdxl() if family == "sdxl" else build_sd()).to("meta")


def assert_lawful(trainer: Trainer, name: str, content: str, **options: Any) -> None:
    """The step keeps the law, and nothing that it leaves behind is on the CPU."""
    objective = objective_of(trainer, name, **options)
    law, output = step_under_law(trainer, objective, content)
    assert unexpected(law, trainer, content) == []
    student = trainer.state.student
    moments = [
        value
        for values in student.optimizer.state.values()
        for key, value in values.items()
        # torch counts the updates of the optimizer that is not fused on the CPU, and needs no read
        if key != "step" or trainer.run.machine.accelerator.scaler is None
    ]
    assert len(moments) >= 2 * len(student.parameters)
    assert all(tensor.is_meta for tensor in [*moments, *student.tensors().values(), *output[:3]])


# --- at true size ---------------------------------------------------------------------------------

COUNTS = {"sd21": 278, "sdxl": 788, "ssd1b": 423}
"""Adapted layers, as the official LCM-LoRAs have them."""


@pytest.mark.parametrize("name", COUNTS)
def test_a_step_of_every_other_model_keeps_the_law(name: str, make: Make) -> None:
    """And the adapter has the layers that it should, all by names of their own."""
    assert TEACHERS.keys() == {"sd15", *COUNTS}
    trainer = make([build_pipe(name)], mixed_precision="bf16")
    assert trainer.run.family.schedule.prediction_type == (
        "v_prediction" if name == "sd21" else "epsilon"
    )
    assert_lawful(trainer, "lcm", "pixels")
    layers = lora_modules(trainer.state.student.unet)
    assert len({stem("unet", layer) for layer in layers}) == len(layers) == COUNTS[name]
    blocks = {layer.partition(".")[0] for layer in layers if "attentions" in layer}
    assert blocks == {"down_blocks", "up_blocks", *(() if name == "ssd1b" else ("mid_block",))}


def test_steps_at_true_size_keep_the_law(make: Make) -> None:
    """Of Stable Diffusion 1.5, with averages as the target and for export."""
    trainer = make([build_pipe("sd15")], **RUNS["averages"])
    for name in ("lcm", "scm", "stochastic_flow"):
        assert_lawful(trainer, name, "pixels")


# --- every option, on tiny networks ---------------------------------------------------------------


@pytest.mark.parametrize("name", [*RUNS][2:])  # the others are above
def test_a_step_of_every_kind_of_run_keeps_the_law(name: str, make: Make) -> None:
    trainer = make([tiny()], **TINY, **RUNS[name])
    options = {"guidance_scale_min": 2.0, "guidance_scale_max": 10.0} if "embedd" in name else {}
    assert_lawful(trainer, "lcm", "pixels", **options)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_step_on_every_kind_of_data_keeps_the_law(content: str, make: Make) -> None:
    assert_lawful(make([tiny("sdxl")], **TINY), "lcm", content)


def test_every_method_and_option_keeps_the_law(make: Make) -> None:
    """An option on the first method that reads it; the command tries all."""
    trainer = make([tiny()], **TINY, target="online")  # averages are another kind of run, above
    methods, tried = set(), []
    for name, options in objectives():
        if not options or options not in tried:
            assert_lawful(trainer, name, contents_of(name)[-1], **options)
            methods.add(name)
            tried.append(options)
    assert methods == {*METHODS}
    assert len([options for options in tried if options]) >= len(METHOD_OPTIONS) - 1


def test_every_loss_weight_and_solver_keeps_the_law() -> None:
    schedule, x = stable_diffusion_schedule().to("meta"), torch.empty(2, 4, 8, 8, device="meta")
    t = torch.empty(2, dtype=torch.int64, device="meta")
    with DeviceLaw() as law:
        for loss in LOSSES.values():
            assert loss(torch.cat([x, x]) if loss is energy else x, x, None).is_meta
        for weight in WEIGHTS.values():
            assert weight(schedule, Times(t, t, t), 5.0).is_meta
        for solver in SOLVERS.values():
            moved = repeated(solver, 2)(lambda x, t: schedule.predict(x, x, t), schedule, x, t, t)
            assert moved.is_meta
    assert law.sent + law.waits + law.scalars + law.reads == {}


def test_steps_on_other_teachers_keep_the_law(make: Make) -> None:
    """Their weights stand in the network by pointer, and come from the device."""
    trainer = make([tiny(), tiny()], **TINY)
    law, _ = step_under_law(trainer, objective_of(trainer, "lcm"), "pixels", teacher=1)
    assert unexpected(law, trainer, "pixels") == []


# --- between steps --------------------------------------------------------------------------------


def test_a_line_of_numbers_is_read_on_purpose(make: Make) -> None:
    """Once for each number that is on the device, and once for the means."""
    trainer = make([tiny()], **TINY)
    _, output = step_under_law(trainer, objective_of(trainer, "lcm"), "pixels")
    with DeviceLaw(1.0) as law:
        trainer.window.add(output.loss, output.times)
        assert not law.reads  # a step that writes no line
        numbers = measure(trainer.run, trainer.state, output)
        trainer.window.means(trainer.run.machine.accelerator)
    assert numbers.keys() == METRICS.keys() and numbers["grad_norm"] == 1.0
    assert law.reads.total() == 3 and not law.waits


def on_the_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors like those of a checkpoint's file."""
    return {name: torch.ones(t.shape, dtype=t.dtype) for name, t in tensors.items()}


@pytest.mark.parametrize("name", ["averages", "fp16"])
def test_a_resumed_run_has_all_on_the_device(name: str, make: Make) -> None:
    before = make([tiny()], **TINY, **RUNS[name])
    assert_lawful(before, "lcm", "pixels")
    with DeviceLaw(1.0):
        saved = before.record()
    saved.facts["step"], saved.tensors = 1, on_the_cpu(saved.tensors)
    again = make([tiny()], **TINY, **RUNS[name])
    again.state = make_state(again.run, again.state.student, saved)
    assert again.state.step == 1
    assert_lawful(again, "lcm", "pixels")


def test_averages_are_swapped_in_on_the_device(make: Make, tmp_path: Path) -> None:
    """To draw and to export; the exported file alone is read, matrix by matrix."""
    trainer = make([tiny()], **TINY, **RUNS["averages"])
    student = trainer.state.student
    with DeviceLaw(1.0) as law, student.drawing() as unet:
        assert all(p.is_meta for p in student.parameters)
        export_lora(unet, tmp_path / "adapter.safetensors", trainer.run.publisher.recipe)
    assert law.reads.total() == len(student.parameters) and not law.waits


def test_a_batch_is_sent_whole_before_any_work_is_asked_for(make: Make) -> None:
    trainer = make([tiny("sdxl")], **TINY)
    objective = objective_of(trainer, "stochastic_flow")
    for content in CONTENTS:
        batch = batch_of(trainer, objective, content)
        with DeviceLaw() as law:
            moved = batch.to(trainer.run.machine.device)
        tensors = [value for value in vars(moved).values() if isinstance(value, Tensor)]
        embeds = moved.embeds or {}
        assert len(tensors) == 6
        assert all(t.is_meta for t in [*tensors, moved.content.tensor, *embeds.values()])
        assert law.sent.total() == 7 + len(embeds) and not law.waits
        assert (moved.keys, moved.sizes, moved.teacher) == (batch.keys, batch.sizes, batch.teacher)
