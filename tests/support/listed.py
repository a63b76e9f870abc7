"""Data sets that a stream reads, and what it gives of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from lcm.data.config import DataConfig
from lcm.data.loaded import LoadedData
from lcm.data.stream.read import load_stream
from lcm.system.processes import ALONE, Team
from tests.support.pictures import encoded, plain
from tests.support.samples import Example

COUNT = 10


def pictures_of(count: int = COUNT) -> list[Example]:
    """Each of another colour and size."""
    return [
        Example(f"{i:02d}.png", encoded(plain((9 * i, 0, 0), size=(6 + i, 5))), (f"picture {i}",))
        for i in range(count)
    ]


def write_tables(folder: Path, examples: list[Example]) -> Path:
    """Two parquet files with several groups of rows."""
    for name, part in (
        ("a", examples[: len(examples) // 2]),
        ("b", examples[len(examples) // 2 :]),
    ):
        cells = [{"bytes": example.data, "path": None} for example in part]
        table = datasets.Dataset.from_dict(
            {"image": cells, "text": [list(example.captions) for example in part]}
        )
        folder.mkdir(parents=True, exist_ok=True)
        table.cast_column("image", datasets.Image()).to_parquet(
            folder / f"{name}.parquet", batch_size=2
        )
    return folder


class Kept:
    """A sink that opens what it is given, as an encoder does, and keeps account."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: dict[str, tuple[int, int]] = {}
        self.fail_at = fail_at

    def __call__(self, part: LoadedData) -> None:
        for record in part.records:
            if len(self.seen) == self.fail_at:
                raise KeyboardInterrupt
            assert record.key not in self.seen
            self.seen[record.key] = record.image().size


def config_of(where: Path, **changes: Any) -> DataConfig:
    cache = str(where.parent / "datasets")
    return DataConfig(dataset_name=str(where), streaming=True, cache_dir=cache, **changes)


def load_streamed(
    where: Path, sink: Kept | None = None, team: Team = ALONE, **changes: Any
) -> LoadedData:
    notes = where.parent / "notes"
    notes.mkdir(exist_ok=True)
    limit = changes.pop("max_train_samples", None)
    return load_stream(config_of(where, **changes), limit, team, notes, sink or Kept())


def content(data: LoadedData) -> Any:
    return (
        [(record.key, record.captions, record.size) for record in data.records],
        data.pictures,
        dict(data.dropped),
        data.source,
    )


def options(hub: Path, cache: str = "cache", **changes: Any) -> dict[str, Any]:
    values = {
        "train_data_dir": None,
        "dataset_name": hub,
        "cache_dir": hub.parent / "datasets",
        "cache_latents": True,
    }
    quick = {
        "validation_prompts": ["x"],
        "validation_num_steps": [1],
        "validation_steps": 9,
        "checkpointing_steps": 9,
    }
    return {
        **values,
        **quick,
        "latent_cache_dir": hub.parent / cache,
        "max_train_steps": 3,
        "streaming": True,
        **changes,
    }
