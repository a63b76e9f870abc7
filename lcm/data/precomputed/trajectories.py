"""The teacher's own trajectories, from noise to image: made once for a list of prompts, kept on
disk, read by every epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lcm.adapter.lora import base_state
from lcm.data.crops import uncropped
from lcm.data.precomputed.identity import add_component, add_tensors, as_bytes, facts_of
from lcm.data.precomputed.rows import Make, Rows
from lcm.data.precomputed.store import Row, Store
from lcm.data.randomness import sample_rng
from lcm.data.records import Record
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.solvers.base import Remembering, repeated
from lcm.diffusion.tables import SOLVERS
from lcm.models.families import Family
from lcm.models.networks import Networks, adapters_disabled, guided_teacher
from lcm.system.processes import ALONE, Team
from lcm.system.registry import lookup
from lcm.system.transfers import fetched

logger = logging.getLogger(__name__)

T = TypeVar("T")
POINTS = "trajectories"
"""The tensor of a row, [M, C, h, w] float16."""

PORTION = 64
"""Trajectories in one file: 102 MiB of Stable Diffusion at 512 pixels and 50 steps, 2 MiB of clean
latents alone.
"""


@dataclass(frozen=True)
class TrajectorySpec:
    """All that a trajectory depends on besides teacher and prompt: the points of
    SolverGrid(num_steps), the solver and its steps between two points, the range of guidance
    scales, the seed of noise and guidance, the resolution in pixels.

    Of its points are kept: "all", the two "ends", or the "clean" latents alone.
    """

    num_steps: int
    solver: str
    solver_steps: int
    guidance_range: tuple[float, float]
    seed: int
    resolution: int
    keep: str = "all"

    def kept(self, points: Sequence[T]) -> Sequence[T]:
        """The points that are kept of all N + 1, clean latents first."""
        return {"all": points, "ends": [points[0], points[-1]], "clean": points[:1]}[self.keep]


def trajectory_times(grid: SolverGrid) -> Tensor:
    """The times [N + 1] int64 of a trajectory, ascending: CLEAN, then the grid. Time t has index (t
    + 1) // stride.
    """
    return torch.cat([torch.tensor([CLEAN]), grid.timesteps])


# --- identity -------------------------------------------------------------------------------------


def trajectory_key(family: Family, records: Sequence[Record], spec: TrajectorySpec) -> str:
    """16 hexadecimal digits of a SHA-256 of all that the trajectories follow from, the teacher's
    weights included.
    """
    digest = hashlib.sha256()
    schedule = family.schedule
    facts = [asdict(spec), [[r.key, r.captions[0]] for r in records], schedule.prediction_type]
    if settings := family.text_settings:
        facts.append(settings)
    digest.update(
        json.dumps([*facts, family.name, family.pipeline_options()], sort_keys=True).encode()
    )
    digest.update(as_bytes(schedule.alphas))
    digest.update(facts_of(family.unet.config).encode())
    add_tensors(digest, base_state(family.unet).items())
    for encoder in family.text_encoders():
        add_component(digest, encoder)
    return digest.hexdigest()[:16]


# --- making ---------------------------------------------------------------------------------------


@torch.no_grad()
def follow(
    family: Family, records: Sequence[Record], spec: TrajectorySpec, device: torch.device | str
) -> Tensor:
    """The points that are kept [B, M, C, h, w] float32 of these records' trajectories, clean
    latents first and noise last.

    They start as pipelines do: unit noise stands for x_t at the last time of the grid, though alpha
    there is not quite 0.
    """
    shape, (low, high) = family.latent_shape(spec.resolution), spec.guidance_range
    guidance, noises = [], []
    for record in records:
        rng = sample_rng(spec.seed, 0, f"{record.key}/trajectory")
        guidance.append(low + (high - low) * rng.random())
        noises.append(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))
    schedule = family.schedule.to(device)
    cond = family.encode_prompts(
        [r.captions[0] for r in records], [uncropped(spec.resolution)] * len(records)
    )
    scale = (
        torch.tensor(guidance, dtype=torch.float32, device=device)
        if any(g != 1.0 for g in guidance)
        else None
    )
    teacher = Networks(family.unet, teacher_unet=family.unet).teacher
    predict = guided_teacher(teacher, schedule, cond, family.unconditional(cond), scale)
    solver = lookup(SOLVERS, spec.solver, "solver")
    if isinstance(solver, Remembering):
        solver = solver.fresh()  # one memory for the whole way down
    solver = repeated(solver, spec.solver_steps)
    times = [
        torch.full((len(records),), int(t), device=device)
        for t in trajectory_times(SolverGrid(spec.num_steps, schedule.num_train_timesteps)).flip(0)
    ]
    points = [torch.stack(noises).to(device)]
    for t, s in pairwise(times):
        points.append(solver(predict, schedule, points[-1], t, s))
    return torch.stack(list(spec.kept(points[::-1])), dim=1)


def check_finite(trajectories: Tensor, records: Sequence[Record]) -> None:
    """Raises ValueError naming the first prompt whose trajectory [B, ...] is not finite."""
    for finite, record in zip(
        trajectories.flatten(1).isfinite().all(dim=1).tolist(), records, strict=True
    ):
        if not finite:
            raise ValueError(
                f"prompts_file: the teacher's latents for {record.captions[0]!r} (sample "
                f"{record.key}) are not finite; use --mixed_precision bf16 or no, lower the "
                "guidance scale, or remove this prompt"
            )


def make_points(
    jobs: Sequence[tuple[str, Record]],
    *,
    family: Family,
    spec: TrajectorySpec,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[str, Row]]:
    """The trajectories of these records as they are stored, in float16. Raises ValueError naming a
    prompt whose latents are not finite there.
    """
    for first in range(0, len(jobs), batch_size):
        batch = jobs[first : first + batch_size]
        records = [record for _, record in batch]
        # a dry run asks once the U-Net has its adapters; it is the teacher's own that is followed
        with adapters_disabled(family.unet):
            points = fetched(follow(family, records, spec, device).half())
        check_finite(points, records)
        for (key, _), trajectory in zip(batch, points, strict=True):
            yield key, {POINTS: trajectory}


# --- on disk --------------------------------------------------------------------------------------


def trajectory_rows(
    family: Family,
    records: Sequence[Record],
    spec: TrajectorySpec,
    *,
    batch_size: int,
    device: torch.device | str,
) -> Rows:
    """The trajectories of a run. Keys are the places of the records."""
    make: Make[Record] = partial(
        make_points, family=family, spec=spec, batch_size=batch_size, device=device
    )
    return Rows(
        kind="trajectories",
        what="trajectories",
        flag="trajectory_dir",
        name=trajectory_key(family, records, spec),
        facts={"family": family.name, **asdict(spec)},
        requested={str(place): record for place, record in enumerate(records)},
        make=make,
        portion=PORTION,
        probes=batch_size,
    )


@dataclass(frozen=True)
class Trajectories:
    """The stored trajectories by index, each [M, C, h, w] float32: clean latents first."""

    store: Store
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """Raises IndexError beyond the last one."""
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} trajectories; got index {index}")
        return self.store[str(index)][POINTS].float()


@dataclass(frozen=True)
class NoPictures:
    """In the place of trajectories where nothing is learnt from pictures: zeros [1, C, h, w]
    float32 for every prompt, which cost nothing.
    """

    count: int
    latent_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(1, *self.latent_shape)


def make_trajectories(
    family: Family,
    records: Sequence[Record],
    spec: TrajectorySpec,
    *,
    directory: Path,
    team: Team = ALONE,
    batch_size: int = 16,
    device: torch.device | str,
    owner: str | None = None,
) -> Trajectories:
    """The teacher's trajectories of all records, made where `directory` lacks them.

    An interrupted run goes on where it stopped, up to 64 trajectories back. Raises ValueError when
    the folder cannot be written, or naming a prompt whose latents are not finite.
    """
    rows = trajectory_rows(family, records, spec, batch_size=batch_size, device=device)
    filled = rows.fill(directory, team, owner)
    logger.info("%s", filled.summary(rows.what))
    return Trajectories(filled.store, len(records))
