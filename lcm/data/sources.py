"""Sources: folders, data sets and lists of prompts turned into records, with an account of what was kept and dropped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image, ImageOps
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What a file may hold, whatever its name: PIL would start Ghostscript for an EPS named .png."""

INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass
class DataConfig:
    """Flags of the training data."""

    train_data_dir: str | None = field(
        default=None, metadata={"help": "folder of images with metadata.jsonl, metadata.csv or a .txt of the same name beside each"}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "data set on the hub, or a local folder that `datasets` reads (parquet, save_to_disk)"}
    )
    prompts_file: str | None = field(
        default=None,
        metadata={
            "help": "a text file of prompts, one a line, instead of images: latents come from the teacher's own trajectories"
        },
    )
    trajectories_per_prompt: int = field(
        default=1, metadata={"help": "with prompts_file: trajectories of every prompt, each from noise of its own"}
    )
    trajectory_dir: str | None = field(
        default=None,
        metadata={"help": "where trajectories are kept, to share them between runs; default: trajectories/ in output_dir"},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of the hub data set"})
    image_column: str = field(default="image", metadata={"help": "column of the images"})
    caption_column: str = field(default="text", metadata={"help": "column of the captions (a list: one is drawn per epoch)"})
    max_train_samples: int | None = field(default=None, metadata={"help": "use only the first so many samples"})
    resolution: int | None = field(
        default=None, metadata={"help": "side of the training images in pixels; default: the size that the teacher draws at"}
    )
    center_crop: bool = field(default=False, metadata={"help": "crop the centre instead of a random part"})
    random_flip: bool = field(default=False, metadata={"help": "mirror half of the images"})
    interpolation_type: str = field(default="lanczos", metadata={"help": "resizing: " + ", ".join(INTERPOLATION)})
    proportion_empty_prompts: float = field(default=0.0, metadata={"help": "share of samples trained with an empty prompt"})
    cache_dir: str | None = field(default=None, metadata={"help": "where `datasets` keeps what it downloads"})

    def check_data(self) -> None:
        """Raises ValueError for flags that contradict each other or make no sense."""
        if sum(source is not None for source in (self.train_data_dir, self.dataset_name, self.prompts_file)) != 1:
            raise ValueError(
                "training data: pass exactly one of --train_data_dir (a folder of images), --dataset_name (a data set) and "
                "--prompts_file (prompts without images)"
            )
        self._check_prompts()
        if not 0.0 <= self.proportion_empty_prompts <= 1.0:
            raise ValueError(f"proportion_empty_prompts must lie in 0..1; got {self.proportion_empty_prompts}")
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise ValueError(f"max_train_samples must be positive; got {self.max_train_samples}")
        if self.interpolation_type not in INTERPOLATION:
            raise ValueError(f"interpolation_type must be one of {', '.join(INTERPOLATION)}; got {self.interpolation_type!r}")

    def _check_prompts(self) -> None:
        if self.trajectories_per_prompt < 1:
            raise ValueError(f"trajectories_per_prompt must be positive; got {self.trajectories_per_prompt}")
        if self.prompts_file is None:
            for name, is_set in (
                ("trajectories_per_prompt", self.trajectories_per_prompt > 1),
                ("trajectory_dir", self.trajectory_dir is not None),
            ):
                if is_set:
                    raise ValueError(f"{name} has no effect without --prompts_file: images need no trajectories; leave it out")
            return
        for name in ("random_flip", "center_crop"):
            if getattr(self, name):
                raise ValueError(f"{name} has no effect with --prompts_file, which has no images; leave it out")
        if self.proportion_empty_prompts > 0:
            raise ValueError(
                "proportion_empty_prompts does not go with --prompts_file: a trajectory belongs to the prompt it was made for; "
                "leave it out"
            )


@dataclass(frozen=True)
class Record:
    """One sample before any random choice. `key` names it in messages and seeds its random numbers."""

    key: str
    captions: tuple[str, ...]
    read: Callable[[], io.BytesIO | Path] | None = None  # None: a prompt without a picture
    size: int = 0  # of the file in bytes, where that is known for free

    def image(self) -> Image.Image:
        """The picture, upright, RGB. Raises ValueError for a prompt without one, UnidentifiedImageError for another format."""
        if self.read is None:
            raise ValueError(f"sample {self.key} is a prompt without a picture; train on its trajectory instead")
        with Image.open(self.read(), formats=IMAGE_FORMATS) as image:
            upright = ImageOps.exif_transpose(image) or image
            if upright.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return upright.convert("RGB")


def load_records(config: DataConfig) -> list[Record]:
    """All usable samples, in a fixed order. Logs what was dropped and why.

    Raises FileNotFoundError or ValueError, naming the fix, when nothing usable is left.
    """
    where = str(config.train_data_dir or config.dataset_name or config.prompts_file)
    dropped: Counter[str] = Counter()
    if config.train_data_dir is not None:
        records = list(read_folder(Path(config.train_data_dir), config.caption_column, dropped))
    elif config.prompts_file is not None:
        records = list(read_prompts(Path(config.prompts_file), config.trajectories_per_prompt, dropped))
    else:
        records = list(read_dataset(config, dropped))
    records = records[: config.max_train_samples]
    without_caption = dropped["without a caption"]
    if not records and without_caption:
        raise ValueError(
            f"{where}: none of the {without_caption} images has a caption; add a metadata.jsonl with file_name and "
            f"{config.caption_column} fields, a metadata.csv with these columns, or a .txt of the same name beside every image"
        )
    readable = records if config.prompts_file is not None else drop_unreadable(records, dropped)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "nothing"
    logger.info("%s: kept %d samples; dropped: %s", where, len(readable), reasons)
    if not readable:
        raise ValueError(f"{where} gives no usable sample; dropped: {reasons}. Replace the files or point to another folder")
    return readable


def fingerprint(records: list[Record]) -> str:
    """SHA-256 of all keys, file sizes and captions: resuming on other data is refused by it."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.key, record.size, *record.captions]).encode())
    return digest.hexdigest()


def drop_unreadable(records: list[Record], dropped: Counter[str]) -> list[Record]:
    """Decodes every image once, so that a broken file is found before the run and not in its middle."""

    def is_readable(record: Record) -> bool:
        try:
            record.image()
        except Exception as error:
            logger.warning("skipping %s, which cannot be read as an image (%s): %s", record.key, ", ".join(IMAGE_FORMATS), error)
            return False
        return True

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checks = tqdm(pool.map(is_readable, records), total=len(records), desc="checking images", leave=False, disable=None)
        readable = list(checks)
    kept = [record for record, good in zip(records, readable, strict=True) if good]
    if len(kept) < len(records):
        dropped["unreadable"] += len(records) - len(kept)
    return kept


def as_captions(value: Any) -> tuple[str, ...]:
    """The non-empty captions in a cell that holds a string, a list of strings, or nothing."""
    candidates = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in candidates if isinstance(text, str) and text.strip())


def read_folder(folder: Path, caption_column: str, dropped: Counter[str]) -> Iterator[Record]:
    """Images below `folder` in path order, captions from metadata files and, where those are silent, .txt files."""
    if not folder.is_dir():
        raise FileNotFoundError(f"train_data_dir: {folder} is not a folder; pass the folder that holds the training images")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not images:
        raise ValueError(f"train_data_dir: {folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    captions = read_metadata(folder, caption_column)
    missing = sum(not path.is_file() for path in captions)
    if missing:
        dropped["listed in the metadata but missing"] += missing
    for path in images:
        sidecar = path.with_suffix(".txt")
        texts = captions.get(lexical(path), ())
        if not texts and sidecar.is_file():
            texts = as_captions(sidecar.read_text(encoding="utf-8-sig", errors="replace"))
        if texts:
            yield Record(path.relative_to(folder).as_posix(), texts, partial(Path, path), path.stat().st_size)
        else:
            dropped["without a caption"] += 1


def read_prompts(path: Path, copies: int, dropped: Counter[str]) -> Iterator[Record]:
    """`copies` records without a picture for every line of a text file that is not blank.

    Raises FileNotFoundError without the file, ValueError when it is not UTF-8 or holds no prompt.
    """
    if not path.is_file():
        raise FileNotFoundError(f"prompts_file: there is no file {path}; pass a text file with one prompt a line")
    try:
        with path.open(encoding="utf-8-sig") as file:  # its lines end at line breaks alone, unlike those of str.splitlines
            prompts = [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts_file: {path} is not UTF-8: {error}; save it as UTF-8") from error
    if not any(prompts):
        raise ValueError(f"prompts_file: {path} holds no prompt; write one on every line")
    if "" in prompts:
        dropped["blank lines"] += prompts.count("")
    for number, prompt in enumerate(prompts, 1):
        if prompt:
            yield from (Record(f"{number:06d}#{copy}", (prompt,)) for copy in range(copies))


def read_metadata(folder: Path, caption_column: str) -> dict[Path, tuple[str, ...]]:
    """File -> captions from every metadata.jsonl and metadata.csv below `folder`, file names relative to each."""
    captions: dict[Path, tuple[str, ...]] = {}
    for metadata in sorted(path for name in METADATA_NAMES for path in folder.rglob(name)):
        try:
            rows = list(read_rows(metadata))
        except UnicodeDecodeError as error:
            raise ValueError(f"{metadata} is not UTF-8: {error}; save it as UTF-8") from error
        except csv.Error as error:
            raise ValueError(f"{metadata} is not valid CSV: {error}") from error
        columns = sorted({column for row in rows for column in row})
        if rows and ("file_name" not in columns or caption_column not in columns):
            raise ValueError(
                f"{metadata} has the columns {', '.join(columns)} but needs file_name and {caption_column}; "
                "pass --caption_column to name another caption column"
            )
        for row in rows:
            path = lexical(metadata.parent / str(row.get("file_name", "")))
            if not path.is_relative_to(lexical(folder)):
                raise ValueError(f"{metadata}: file_name {row['file_name']!r} points outside {folder}; keep images inside it")
            captions[path] = as_captions(row.get(caption_column))
    return captions


def lexical(path: Path) -> Path:
    """Absolute, without "..", links not followed: data folders full of links are common and stay usable."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."


def read_rows(metadata: Path) -> Iterator[dict[str, Any]]:
    with metadata.open(encoding="utf-8-sig", newline="") as file:
        if metadata.suffix == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                if None in row:
                    raise ValueError(f"{metadata}, line {reader.line_num} has too many fields; put captions with commas in quotes")
                yield row
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{metadata}, line {number} is not valid JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{metadata}, line {number} must be a JSON object with file_name and a caption")
                yield row


def read_dataset(config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """The train split (or the only split) of anything `datasets` loads."""
    import datasets

    name = str(config.dataset_name)
    try:
        if Path(name, "state.json").is_file() or Path(name, "dataset_dict.json").is_file():
            loaded: Any = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config.dataset_config_name, cache_dir=config.cache_dir)
    except Exception as error:
        raise ValueError(f"dataset_name: {name} could not be loaded: {error}") from error
    if isinstance(loaded, dict):
        if "train" not in loaded and len(loaded) != 1:
            raise ValueError(f"dataset_name: {name} has no train split, only {', '.join(loaded)}")
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    for column, flag in ((config.image_column, "image_column"), (config.caption_column, "caption_column")):
        if column not in loaded.column_names:
            raise ValueError(
                f"dataset_name: {name} has no column {column!r}; its columns are {', '.join(loaded.column_names)}; pass --{flag}"
            )
    try:
        rows = loaded.cast_column(config.image_column, datasets.Image(decode=False)).select_columns([config.image_column])
    except Exception as error:
        raise ValueError(
            f"dataset_name: column {config.image_column!r} of {name} holds no images ({error}); pass --image_column"
        ) from error
    caches = (config.cache_dir or datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE)  # where those of the hub are
    roots = tuple(Path(root).resolve() for root in ([name] if Path(name).is_dir() else caches))
    for i, value in enumerate(loaded[config.caption_column]):
        captions = as_captions(value)
        if captions:
            yield Record(f"{name}[{i}]", captions, partial(read_cell, rows, config.image_column, i, roots))
        else:
            dropped["without a caption"] += 1


def read_cell(rows: Any, column: str, index: int, roots: tuple[Path, ...]) -> io.BytesIO | Path:
    """The picture's bytes, or its file below one of `roots`. Raises ValueError for any other: a table may name all of a disk."""
    cell = rows[index][column]
    if cell["bytes"] is not None:
        return io.BytesIO(cell["bytes"])
    for root in roots:
        path = (root / cell["path"]).resolve()
        if path.is_relative_to(root):
            return path
    raise ValueError(
        f"its file {cell['path']} is not below {' or '.join(map(str, roots))}; keep the images there, or pass their folder as "
        "--train_data_dir"
    )
