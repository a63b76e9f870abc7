"""Flags of the training data: where samples come from, how they are made, what is computed once."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from lcm.system.flags import Section, flag
from lcm.system.words import place

INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def default_cache() -> Path:
    """The folder of what all runs of this user have computed once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "latent-consistency")


def at_home_behind_the_name(word: str | None) -> str | None:
    """NAME=WHERE with a `~` of WHERE spelled out, which no shell does there."""
    if word is None:
        return None
    name, equals, where = word.partition("=")
    return f"{name}={place(where)}" if equals else word


@dataclass(frozen=True)
class DataConfig(Section):
    """Which samples are trained on. Exactly one field that has a `source` is set."""

    train_data_dir: str | None = flag(
        None,
        "folder of images with metadata.jsonl, metadata.csv, or a .txt or .caption of the same "
        "name beside each",
        source="a folder of images",
        is_free=True,
        is_place=True,
    )
    dataset_name: str | None = flag(
        None,
        "data set on the hub, or a local folder that `datasets` reads (parquet, save_to_disk)",
        source="a data set",
        is_free=True,
        is_place=True,
    )
    parquet_files: str | None = flag(
        None,
        "parquet files with a column of images and one of captions: a file, a folder or a pattern",
        source="parquet files",
        is_free=True,
        is_place=True,
    )
    webdataset: str | None = flag(
        None,
        "tar shards in webdataset's layout: a file, a folder or a pattern (shards/{000..012}.tar)",
        source="tar shards",
        is_free=True,
        is_place=True,
    )
    prompts_file: str | None = flag(
        None,
        "a text file of prompts, one a line, instead of images: latents come from the teacher's "
        "own trajectories",
        source="prompts without images",
        is_free=True,
        is_place=True,
    )
    other_source: str | None = flag(
        None,
        "NAME=WHERE: data of a source that a --plugin adds, from WHERE",
        read=at_home_behind_the_name,
        source="data of a source of your own",
        is_free=True,
        is_place=True,
        is_optional=True,
    )
    trajectories_per_prompt: int = flag(
        1,
        "with prompts_file: trajectories of every prompt, each from noise of its own",
        above=0,
        at_most=10_000,
    )
    streaming: bool = flag(
        False,
        "with dataset_name and cache_latents: read the data set once, into the cache, and store "
        "none of it",
        is_free=True,
    )
    dataset_config_name: str | None = flag(None, "configuration of the hub data set")
    image_column: str = flag("image", "column of the images")
    caption_column: str = flag(
        "text",
        "column (webdataset: .json field) of the captions (a list: one is drawn per epoch)",
    )
    max_train_samples: int | None = flag(
        None,
        "use only the first so many samples that can be used",
        above=0,
        at_most=10**12,
        unset="all",
    )
    cache_dir: str | None = flag(
        None,
        "where `datasets` keeps what it downloads or converts",
        unset="its own folder, below HF_HOME",
        is_free=True,
        is_place=True,
    )

    @property
    def source(self) -> str:
        """The one field of SOURCE_FLAGS that is set. Raises ValueError for none or several."""
        given = [name for name in SOURCE_FLAGS if getattr(self, name) is not None]
        if len(given) != 1:
            *others, last = (
                f"--{name} ({what})" for name, what in SOURCE_FLAGS.items() if name != OTHER
            )
            raise ValueError(f"training data: pass exactly one of {', '.join(others)} and {last}")
        return given[0]

    @property
    def reads(self) -> tuple[str, str]:
        """The name in SOURCES of what is read, and from where. Raises ValueError for an
        --other_source that says only one of them.
        """
        name, where = self.source, str(getattr(self, self.source))
        if not where.strip():
            raise ValueError(f"{name} is empty; pass the place of the data, or leave it out")
        if name != OTHER:
            return name, where
        name, equals, where = where.partition("=")
        if not equals:
            raise ValueError(f"other_source takes NAME=WHERE, such as mine=photos/; got {name!r}")
        return name, where


OTHER = "other_source"
"""The field that chooses a source from outside."""
SOURCE_FLAGS: dict[str, str] = {
    f.name: f.metadata["flag"].source for f in fields(DataConfig) if f.metadata["flag"].source
}
"""Every field that chooses a source of data -> what that reads, in words."""


@dataclass(frozen=True)
class SampleConfig(Section):
    """How samples are made of pictures and captions. `resolution` None is the size that the teacher
    draws at.
    """

    resolution: int | None = flag(
        None,
        "side of the training images in pixels",
        above=0,
        at_most=16384,
        unset="the size that the teacher draws at",
    )
    aspect_ratio_buckets: bool = flag(
        False,
        "train on portraits and landscapes too, about resolution x resolution pixels each",
    )
    center_crop: bool = flag(False, "crop the centre instead of a random part")
    random_flip: bool = flag(False, "mirror half of the images")
    proportion_empty_prompts: float | None = flag(
        None,
        "share of samples trained with an empty prompt",
        unset="0; 0.1 with preserve_cfg",
        at_least=0,
        at_most=1,
    )
    long_prompts: str = flag(
        "truncate",
        "captions longer than 75 tokens: truncate: the rest is not learnt; chunks: all of "
        "it, in up to 4 chunks of 75, which needs the package compel",
        choices=("truncate", "chunks"),
    )
    interpolation_type: str = flag(
        "lanczos", "how pictures are resized", choices=tuple(INTERPOLATION)
    )


@dataclass(frozen=True)
class CacheConfig(Section):
    """What is computed once and kept on disk."""

    cache_latents: bool = flag(
        False, "encode every picture and prompt once, on disk, instead of in every step"
    )
    cache_variants: int = flag(
        1,
        "with cache_latents: crops and mirrors of every picture, taken in turn epoch by epoch",
        above=0,
        at_most=1000,
    )
    latent_cache_dir: str | None = flag(
        None,
        "with cache_latents: where, for all runs",
        unset="~/.cache/latent-consistency",
        is_free=True,
        is_place=True,
    )
    trajectory_dir: str | None = flag(
        None,
        "where trajectories are kept, to share them between runs",
        unset="trajectories/ in output_dir",
        is_free=True,
        is_place=True,
    )

    @property
    def folder(self) -> Path | None:
        """Where --cache_latents keeps things, None without it."""
        if not self.cache_latents:
            return None
        return Path(self.latent_cache_dir) if self.latent_cache_dir else default_cache()


def check_data(data: DataConfig, samples: SampleConfig, cache: CacheConfig) -> None:
    """Raises ValueError for flags of the data that contradict each other or have no effect."""
    check_prompts(data, samples, cache)
    check_cache(data, samples, cache)
    if data.streaming and data.dataset_name is None:
        raise ValueError(
            f"streaming reads a --dataset_name; --{data.source} is read where it lies: leave "
            "--streaming out"
        )
    if data.streaming and not cache.cache_latents:
        raise ValueError(
            "streaming: a stream is read once, into the cache; pass --cache_latents too"
        )


def check_prompts(data: DataConfig, samples: SampleConfig, cache: CacheConfig) -> None:
    """Raises ValueError for flags of images beside prompts, or of prompts beside images."""
    if data.source != "prompts_file":
        for name, is_set in (
            ("trajectories_per_prompt", data.trajectories_per_prompt > 1),
            ("trajectory_dir", cache.trajectory_dir is not None),
        ):
            if is_set:
                raise ValueError(
                    f"{name} has no effect without --prompts_file: images need no trajectories; "
                    "leave it out"
                )
        return
    for name in ("random_flip", "center_crop", "aspect_ratio_buckets"):
        if getattr(samples, name):
            raise ValueError(
                f"{name} has no effect with --prompts_file, which has no images; leave it out"
            )


def check_cache(data: DataConfig, samples: SampleConfig, cache: CacheConfig) -> None:
    """Raises ValueError for flags of the cache that have no effect."""
    if not cache.cache_latents:
        for name, is_set in (
            ("cache_variants", cache.cache_variants > 1),
            ("latent_cache_dir", cache.latent_cache_dir is not None),
        ):
            if is_set:
                raise ValueError(
                    f"{name} has no effect without --cache_latents; leave it out or pass "
                    "--cache_latents too"
                )
    if cache.cache_variants == 1:
        return
    if data.prompts_file is not None:
        raise ValueError(
            "cache_variants has no effect with --prompts_file, which has no images; leave it out"
        )
    if samples.center_crop and not samples.random_flip:
        raise ValueError(
            "cache_variants has no effect with --center_crop and without --random_flip: all would "
            "be the same"
        )
