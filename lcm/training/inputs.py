"""What a run is made of, from its configuration and its teacher: the recipe, the trajectories, the
latents of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from lcm.config.run import TrainConfig
from lcm.data.buckets import Buckets, by_aspect_ratio, one_square
from lcm.data.load import load_data
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.latents import EncodedSamples, Encoder, PictureSet, encode_samples
from lcm.data.precomputed.prompts import encode_prompts
from lcm.data.precomputed.trajectories import Trajectories, TrajectorySpec, make_trajectories
from lcm.data.records import Record
from lcm.data.stream.read import load_stream
from lcm.methods import OBJECTIVES
from lcm.models.families import Family
from lcm.outputs.resume import check_same_command
from lcm.system.processes import ALONE, Team
from lcm.training.launch import team_of
from lcm.training.teachers import (
    load_teachers,
)
from lcm.training.workspace import make_folder, name_of, open_cache, temporary_folder


def trajectory_spec(config: TrainConfig) -> TrajectorySpec:
    """Of the trajectories that --prompts_file trains on."""
    method = OBJECTIVES[config.objective]
    return TrajectorySpec(
        num_steps=config.num_ddim_timesteps or 50,
        solver=config.solver or "ddim",
        solver_steps=int(config.solver_steps or 1)
        if method.from_trajectories
        else 1,  # else it is of the pairs of training
        guidance_range=config.guidance_range,
        seed=config.seed,
        resolution=int(config.resolution or 0),
        keep=method.keeps,
    )


def trajectory_folder(config: TrainConfig) -> Path:
    """Where the trajectories of all teachers and prompts lie."""
    return Path(config.trajectory_dir or Path(config.output_dir) / "trajectories")


def build_trajectories(
    config: TrainConfig, family: Family, records: list[Record], team: Team, device: torch.device
) -> Trajectories:
    """The teacher's trajectories for the prompts, made now where they are not on disk. The U-Net
    has no adapters yet.
    """
    directory, spec = trajectory_folder(config), trajectory_spec(config)
    owner = ""
    if config.dry_run:  # every process for itself
        directory, team = temporary_folder(), ALONE
    else:
        owner = team.from_main(lambda: name_of(Path(config.output_dir)))
        team.together(lambda: make_folder(directory, "trajectory_dir"))
        team.check_shared(directory, "trajectory_dir")
    return make_trajectories(
        family,
        records,
        spec,
        directory=directory,
        team=team,
        batch_size=config.train_batch_size,
        device=device,
        owner=owner,
    )


def load_inputs(
    config: TrainConfig, team: Team, cache: Path | None, device: torch.device
) -> tuple[list[Family], LoadedData]:
    """The teachers, on `device`, and the data, which are looked at first; a stream is encoded
    there, by the first.
    """
    data = None if config.streaming else load_data(config, team, cache)
    families = team.together(lambda: load_teachers(config))
    for family in families:
        family.pipe.to(device)
    return families, stream_inputs(config, team, cache, families[0]) if data is None else data


def stream_inputs(
    config: TrainConfig, team: Team, cache: Path | None, family: Family
) -> LoadedData:
    """Of --streaming, encoded as they come."""
    assert cache is not None
    if config.dry_run:  # every process for itself, and no more than its one step reads
        few = min(config.train_batch_size, config.max_train_samples or config.train_batch_size)
        team, config = ALONE, dataclasses.replace(config, max_train_samples=few)
    config = with_resolution(config, family)
    encoder = Encoder(
        family, config.interpolation_type, directory=cache, workers=config.dataloader_num_workers
    )

    def encode_part(part: LoadedData) -> None:
        assert part.pictures is not None
        encoder.add(
            PictureSet(
                part.records,
                part.pictures,
                build_buckets(config, family, part),
                config,
                config.seed,
            )
        )

    return load_stream(config, team, cache, encode_part)


def with_resolution(config: TrainConfig, family: Family) -> TrainConfig:
    """The configuration with the teacher's own resolution where it has none."""
    return dataclasses.replace(config, resolution=config.resolution or family.native_resolution)


def build_encoded(
    config: TrainConfig,
    families: Sequence[Family],
    data: LoadedData,
    buckets: Buckets,
    directory: Path,
    team: Team,
) -> list[EncodedSamples]:
    """What --cache_latents reads instead of encoding, for every teacher, made now where `directory`
    lacks it.
    """
    prompts = prompts_to_encode(config, data.records)
    pictures = (
        None
        if data.pictures is None
        else PictureSet(data.records, data.pictures, buckets, config, config.seed)
    )
    team, workers = ALONE if config.dry_run else team, config.dataloader_num_workers
    first = encode_samples(
        families[0],
        prompts,
        pictures,
        directory=directory,
        team=team,
        workers=workers,
        reread=data.reread,
    )
    others = [
        encode_prompts(family, prompts, directory=directory, team=team) for family in families[1:]
    ]
    return [first, *(dataclasses.replace(first, prompts=encoded) for encoded in others)]


def prompts_to_encode(config: TrainConfig, records: Sequence[Record]) -> list[str]:
    """All that a run on these records can ask for."""
    empty = [""] if config.proportion_empty_prompts else []
    return [*empty, *(caption for record in records for caption in record.captions)]


def build_buckets(config: TrainConfig, family: Family, data: LoadedData) -> Buckets:
    """What the pictures are cut to."""
    resolution = int(config.resolution or 0)
    if not config.aspect_ratio_buckets or data.pictures is None:
        return one_square(resolution, len(data.records))
    return by_aspect_ratio(data.pictures, resolution, family.divisor)


def build_cache(config: TrainConfig, accelerator: Accelerator) -> None:
    """Encodes the data of a run without training."""
    team = team_of(accelerator)
    check_same_command(config, team)
    cache = open_cache(config, team)
    assert cache is not None
    families, data = load_inputs(config, team, cache, accelerator.device)
    config = with_resolution(config, families[0])
    build_encoded(config, families, data, build_buckets(config, families[0], data), cache, team)
