"""A list of prompts: no pictures, the teacher draws its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lcm.data.config import DataConfig
from lcm.data.records import Record
from lcm.data.sources.base import Source


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, blank ones included. Raises FileNotFoundError, or ValueError where
    none is a prompt.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"prompts_file: there is no file {path}; pass a text file with one prompt a line"
        )
    try:
        # its lines end at line breaks alone, unlike those of str.splitlines
        with path.open(encoding="utf-8-sig") as file:
            prompts = [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts_file: {path} is not UTF-8: {error}; save it as UTF-8") from error
    if not any(prompts):
        raise ValueError(f"prompts_file: {path} holds no prompt; write one on every line")
    return prompts


def read_records(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """`trajectories_per_prompt` records without a picture for every line of a text file that is not
    blank.
    """
    prompts = read_prompts(Path(where))
    if "" in prompts:
        dropped["blank lines"] += prompts.count("")
    for number, prompt in enumerate(prompts, 1):
        if prompt:
            yield from (
                Record(f"{number:06d}#{copy}", (prompt,))
                for copy in range(config.trajectories_per_prompt)
            )


PROMPTS = Source(read_records, has_images=False)
