"""What a run reads: teachers and data, what is computed of them once, and the batches of its
steps.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from lcm.config.run import TrainConfig
from lcm.data.batch import SampleBatch, collate
from lcm.data.buckets import Buckets, by_aspect_ratio, one_square
from lcm.data.config import SampleConfig
from lcm.data.dataset import TrainDataset
from lcm.data.load import load_data, open_data
from lcm.data.loaded import LoadedData
from lcm.data.precomputed.latents import EncodedSamples, Encoder, PictureSet, encode_samples
from lcm.data.precomputed.prompts import encode_prompts
from lcm.data.precomputed.trajectories import (
    NoPictures,
    Trajectories,
    TrajectorySpec,
    make_trajectories,
)
from lcm.data.records import Record
from lcm.data.sampler import MixedDataset, MixedSampler, StepSampler
from lcm.data.stream.read import load_stream
from lcm.methods import METHODS
from lcm.methods.build import reads_pictures
from lcm.methods.config import MethodConfig, settings_of
from lcm.methods.context import Numbers
from lcm.models.families import Family
from lcm.system.signals import outlive_signals
from lcm.training.launch import Machine
from lcm.training.prediction import check_predictions
from lcm.training.teachers import load_teachers
from lcm.training.term_parts import decodes
from lcm.training.workspace import Workspace

logger = logging.getLogger(__name__)

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""--mixed_precision -> the precision of frozen weights."""


@dataclass(frozen=True)
class Inputs:
    """The samples that the steps of a run read, and the batches made of them.

    `encoded` and `trajectories` hold what each teacher needs, None where that is computed in the
    step. `extra_numbers` random numbers come with every sample besides the usual ones.
    """

    config: TrainConfig
    data: LoadedData
    buckets: Buckets
    encoded: Sequence[EncodedSamples | None]
    trajectories: Sequence[Trajectories | NoPictures | None]
    latent_shape: tuple[int, int, int]
    extra_numbers: Numbers
    process: tuple[int, int]

    def dataset(self, teacher: int = 0) -> TrainDataset:
        """The samples as a teacher needs them, by epoch and index."""
        return TrainDataset(
            self.data.records,
            self.config.samples,
            self.latent_shape,
            self.config.loop.seed,
            buckets=self.buckets,
            trajectories=self.trajectories[teacher],
            encoded=self.encoded[teacher],
            extra_numbers=self.extra_numbers,
        )

    def batches(self, steps: range) -> Iterator[SampleBatch]:
        """This process's batches for `steps`."""
        loop = self.config.loop
        sampler = StepSampler(
            self.buckets.groups,
            loop.train_batch_size,
            accumulation=loop.gradient_accumulation_steps,
            process=self.process,
            steps=steps,
            seed=loop.seed,
        )
        teachers = range(len(self.encoded))
        workers = loop.dataloader_num_workers
        return iter(
            DataLoader(
                MixedDataset([self.dataset(teacher) for teacher in teachers]),
                batch_sampler=MixedSampler(sampler, len(teachers)),
                collate_fn=collate,
                num_workers=workers,
                persistent_workers=workers > 0,
                worker_init_fn=outlive_signals,
            )
        )


# --- teachers and data ----------------------------------------------------------------------------


def load_inputs(
    config: TrainConfig, machine: Machine, workspace: Workspace
) -> tuple[list[Family], LoadedData]:
    """The teachers, on the device, and the data; a stream is encoded there, by the first.

    What is wrong with the place of the data is known before the teachers are loaded, what is wrong
    with these before every picture is looked at.
    """
    opened = None if config.data.streaming else open_data(config.data, machine.team)
    dtype = DTYPES[config.loop.mixed_precision]
    logger.info("loading %s", config.teacher.path)
    families = machine.team.together(lambda: load_teachers(config.teacher, dtype))
    for family in families:
        if decodes(config.method):
            # gradients pass through it: they would underflow in half precision
            family.pipe.vae.float()
        family.pipe.to(machine.device)
    machine.team.together(lambda: check_predictions(config.teacher, families))
    if opened is None:
        return families, load_encoding(config, workspace, families[0])
    return families, load_data(config.data, machine.team, workspace.cache, opened)


def load_encoding(config: TrainConfig, workspace: Workspace, family: Family) -> LoadedData:
    """The data of a stream, encoded as they come."""
    assert workspace.cache is not None  # the configuration has seen to it
    samples, loop = config.samples, config.loop
    encoder = Encoder(
        family,
        samples.interpolation_type,
        directory=workspace.cache,
        workers=loop.dataloader_num_workers,
    )

    def encode_part(part: LoadedData) -> None:
        encoder.add(picture_set(config, family, part))

    limits = [n for n in (config.data.max_train_samples, workspace.limit) if n is not None]
    limit = min(limits, default=None)
    return load_stream(config.data, limit, workspace.team, workspace.cache, encode_part)


def resolution_of(samples: SampleConfig, family: Family) -> int:
    """The side of the training images in pixels: the teacher's own where none is asked for."""
    return samples.resolution or family.native_resolution


def make_buckets(samples: SampleConfig, family: Family, data: LoadedData) -> Buckets:
    """What the pictures are cut to."""
    resolution = resolution_of(samples, family)
    if not samples.aspect_ratio_buckets or data.pictures is None:
        return one_square(resolution, len(data.records))
    return by_aspect_ratio(data.pictures, resolution, family.divisor)


# --- what is computed once ------------------------------------------------------------------------


def picture_set(config: TrainConfig, family: Family, data: LoadedData) -> PictureSet:
    """The pictures of these data and the crops that their epochs draw."""
    assert data.pictures is not None  # nobody asks for those of prompts alone
    return PictureSet(
        data.records,
        data.pictures,
        make_buckets(config.samples, family, data),
        config.samples,
        config.loop.seed,
        config.cache.cache_variants,
    )


def prompts_to_encode(config: SampleConfig, records: Sequence[Record]) -> list[str]:
    """All prompts that a run on these records can ask for."""
    empty = [""] if config.proportion_empty_prompts else []
    return [*empty, *(caption for record in records for caption in record.captions)]


def encode_once(
    config: TrainConfig,
    families: Sequence[Family],
    data: LoadedData,
    workspace: Workspace,
) -> list[EncodedSamples]:
    """What --cache_latents reads instead of encoding, for every teacher, made now where the cache
    lacks it.
    """
    directory = workspace.cache
    assert directory is not None  # nobody asks without --cache_latents
    prompts = prompts_to_encode(config.samples, data.records)
    first = encode_samples(
        families[0],
        prompts,
        None if data.pictures is None else picture_set(config, families[0], data),
        directory=directory,
        team=workspace.team,
        workers=config.loop.dataloader_num_workers,
        reread=data.reread,
    )
    others = [
        encode_prompts(family, prompts, directory=directory, team=workspace.team)
        for family in families[1:]
    ]
    return [first, *(dataclasses.replace(first, prompts=encoded) for encoded in others)]


def trajectory_spec(method: MethodConfig, seed: int, resolution: int) -> TrajectorySpec:
    """The trajectories that --prompts_file trains on."""
    entry = METHODS[method.objective]
    # else the number of steps is that of the pairs of training
    steps = method.solver_steps if entry.from_trajectories else None
    return TrajectorySpec(
        num_steps=method.num_ddim_timesteps or 50,
        solver=method.solver or "ddim",
        solver_steps=steps or 1,
        guidance_range=settings_of(method).drawn_guidance_range,
        seed=seed,
        resolution=resolution,
        keep=entry.keeps,
    )


def draw_trajectories(
    spec: TrajectorySpec,
    batch_size: int,
    families: Sequence[Family],
    records: list[Record],
    device: torch.device,
    workspace: Workspace,
) -> list[Trajectories]:
    """The trajectories of every teacher for the prompts, drawn now where they are not on disk, so
    many at once. The U-Net has no adapters yet.
    """
    found = []
    for family in families:
        directory, owner = workspace.open_trajectories()
        trajectories = make_trajectories(
            family,
            records,
            spec,
            directory=directory,
            team=workspace.team,
            batch_size=batch_size,
            device=device,
            owner=owner,
        )
        found.append(trajectories)
    return found


def make_inputs(
    config: TrainConfig,
    machine: Machine,
    workspace: Workspace,
    families: Sequence[Family],
    loaded: LoadedData,
    extra_numbers: Numbers,
) -> Inputs:
    """Computes once what is to be kept of the data, so much of them as the workspace allows."""
    draws = config.data.prompts_file is not None
    data, nothing = loaded, [None] * len(families)
    resolution = resolution_of(config.samples, families[0])
    if workspace.limit is not None and (draws or workspace.cache is not None):
        data = loaded.first(workspace.limit)
    encoded: Sequence[EncodedSamples | None] = nothing
    if workspace.cache is not None:
        encoded = encode_once(config, families, data, workspace)
    latent_shape = families[0].latent_shape(resolution)
    trajectories: Sequence[Trajectories | NoPictures | None] = nothing
    if draws and not reads_pictures(config.method):
        trajectories = [NoPictures(len(data.records), latent_shape)] * len(families)
    elif draws:
        spec = trajectory_spec(config.method, config.loop.seed, resolution)
        size, device = config.loop.train_batch_size, machine.device
        trajectories = draw_trajectories(spec, size, families, data.records, device, workspace)
    return Inputs(
        config=config,
        data=data,
        buckets=make_buckets(config.samples, families[0], data),
        encoded=encoded,
        trajectories=trajectories,
        latent_shape=latent_shape,
        extra_numbers=extra_numbers,
        process=machine.process,
    )
