"""The teacher's own trajectories, from noise to image: made once for a list of prompts, kept on
disk, read by every epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lcm.adapter.lora import base_state
from lcm.data.dataset import whole
from lcm.data.precomputed.identity import add_component, add_tensors, as_bytes, facts_of
from lcm.data.precomputed.shards import (
    Trajectories,
    clear_shards,
    is_sound,
    num_shards,
    shard_path,
    shard_rows,
    shard_shape,
    write_shard,
)
from lcm.data.randomness import sample_rng
from lcm.data.records import Record
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.solvers.base import Remembering, repeated
from lcm.diffusion.tables import SOLVERS
from lcm.models.families import Family
from lcm.models.networks import Networks, guided_teacher
from lcm.system.disk_space import Need, warn_if_short
from lcm.system.processes import ALONE, Team
from lcm.system.registry import lookup

logger = logging.getLogger(__name__)

T = TypeVar("T")
CHOOSE_TRAJECTORY_DIR = "choose another --trajectory_dir"


@dataclass(frozen=True)
class TrajectorySpec:
    """What a trajectory depends on besides teacher and prompt: the points of SolverGrid(num_steps),
    the solver and its steps between two points, the range of guidance scales, the seed of noise and
    guidance, the resolution in pixels.

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
        """Of all N + 1 points, clean latents first."""
        return {"all": points, "ends": [points[0], points[-1]], "clean": points[:1]}[self.keep]

    @property
    def num_points(self) -> int:
        """Points that are kept of every trajectory."""
        return len(self.kept(range(self.num_steps + 1)))


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
        [r.captions[0] for r in records], [whole(spec.resolution)] * len(records)
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


def missing_shards(folder: Path, count: int, shape: tuple[int, ...], team: Team) -> list[int]:
    """Which shards of `count` trajectories are missing or damaged, of the share that this process
    checks.

    Every byte is checked here, once, so that readers need not: they jump between shards.
    """
    share = team.share(range(num_shards(count)))
    checks = tqdm(
        share, desc="checking trajectories", leave=False, disable=None if team.rank == 0 else True
    )
    return [
        number
        for number in checks
        if not is_sound(shard_path(folder, number), (len(shard_rows(count, number)), *shape))
    ]


def absent_trajectories(folder: Path, count: int, shape: tuple[int, ...]) -> int:
    """How many of `count` trajectories lie in shards that are not there, by their headers: damage
    is found when they are made.
    """
    rows = [shard_rows(count, number) for number in range(num_shards(count))]
    return sum(
        len(r)
        for number, r in enumerate(rows)
        if shard_shape(shard_path(folder, number)) != (len(r), *shape)
    )


def bytes_of_trajectories(count: int, shape: tuple[int, ...]) -> int:
    """Of the stored tensors."""
    return count * math.prod(shape) * 2


def make_missing_shards(
    family: Family,
    records: Sequence[Record],
    spec: TrajectorySpec,
    directory: Path | str,
    *,
    team: Team = ALONE,
    batch_size: int = 16,
    device: torch.device | str,
    owner: str | None = None,
) -> Path:
    """Makes this process's share of the trajectories that are missing or damaged; returns their
    folder in `directory`.

    `family.unet` must not have adapters yet. An interrupted run goes on where it stopped, up to 64
    trajectories back. `owner` names the run, the same in all its processes and after a restart, so
    that it can clear up what it left when it was killed, and nothing of other runs. Raises
    ValueError when the folder cannot be written, or naming a prompt whose latents are not finite.
    """
    count = len(records)
    folder = Path(directory) / trajectory_key(family, records, spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"trajectory_dir: {directory} cannot be written ({error}); choose another folder"
        ) from error
    if team.rank == 0 and owner is not None:
        clear_shards(folder, owner)  # before the processes meet below, and begin to write
    shape = (spec.num_points, *family.latent_shape(spec.resolution))
    # each shard was looked at by one process: all deal out the same list, and what is missing is
    # shared evenly
    missing = sorted(team.gather(missing_shards(folder, count, shape, team)))
    rows, share = {number: shard_rows(count, number) for number in missing}, team.share(missing)
    to_make = sum(map(len, rows.values()))
    logger.info(
        "trajectories in %s: %d found, %d to make%s; %.1f MiB on disk in all",
        folder,
        count - to_make,
        to_make,
        f" by {team.size} processes" if team.size > 1 else "",
        bytes_of_trajectories(count, shape) / 2**20,
    )
    if team.rank == 0:
        warn_if_short(
            [
                Need(
                    folder,
                    bytes_of_trajectories(to_make, shape),
                    "trajectories",
                    CHOOSE_TRAJECTORY_DIR,
                )
            ]
        )
    total = sum(len(rows[number]) for number in share)
    with tqdm(
        total=total, desc="making trajectories", unit="image", disable=team.rank != 0 or not share
    ) as bar:
        for number in share:
            made = []
            for first in range(rows[number].start, rows[number].stop, batch_size):
                batch = records[first : min(first + batch_size, rows[number].stop)]
                made.append(
                    follow(family, batch, spec, device).half().cpu()
                )  # as stored: what float16 cannot hold is found
                check_finite(made[-1], batch)
                bar.update(len(batch))
            write_shard(shard_path(folder, number), torch.cat(made), owner or uuid.uuid4().hex)
    return folder


def open_trajectories(folder: Path, count: int) -> Trajectories:
    """The `count` trajectories in a folder of `make_missing_shards`, once every process has made
    its share.

    Raises ValueError naming a shard that is missing or short.
    """
    for number in range(num_shards(count)):
        shape = shard_shape(shard_path(folder, number))
        if shape is None or shape[0] != len(shard_rows(count, number)):
            raise ValueError(
                f"trajectory_dir: {shard_path(folder, number)} is missing or damaged; give all "
                "machines the same --trajectory_dir and start again: what is missing is made"
            )
    return Trajectories(folder, count)
