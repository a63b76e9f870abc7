"""Flags of the training data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def default_cache() -> Path:
    """For all runs of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "latent-consistency")


@dataclass
class DataConfig:
    """Flags of the training data."""

    train_data_dir: str | None = field(
        default=None,
        metadata={
            "help": (
                "folder of images with metadata.jsonl, metadata.csv or a .txt of the same name "
                "beside each"
            ),
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": (
                "data set on the hub, or a local folder that `datasets` reads (parquet, "
                "save_to_disk)"
            ),
        },
    )
    parquet_files: str | None = field(
        default=None,
        metadata={
            "help": (
                "parquet files with a column of images and one of captions: a file, a folder "
                "or a pattern"
            ),
        },
    )
    webdataset: str | None = field(
        default=None,
        metadata={
            "help": (
                "tar shards in webdataset's layout: a file, a folder or a pattern "
                "(shards/{000..012}.tar)"
            ),
        },
    )
    prompts_file: str | None = field(
        default=None,
        metadata={
            "help": (
                "a text file of prompts, one a line, instead of images: latents come from the "
                "teacher's own trajectories"
            ),
        },
    )
    trajectories_per_prompt: int = field(
        default=1,
        metadata={
            "help": "with prompts_file: trajectories of every prompt, each from noise of its own"
        },
    )
    trajectory_dir: str | None = field(
        default=None,
        metadata={
            "help": (
                "where trajectories are kept, to share them between runs; default: "
                "trajectories/ in output_dir"
            )
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": (
                "with dataset_name and cache_latents: read the data set once, into the cache, "
                "and store none of it"
            )
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "configuration of the hub data set"}
    )
    image_column: str = field(default="image", metadata={"help": "column of the images"})
    caption_column: str = field(
        default="text",
        metadata={
            "help": (
                "column (webdataset: .json field) of the captions (a list: one is drawn per epoch)"
            )
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "use only the first so many samples that can be used"}
    )
    resolution: int | None = field(
        default=None,
        metadata={
            "help": (
                "side of the training images in pixels; default: the size that the teacher draws at"
            )
        },
    )
    aspect_ratio_buckets: bool = field(
        default=False,
        metadata={
            "help": (
                "train on portraits and landscapes too, about resolution x resolution pixels each"
            )
        },
    )
    center_crop: bool = field(
        default=False, metadata={"help": "crop the centre instead of a random part"}
    )
    random_flip: bool = field(default=False, metadata={"help": "mirror half of the images"})
    interpolation_type: str = field(
        default="lanczos", metadata={"help": "resizing: " + ", ".join(INTERPOLATION)}
    )
    proportion_empty_prompts: float = field(
        default=0.0, metadata={"help": "share of samples trained with an empty prompt"}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "where `datasets` keeps what it downloads or converts"}
    )
    cache_latents: bool = field(
        default=False,
        metadata={
            "help": "encode every picture and prompt once, on disk, instead of in every step"
        },
    )
    cache_variants: int = field(
        default=1,
        metadata={
            "help": (
                "with cache_latents: crops and mirrors of every picture, taken in turn epoch "
                "by epoch"
            )
        },
    )
    latent_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "with cache_latents: where, for all runs; default: ~/.cache/latent-consistency"
        },
    )

    def check_data(self) -> None:
        """Raises ValueError for flags that contradict each other or make no sense."""
        chosen(self)
        self._check_prompts()
        self._check_cache()
        self._check_streaming()
        if not 0.0 <= self.proportion_empty_prompts <= 1.0:
            raise ValueError(
                f"proportion_empty_prompts must lie in 0..1; got {self.proportion_empty_prompts}"
            )
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise ValueError(f"max_train_samples must be positive; got {self.max_train_samples}")
        if self.interpolation_type not in INTERPOLATION:
            raise ValueError(
                f"interpolation_type must be one of {', '.join(INTERPOLATION)}; got "
                f"{self.interpolation_type!r}"
            )

    def _check_prompts(self) -> None:
        if self.trajectories_per_prompt < 1:
            raise ValueError(
                f"trajectories_per_prompt must be positive; got {self.trajectories_per_prompt}"
            )
        if self.prompts_file is None:
            for name, is_set in (
                ("trajectories_per_prompt", self.trajectories_per_prompt > 1),
                ("trajectory_dir", self.trajectory_dir is not None),
            ):
                if is_set:
                    raise ValueError(
                        f"{name} has no effect without --prompts_file: images need no "
                        "trajectories; leave it out"
                    )
            return
        for name in ("random_flip", "center_crop", "aspect_ratio_buckets"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} has no effect with --prompts_file, which has no images; leave it out"
                )
        if self.proportion_empty_prompts > 0:
            raise ValueError(
                "proportion_empty_prompts does not go with --prompts_file: a trajectory belongs to "
                "the prompt it was made for; leave it out"
            )

    def _check_cache(self) -> None:
        if self.cache_variants < 1:
            raise ValueError(f"cache_variants must be positive; got {self.cache_variants}")
        if not self.cache_latents:
            for name, is_set in (
                ("cache_variants", self.cache_variants > 1),
                ("latent_cache_dir", self.latent_cache_dir is not None),
            ):
                if is_set:
                    raise ValueError(
                        f"{name} has no effect without --cache_latents; leave it out or pass "
                        "--cache_latents too"
                    )
        if self.cache_variants > 1 and self.prompts_file is not None:
            raise ValueError(
                "cache_variants has no effect with --prompts_file, which has no images; leave it "
                "out"
            )
        if self.cache_variants > 1 and self.center_crop and not self.random_flip:
            raise ValueError(
                "cache_variants has no effect with --center_crop and without --random_flip: all "
                "would be the same"
            )

    def _check_streaming(self) -> None:
        if self.streaming and self.dataset_name is None:
            raise ValueError(
                f"streaming reads a --dataset_name; --{chosen(self)} is read where it lies: leave "
                "--streaming out"
            )
        if self.streaming and not self.cache_latents:
            raise ValueError(
                "streaming: a stream is read once, into the cache; pass --cache_latents too"
            )

    @property
    def cache_folder(self) -> Path | None:
        """Where --cache_latents keeps things, None without it."""
        if not self.cache_latents:
            return None
        return Path(self.latent_cache_dir) if self.latent_cache_dir else default_cache()


WHAT = {
    "train_data_dir": "a folder of images",
    "dataset_name": "a data set",
    "parquet_files": "parquet files",
    "webdataset": "tar shards",
    "prompts_file": "prompts without images",
}
"""Every field that chooses a source of data -> what that reads, in words."""


def chosen(config: DataConfig) -> str:
    """The one field of WHAT that is set. Raises ValueError for none or several."""
    given = [flag for flag in WHAT if getattr(config, flag) is not None]
    if len(given) != 1:
        *others, last = (f"--{flag} ({what})" for flag, what in WHAT.items())
        raise ValueError(f"training data: pass exactly one of {', '.join(others)} and {last}")
    return given[0]
