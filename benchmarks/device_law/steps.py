"""Training steps of every method and option, under the law."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.device_law.law import DeviceLaw
from benchmarks.device_law.runs import ENVIRONMENT
from lcm.data.batch import Content, Moments, SampleBatch, Trajectory, collate
from lcm.methods import METHODS
from lcm.methods.config import MethodConfig, flags_of, resolved, settings_of
from lcm.methods.objective import Objective
from lcm.methods.terms.build import check_terms
from lcm.training.critics import make_critics, make_second
from lcm.training.loop import Trainer
from lcm.training.setup import make_objective
from lcm.training.state import TrainState
from lcm.training.step import StepOutput, train_step

RUNS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "averages": {"target": "ema", "export_ema_decay": 0.9},
    "selective": {"gradient_checkpointing": "selective"},
    "full checkpointing": {"gradient_checkpointing": "full"},
    "dropout": {"lora_dropout": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2},
    "full U-Net": {"full_finetune": True, "lora_rank": None, "mixed_precision": "bf16"},
    "guidance embedding": {
        "full_finetune": True,
        "lora_rank": None,
        "w_embedding": True,
        "guidance_scale_min": 2.0,
        "guidance_scale_max": 10.0,
    },
}
"""What a run is set up with."""
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "preserve_cfg": {"preserve_cfg": True},
    "range": {"guidance_scale_min": 2.0, "guidance_scale_max": 10.0},
    "phases": {"guidance_per_phase": [5.0, 4.0, 3.0, 2.0]},
    "heun": {"solver": "heun"},
    "dpm": {"solver": "dpm_solver_pp_2m", "solver_steps": 2},
    "uniform landing": {"landing_steps": []},
    "ect": {"discretization": "ect"},
    "fd": {"tangent_mode": "fd"},
    "central": {"tangent_mode": "central"},
    "jvp": {"tangent_mode": "jvp"},
    "plays": {"rollout_steps": [1, 2, 4]},
    "lognormal": {"time_distribution": "lognormal"},
    "solver": {"coupling": "solver"},
    "perceptual": {"terms": ["latent_perceptual"]},
    "rewarded": {"terms": ["reward"], "reward": f"{__name__}:brightness"},
    "heads": {"terms": ["adversarial"], "adversarial_real": "images"},
    "two scores": {"terms": ["adversarial", "dmd"], "dmd_start": 0.0},
}
"""What a method is asked with besides, where it reads these flags."""
CONTENTS = ("pixels", "moments", "trajectory")
"""What latents are made of."""


def objectives() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every method with every option that it reads."""
    for name, method in METHODS.items():
        own = flags_of(method.settings)
        for options in METHOD_OPTIONS.values():
            if options.keys() <= own.keys():
                asking = {"coupling": "solver", "tangent_mode": "fd"} if "solver" in options else {}
                needed = {flag: value for flag, value in asking.items() if flag in own}
                if allows(name, options):
                    yield name, {**options, **needed}


def brightness(pictures: Tensor, prompts: object) -> Tensor:
    """A reward."""
    return pictures.mean((1, 2, 3))


def allows(name: str, options: dict[str, Any]) -> bool:
    """Whether the method has what the terms among the options need."""
    if "terms" not in options:
        return True
    settings = settings_of(MethodConfig(objective=name, **options))
    try:
        check_terms(settings.terms, name, METHODS[name], settings)
    except ValueError:
        return False
    return True


def objective_of(trainer: Trainer, name: str, **options: Any) -> Objective:
    """The loss of a method on the trainer's teacher and device."""
    config = resolved(MethodConfig(objective=name, **options))
    return make_objective(config, trainer.run.family, trainer.run.machine)


def contents_of(name: str) -> tuple[str, ...]:
    """What a method learns from."""
    return ("trajectory",) if METHODS[name].from_trajectories else CONTENTS


def batch_of(trainer: Trainer, objective: Objective, content: str, teacher: int = 0) -> SampleBatch:
    """A batch of the trainer's data as its loader gives it, on the CPU; or the same with latents or
    trajectories in the place of pixels, and prompts encoded beforehand.
    """
    run = trainer.run
    inputs = dataclasses.replace(run.inputs, extra_numbers=objective.extra_numbers)
    dataset, size = inputs.dataset(), run.config.loop.train_batch_size
    batch = dataclasses.replace(collate([dataset[0, i] for i in range(size)]), teacher=teacher)
    if content == "pixels":
        return batch
    channels, *sides = run.inputs.latent_shape
    latents: dict[str, Content] = {
        "moments": Moments(torch.zeros(size, 2 * channels, *sides)),
        # all points of the longest grid, of which some methods read the ends
        "trajectory": Trajectory(torch.zeros(size, 51, channels, *sides)),
    }
    rows = zip(
        ("prompt_embeds", "pooled_prompt_embeds"), run.family.unconditional_row, strict=False
    )
    return dataclasses.replace(
        batch,
        content=latents[content],
        embeds={name: torch.zeros(size, *row.shape[1:], dtype=row.dtype) for name, row in rows},
    )


def step_under_law(
    trainer: Trainer, objective: Objective, content: str, teacher: int = 0
) -> tuple[DeviceLaw, StepOutput]:
    """One step of the trainer's run with this loss, and what it asked of the host."""
    run = dataclasses.replace(trainer.run, objective=objective)
    batch = batch_of(trainer, objective, content, teacher)
    state = with_critics(trainer, objective)
    with DeviceLaw() as law:
        output = train_step(run, state, itertools.repeat(batch))
    return law, output


def with_critics(trainer: Trainer, objective: Objective) -> TrainState:
    """The state of the trainer's run, with what learns against the student by this loss."""
    state = trainer.state
    if not objective.critics:
        return state
    student, accelerator = state.student, trainer.run.machine.accelerator
    live, nets = student.parameters, copy.copy(student.nets)
    nets.second_network = make_second(objective, student.unet, live, student.result.teacher_values)
    config, last = trainer.run.config.optimizer, trainer.run.facts.num_updates
    with patch.dict(os.environ, ENVIRONMENT):  # accelerate looks again where it is
        critics = make_critics(config, objective, nets.second_network, accelerator, last)
    return dataclasses.replace(
        state, student=dataclasses.replace(student, nets=nets), critics=critics
    )


def unexpected(law: DeviceLaw, trainer: Trainer, content: str) -> list[str]:
    """What a step may not ask of the host. It may read twice, at one place in time: whether all is
    finite and somebody asked it to stop; with a loss scaler, whether gradients overflowed. Of what
    it sends, the tokens alone may be waited for, which stock pipelines send.
    """
    reads = 2 if trainer.run.machine.accelerator.scaler else 1
    found = [] if law.reads.total() == reads else [f"{place} reads" for place in law.reads]
    encoders = len(trainer.run.family.text_encoders()) if content == "pixels" else 0
    allowed = encoders * trainer.run.accumulation
    waits = {place: n for place, n in law.waits.items() if "encode_prompt" not in place}
    if law.waits.total() - sum(waits.values()) > allowed:
        waits["encode_prompt"] = law.waits.total()
    return [*found, *(f"{place} waits" for place in waits), *law.scalars]
