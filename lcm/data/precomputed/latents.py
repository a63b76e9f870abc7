"""Training samples without pictures or text encoders: moments of latents and embeddings of prompts,
read from disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lcm.data.buckets import Buckets
from lcm.data.config import SampleConfig
from lcm.data.crops import Crop, choose_crop
from lcm.data.loaded import Reread
from lcm.data.pictures import Picture
from lcm.data.precomputed.identity import identity_of, key_of
from lcm.data.precomputed.prompts import (
    EncodedPrompts,
    encode_prompts,
)
from lcm.data.precomputed.rows import Filled, Make, Rows, break_even, reading_seconds
from lcm.data.precomputed.store import Row, Store, Writer
from lcm.data.randomness import draw
from lcm.data.records import Record
from lcm.models.conditioning import ImageSize
from lcm.system.processes import Team

if TYPE_CHECKING:  # worker processes, which read what this holds, need no model library
    from lcm.models.families import Family

logger = logging.getLogger(__name__)

MOMENTS = "moments"
Job = tuple[Record, Crop]
MOST_CROPS = 10**8
"""So many crops take terabytes on disk, and their list alone tens of gigabytes in memory."""


# --- pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a run, and the crops that its epochs draw of them."""

    records: Sequence[Record]
    pictures: Sequence[Picture]
    buckets: Buckets
    samples: SampleConfig
    seed: int
    variants: int = 1

    def crop(self, epoch: int, index: int) -> Crop:
        picture = self.pictures[index]
        _, draws = draw(self.seed, epoch, self.records[index].key)
        shape = (picture.height, picture.width)
        return choose_crop(
            self.samples, shape, self.buckets.shape(index), draws.flip, draws.top, draws.left
        )

    def key(self, index: int, crop: Crop) -> str:
        """The key of a crop of a picture, wherever that lies and whatever it is called."""
        cut = (crop.size.crop_top, crop.size.crop_left, crop.size.height, crop.size.width)
        return key_of(self.pictures[index].sha256, crop.resized, cut, crop.mirrored)

    def jobs(self) -> dict[str, Job]:
        """All crops that the epochs draw, by key. Raises ValueError for more than can be kept."""
        if (count := self.variants * len(self.records)) > MOST_CROPS:
            raise ValueError(
                f"cache_variants: {self.variants} crops of {len(self.records)} pictures are "
                f"{count}, more than {MOST_CROPS}; pass fewer"
            )
        found: dict[str, Job] = {}
        for epoch in range(self.variants):
            for index, record in enumerate(self.records):
                crop = self.crop(epoch, index)
                found[self.key(index, crop)] = (record, crop)
        return found


@dataclass(frozen=True)
class EncodedPictures:
    """Moments of every picture in `cache_variants` crops: epoch e sees the crop that epoch e %
    cache_variants would draw.
    """

    store: Store
    pictures: PictureSet

    def picture(self, epoch: int, index: int) -> tuple[Tensor, ImageSize]:
        """Moments [2C, h, w] in the VAE's precision, and the size SDXL is conditioned on."""
        crop = self.pictures.crop(epoch % self.pictures.variants, index)
        return self.store[self.pictures.key(index, crop)][MOMENTS], crop.size


class CropPixels(Dataset[Tensor]):
    """Pixels of the jobs, for the worker processes of a data loader."""

    def __init__(self, jobs: Sequence[Job], interpolation: str) -> None:
        self.jobs, self.interpolation = jobs, interpolation

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> Tensor:
        record, crop = self.jobs[index]
        return crop.pixels(record.image(), self.interpolation)


def make_moments(
    jobs: Sequence[tuple[str, Job]], *, family: Family, interpolation: str, workers: int
) -> Iterator[tuple[str, Row]]:
    """Moments of crops, in the order of the jobs; worker processes decode the pictures."""
    device = family.pipe.vae.device
    loader = DataLoader(
        CropPixels([job for _, job in jobs], interpolation), batch_size=None, num_workers=workers
    )
    for (key, _), pixels in zip(jobs, loader, strict=True):
        # one at a time: what is kept must not depend, to the last bit, on what else was missing
        yield key, {MOMENTS: family.image_moments(pixels[None].to(device))[0]}


def reread_moments(
    jobs: Sequence[tuple[str, Job]], *, reread: Reread, make: Make[Job]
) -> Iterator[tuple[str, Row]]:
    """Makes the moments, by `make`, of pictures that a stream brings again in its own order."""
    by_record: dict[str, list[tuple[str, Crop]]] = {}
    for key, (record, crop) in jobs:
        by_record.setdefault(record.key, []).append((key, crop))
    for record in reread(by_record):
        yield from make([(key, (record, crop)) for key, crop in by_record[record.key]])


def latent_facts(family: Family, interpolation: str) -> dict[str, Any]:
    """The facts that the moments of this VAE follow from."""
    vae = family.pipe.vae
    return {
        "model": key_of(identity_of(vae), interpolation),
        "vae": str(vae.config.get("_name_or_path", "")),
        "dtype": str(vae.dtype),
        "interpolation_type": interpolation,
    }


def picture_rows(
    family: Family, pictures: PictureSet, workers: int, reread: Reread | None = None
) -> Rows:
    """The moments of a run's pictures."""
    interpolation = pictures.samples.interpolation_type
    options: dict[str, Any] = {"family": family, "interpolation": interpolation}
    make: Make[Job] = partial(make_moments, **options, workers=workers)
    if reread is not None:
        make = partial(
            reread_moments, reread=reread, make=partial(make_moments, **options, workers=0)
        )
    return rows_of_latents(latent_facts(family, interpolation), pictures.jobs(), make)


def rows_of_latents(facts: dict[str, Any], jobs: dict[str, Job], make: Make[Job]) -> Rows:
    """Moments that follow from these facts, made of these jobs."""
    return Rows(
        kind="latents",
        what="latents",
        flag="latent_cache_dir",
        name=f"latents-{facts['model']}",
        facts=facts,
        requested=jobs,
        make=make,
    )


def encode_pictures(
    family: Family,
    pictures: PictureSet,
    *,
    directory: Path,
    team: Team,
    workers: int,
    reread: Reread | None = None,
) -> EncodedPictures:
    """The moments of all crops, made where `directory` lacks them. Logs what that took, and when it
    pays.
    """
    rows = picture_rows(family, pictures, workers, reread)
    filled = rows.fill(directory, team)
    pays = when_it_pays(filled, list(rows.requested), pictures.variants, team.size)
    logger.info("%s%s", filled.summary(rows.what), pays)
    return EncodedPictures(filled.store, pictures)


class Encoder:
    """Encodes pictures as they come, those that `directory` lacks."""

    def __init__(
        self, family: Family, interpolation: str, *, directory: Path, workers: int
    ) -> None:
        self.make: Make[Job] = partial(
            make_moments, family=family, interpolation=interpolation, workers=workers
        )
        rows = rows_of_latents(latent_facts(family, interpolation), {}, self.make)
        self.folder = rows.open(directory)
        self.known = set(Store(self.folder).places)

    def add(self, pictures: PictureSet) -> None:
        """Encodes their crops that are not known yet. Returns once these are on the disk."""
        jobs = [(key, job) for key, job in pictures.jobs().items() if key not in self.known]
        writer = Writer(self.folder)
        for key, row in self.make(jobs):
            writer.add(key, row)
        writer.flush()
        self.known.update(key for key, _ in jobs)


def when_it_pays(filled: Filled, keys: Sequence[str], variants: int, processes: int) -> str:
    """Words on whether building a cache beats encoding anew in every epoch; none where nothing was
    built.
    """
    if not filled.made:
        return ""
    making, reading = filled.seconds * processes / filled.made, reading_seconds(filled.store, keys)
    epoch = break_even(making, reading, variants)
    when = f"it pays from epoch {epoch} on" if epoch else "it does not pay here"
    return (
        f"; encoding a picture takes {1e3 * making:.1f} ms, reading it {1e3 * reading:.2f} ms: "
        f"{when}"
    )


# --- prompts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedSamples:
    """All that a run reads instead of encoding; without `pictures` the prompts alone."""

    prompts: EncodedPrompts
    pictures: EncodedPictures | None = None

    @property
    def has_pictures(self) -> bool:
        return self.pictures is not None

    def picture(self, epoch: int, index: int) -> tuple[Tensor, ImageSize]:
        """Raises ValueError where there are no pictures."""
        if self.pictures is None:
            raise ValueError("only the prompts were encoded beforehand")
        return self.pictures.picture(epoch, index)

    def prompt(self, prompt: str) -> Row:
        return self.prompts.prompt(prompt)


def encode_samples(
    family: Family,
    prompts: Sequence[str],
    pictures: PictureSet | None,
    *,
    directory: Path,
    team: Team,
    workers: int = 0,
    reread: Reread | None = None,
) -> EncodedSamples:
    """Everything that training reads, made where `directory` lacks it; without `pictures` the
    prompts alone.

    Pictures of records that cannot be opened come from `reread`.
    """
    encoded = encode_prompts(family, prompts, directory=directory, team=team)
    if pictures is None:
        return EncodedSamples(encoded)
    options: dict[str, Any] = {
        "directory": directory,
        "team": team,
        "workers": workers,
        "reread": reread,
    }
    return EncodedSamples(encoded, encode_pictures(family, pictures, **options))
