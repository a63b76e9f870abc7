"""How every method is played: settings of training, and the scheduler that their recipe makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.diffusion.times import Times
from lcm.inference import make_scheduler
from lcm.methods import METHODS
from lcm.methods.build import build_objective, make_recipe
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.objective import Objective
from tests.support.methods import FROM_TRAJECTORIES
from tests.support.schedules import SD_BETAS, make_schedule

SEGMENTS = {
    (8, 4, 2, 1): [1, 2, 4, 8],
    (4, 2): [2, 4, 8],
    (8, 4): [4, 8],
    (8,): [8],
    (1, 5): [5],
    (20, 10): [10],
}
"""Merged in turn -> numbers of steps whose times are edges of the last ones too."""


PLAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    *(("lcm", {"num_ddim_timesteps": n}) for n in (4, 20, 30, 40, 100)),
    ("lcm", {"timestep_scaling_factor": 0.05}),
    ("ct", {"discretization": "ect"}),
    ("ct", {"discretization": "fixed"}),
    ("ct", {"discretization": "fixed", "num_ddim_timesteps": 20}),
    ("ct", {"discretization": "fixed", "num_ddim_timesteps": 100}),
    ("ct", {"first_ddim_timesteps": 5, "num_ddim_timesteps": 40}),
    *(("pcm", {"phases": m}) for m in (1, 2, 5, 8)),
    *(("flow_map", {"phases": m}) for m in (1, 2, 8)),
    *((name, {"num_ddim_timesteps": n}) for name in FROM_TRAJECTORIES for n in (2, 4, 8, 50)),
    ("tcd", {"landing_steps": []}),
    *(("tcd", {"landing_steps": [], "num_ddim_timesteps": n}) for n in (1, 4)),
    ("tcd", {"eta": 0.0, "landing_jitter": 0.0}),
    ("tcd", {"eta": 0.0, "landing_jitter": 0.0, "landing_steps": [1, 2, 3]}),
    ("tcd", {"num_ddim_timesteps": 40, "eta": 1.0}),
    *(
        (
            "tcd",
            {"eta": 0.0, "landing_jitter": 0.0, "num_ddim_timesteps": n, "landing_steps": steps},
        )
        for n, steps in ((40, [4, 5, 8]), (50, [1, 2, 5]), (30, [1, 2]))
    ),
    ("tscd", {"eta": 0.5}),
    ("tscd", {"num_ddim_timesteps": 4, "segments": [2, 1]}),
    *(("tscd", {"segments": list(segments)}) for segments in SEGMENTS),
    ("rollout", {"rollout_steps": [1, 2, 4, 8]}),
    *(("phased_scm", {"phases": m}) for m in (1, 2, 8)),
]


every_play = pytest.mark.parametrize(("name", "flags"), PLAYS, ids=str)


ANYWHERE = ("tcd", "tscd", "hyper")
"""Methods that land at many times below."""


BASES: dict[str, Callable[[str], Any]] = {
    "epsilon": lambda kind: (
        PNDMScheduler(
            **SD_BETAS,
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=kind,
        ).config
    ),
    "v_prediction": lambda kind: (
        DDIMScheduler(
            **SD_BETAS,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=kind,
        ).config
    ),
    "sample": lambda kind: (
        EulerDiscreteScheduler(
            **SD_BETAS, timestep_spacing="leading", steps_offset=1, prediction_type=kind
        ).config
    ),
}
"""Scheduler configurations that published models come with."""


def played(name: str, flags: dict[str, Any], prediction_type: str) -> tuple[Objective, Recipe, Any]:
    """What is trained, its recipe, and the stock scheduler that the recipe makes."""
    config = resolved(MethodConfig(objective=name, **flags))
    facts = TeacherFacts("sd", 16, prediction_type, False, "a teacher", 16)
    recipe = make_recipe(config, facts)
    scheduler = make_scheduler(BASES[prediction_type](prediction_type), recipe)
    return build_objective(config, make_schedule(prediction_type)), recipe, scheduler


def times_of(objective: Objective, landing: float = 0.5) -> Times:
    """Many times of the whole run."""
    uniform = (torch.arange(4000) + 0.5) / 4000
    parts = [
        objective.times(uniform, torch.full_like(uniform, landing), progress)
        for progress in (0.0, 0.3, 0.6, 0.9, 0.999)
    ]
    return Times(*map(torch.cat, zip(*parts, strict=True)))
