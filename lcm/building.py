"""What a run is made of, from its configuration and its teacher: the recipe, the trajectories, the latents of a batch."""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from lcm.bases import is_single_file
from lcm.cache import EncodedSamples, Encoder, PictureSet, encode_prompts, encode_samples
from lcm.config import TrainConfig
from lcm.data import Record, SampleBatch, Trajectories, TrajectorySpec, load_data, make_missing_shards, open_trajectories
from lcm.data.buckets import Buckets, by_aspect_ratio, one_square
from lcm.data.records import LoadedData
from lcm.data.streaming import load_stream
from lcm.data.team import ALONE, Team
from lcm.families import Family, load_family
from lcm.objectives import OBJECTIVES, LatentBatch, make_recipe
from lcm.recipe import Recipe
from lcm.resuming import check_same_command
from lcm.styles import check_unet_alone, fold_styles, identity_of_styles
from lcm.teachers import check_alike, share_parts

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
        teacher_loras=[style.facts() for style in config.styles],
        extra_teachers=config.extra_teachers,
    )
    if config.w_embedding:  # the value that the pipeline embeds; it guides nothing by itself
        recipe = dataclasses.replace(recipe, guidance_scale=sum(config.guidance_range) / 2)
    # without a teacher, the adapter keeps the guidance it has
    if first is not None and not OBJECTIVES[config.objective].has_teacher:
        recipe = dataclasses.replace(
            recipe, trained_guidance_scale=first.trained_guidance_scale, guidance_scale=first.guidance_scale
        )
    return recipe


def trajectory_spec(config: TrainConfig) -> TrajectorySpec:
    """Of the trajectories that --prompts_file trains on."""
    method = OBJECTIVES[config.objective]
    return TrajectorySpec(
        num_steps=config.num_ddim_timesteps or 50,
        solver=config.solver or "ddim",
        solver_steps=int(config.solver_steps or 1) if method.from_trajectories else 1,  # else it is of the pairs of training
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
    """The teacher's trajectories for the prompts, made now where they are not on disk. The U-Net has no adapters yet."""
    directory, spec = trajectory_folder(config), trajectory_spec(config)
    owner = None
    if config.dry_run:  # every process for itself
        directory, team = temporary_folder(), ALONE
    else:
        owner = team.from_main(lambda: name_of(Path(config.output_dir)))
        team.together(lambda: make_folder(directory, "trajectory_dir"))
        team.check_shared(directory, "trajectory_dir")
    batch_size = config.train_batch_size
    folder = make_missing_shards(family, records, spec, directory, team=team, batch_size=batch_size, device=device, owner=owner)
    team.wait()
    return open_trajectories(folder, len(records))


def team_of(accelerator: Accelerator) -> Team:
    return Team(accelerator.process_index, accelerator.num_processes, gather_object, accelerator.wait_for_everyone)


def open_cache(config: TrainConfig, team: Team) -> Path | None:
    """The folder for --cache_latents, None without it. Raises ValueError when it cannot be made, or is not the same for all."""
    if config.cache_folder is None:
        return None
    if config.dry_run:  # every process for itself
        return temporary_folder()
    folder = config.cache_folder
    team.together(lambda: make_folder(folder, "latent_cache_dir"))
    team.check_shared(folder, "latent_cache_dir")
    return folder


def make_folder(folder: Path, flag: str) -> None:
    """With those above it. Raises ValueError naming the flag."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{flag}: {folder} cannot be written ({error}); choose another folder") from error


def load_inputs(config: TrainConfig, team: Team, cache: Path | None, device: torch.device) -> tuple[list[Family], LoadedData]:
    """The teachers, on `device`, and the data, which are looked at first; a stream is encoded there, by the first."""
    data = None if config.streaming else load_data(config, team, cache)
    families = team.together(lambda: load_teachers(config))
    for family in families:
        family.pipe.to(device)
    return families, stream_inputs(config, team, cache, families[0]) if data is None else data


def stream_inputs(config: TrainConfig, team: Team, cache: Path | None, family: Family) -> LoadedData:
    """Of --streaming, encoded as they come."""
    assert cache is not None
    if config.dry_run:  # every process for itself, and no more than its one step reads
        few = min(config.train_batch_size, config.max_train_samples or config.train_batch_size)
        team, config = ALONE, dataclasses.replace(config, max_train_samples=few)
    config = with_resolution(config, family)
    encoder = Encoder(family, config.interpolation_type, directory=cache, workers=config.dataloader_num_workers)

    def encode_part(part: LoadedData) -> None:
        assert part.pictures is not None
        encoder.add(PictureSet(part.records, part.pictures, build_buckets(config, family, part), config, config.seed))

    return load_stream(config, team, cache, encode_part)


def identify_styles(config: TrainConfig, team: Team) -> list[list[Any]]:
    """Content and weights of --teacher_lora. Raises ValueError, on all processes, where theirs differ."""
    identity = team.together(lambda: identity_of_styles(config.styles))
    team.check_same(str(identity), "files or weights of teacher_lora", "--teacher_lora")
    return identity


def with_resolution(config: TrainConfig, family: Family) -> TrainConfig:
    """The configuration with the teacher's own resolution where it has none."""
    return dataclasses.replace(config, resolution=config.resolution or family.native_resolution)


def build_encoded(
    config: TrainConfig, families: Sequence[Family], data: LoadedData, buckets: Buckets, directory: Path, team: Team
) -> list[EncodedSamples]:
    """What --cache_latents reads instead of encoding, for every teacher, made now where `directory` lacks it."""
    prompts = prompts_to_encode(config, data.records)
    pictures = None if data.pictures is None else PictureSet(data.records, data.pictures, buckets, config, config.seed)
    team, workers = ALONE if config.dry_run else team, config.dataloader_num_workers
    first = encode_samples(families[0], prompts, pictures, directory=directory, team=team, workers=workers, reread=data.reread)
    others = [encode_prompts(family, prompts, directory=directory, team=team) for family in families[1:]]
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


def load_teacher(config: TrainConfig) -> Family:
    """As the flags say. Raises FileNotFoundError or ValueError naming what is wrong with it."""
    path = str(config.pretrained_teacher_model)
    family = load_family(
        path,
        # among several teachers, of those in one file
        base_config=config.base_config if is_single_file(path) or not config.extra_teachers else None,
        dtype=DTYPES[config.mixed_precision],
        revision=config.teacher_revision,
        variant=config.variant,
        vae_path=config.pretrained_vae_model_name_or_path,
    )
    if config.full_finetune:
        check_unet_alone(config.styles)
    fold_styles(family.pipe, config.styles)
    if config.loss_type == "lpips":
        family.pipe.vae.float()  # gradients pass through it: they would underflow in half precision
    return family


def load_teachers(config: TrainConfig) -> list[Family]:
    """The teacher and the extra ones, which share its VAE. Raises ValueError for one that is of another kind."""
    first = load_teacher(config)
    return [first, *(load_extra(config, path, first) for path in config.extra_teachers)]


def load_extra(config: TrainConfig, path: str, first: Family) -> Family:
    """Revision, variant and VAE are flags for the first alone."""
    own = dataclasses.replace(config, pretrained_teacher_model=path, teacher_revision=None, variant=None)
    try:
        family = load_teacher(dataclasses.replace(own, pretrained_vae_model_name_or_path=None))
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("pretrained_teacher_model", "extra_teachers")) from error
    check_alike(first, family, path)
    share_parts(first, family)
    return family


def caution(family: Family, config: TrainConfig) -> str | None:
    """What is known to go wrong with these flags and this teacher, though it is allowed; and what helps."""
    if config.target == "online" and family.zero_terminal_snr:
        return (
            "this teacher has zero terminal SNR, where a student that is its own target at once (--target online) was seen to get "
            "worse with every inference step; --target ema holds (docs/methods.md)"
        )
    return None


def unneeded(family: Family, config: TrainConfig) -> list[nn.Module]:
    """What no step asks for: with a cache the text encoders, with a cache or trajectories the VAE."""
    encodes = not config.cache_latents
    text = [] if encodes else family.text_encoders()
    vae_is_asked = config.loss_type == "lpips" or (encodes and config.prompts_file is None)
    return text if vae_is_asked else [family.pipe.vae, *text]


def park(families: Sequence[Family], config: TrainConfig) -> None:
    """Moves what no step asks for into main memory."""
    for family in families:
        family.park(unneeded(family, config))


def temporary_folder() -> Path:
    """For this process alone; gone when it ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def name_of(output_dir: Path) -> str:
    """Of a run among those that share a folder of trajectories, made with its output folder. The path alone would not do: on two
    machines it can be two folders."""
    output_dir.mkdir(parents=True, exist_ok=True)
    return hashlib.sha256(f"{output_dir.resolve()} {output_dir.stat().st_ino}".encode()).hexdigest()[:16]


def encode(family: Family, batch: SampleBatch, device: torch.device) -> LatentBatch:
    """Pixels, their moments or the ends of trajectories, and captions to latents and conditioning, on `device`."""
    embeds = family.embed_prompts(batch.prompts) if batch.embeds is None else batch.embeds
    cond = family.condition({name: tensor.to(device) for name, tensor in embeds.items()}, batch.sizes)
    uncond = family.unconditional(cond)
    trajectory = None if batch.trajectory is None else batch.trajectory.to(device)
    if trajectory is not None:
        x0 = trajectory[:, 0]
    else:
        moments = batch.moments
        if moments is None:
            assert batch.pixels is not None
            moments = family.image_moments(batch.pixels.to(device))
        x0 = family.draw_latents(moments.to(device), batch.posterior_noise.to(device))
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
