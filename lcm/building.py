"""What a run is made of, from its configuration and its teacher: the recipe, the trajectories, the latents of a batch."""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from lcm.config import TrainConfig
from lcm.data import Record, SampleBatch, Trajectories, TrajectorySpec, make_missing_shards, open_trajectories
from lcm.families import Family
from lcm.objectives import OBJECTIVES, LatentBatch, make_recipe
from lcm.recipe import Recipe


def build_recipe(config: TrainConfig, family: Family, first: Recipe | None) -> Recipe:
    """How the trained file must be played. `first` is the recipe of the adapter that the run starts from."""
    recipe = make_recipe(
        OBJECTIVES[config.objective],
        config,
        family=family.name,
        cross_attention_dim=family.unet.config.cross_attention_dim,
        prediction_type=family.schedule.prediction_type,
        zero_terminal_snr=family.zero_terminal_snr,
        teacher=str(config.pretrained_teacher_model),
        resolution=config.resolution,
    )
    if config.w_embedding:  # the value that the pipeline embeds; it guides nothing by itself
        recipe = dataclasses.replace(recipe, guidance_scale=sum(config.guidance_range) / 2)
    # without a teacher, the adapter keeps the guidance it has
    if first is not None and not OBJECTIVES[config.objective].has_teacher:
        recipe = dataclasses.replace(
            recipe, trained_guidance_scale=first.trained_guidance_scale, guidance_scale=first.guidance_scale
        )
    return recipe


def build_trajectories(config: TrainConfig, family: Family, records: list[Record], accelerator: Accelerator) -> Trajectories:
    """The teacher's trajectories for the prompts, made now where they are not on disk. The U-Net has no adapters yet."""
    method = OBJECTIVES[config.objective]
    spec = TrajectorySpec(
        num_steps=config.num_ddim_timesteps or 50,
        solver=config.solver or "ddim",
        solver_steps=int(config.solver_steps or 1) if method.from_trajectories else 1,  # else it is of the pairs of training
        guidance_range=config.guidance_range,
        seed=config.seed,
        resolution=int(config.resolution or 0),
        keep=method.keeps,
    )
    directory = Path(config.trajectory_dir or Path(config.output_dir) / "trajectories")
    process, gather, owner = (accelerator.process_index, accelerator.num_processes), gather_object, None
    if config.dry_run:  # every process for itself
        directory, process, gather = Path(tempfile.mkdtemp()), (0, 1), list
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    else:
        owner = name_of(Path(config.output_dir))
    folder = make_missing_shards(
        family,
        records,
        spec,
        directory,
        process=process,
        batch_size=config.train_batch_size,
        device=accelerator.device,
        gather=gather,
        owner=owner,
    )
    accelerator.wait_for_everyone()
    return open_trajectories(folder, len(records))


def name_of(output_dir: Path) -> str:
    """Of a run among those that share a folder of trajectories, made with its output folder. The path alone would not do: on two
    machines it can be two folders."""
    output_dir.mkdir(parents=True, exist_ok=True)
    return hashlib.sha256(f"{output_dir.resolve()} {output_dir.stat().st_ino}".encode()).hexdigest()[:16]


def encode(family: Family, batch: SampleBatch, device: torch.device) -> LatentBatch:
    """Pixels, or the ends of trajectories, and captions to latents and conditioning, on `device`."""
    cond = family.encode_prompts(batch.prompts, batch.sizes)
    uncond = family.unconditional(cond)
    trajectory = None if batch.trajectory is None else batch.trajectory.to(device)
    if trajectory is not None:
        x0 = trajectory[:, 0]
    else:
        assert batch.pixels is not None
        x0 = family.encode_images(batch.pixels.to(device), batch.posterior_noise.to(device))
    empty = torch.tensor([prompt == "" for prompt in batch.prompts], device=device)
    return LatentBatch(
        x0=x0,
        noise=batch.noise.to(device),
        uniform_time=batch.uniform_time.to(device),
        uniform_guidance=batch.uniform_guidance.to(device),
        uniform_landing=batch.uniform_landing.to(device),
        # an empty prompt is what the pipeline puts in the place of none, zeros for some SDXL models
        cond=cond.where(empty, uncond),
        uncond=uncond,
        trajectory=trajectory,
        extra_noise=None if batch.extra_noise is None else batch.extra_noise.to(device),
    )
