"""A list of prompts: no pictures, the teacher draws its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lcm.data.captions import lines_of, read_text
from lcm.data.config import DataConfig
from lcm.data.dropped import leave_out
from lcm.data.records import Record
from lcm.data.sources.base import Source
from lcm.system.paths import is_endless, is_regular

MOST_SAMPLES = 10**7
"""So many trajectories take years to draw, and their list alone gigabytes."""


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, blank ones included. Raises FileNotFoundError, or ValueError where
    none is a prompt.
    """
    if is_endless(path):
        raise ValueError(f"prompts_file: {path} is a pipe or a device; write it to a file first")
    if not is_regular(path):
        raise FileNotFoundError(
            f"prompts_file: there is no file {path}; pass a text file with one prompt a line"
        )
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"prompts_file: {error}") from error
    prompts = [line.strip() for line in lines_of(text)]
    if not any(prompts):
        raise ValueError(f"prompts_file: {path} holds no prompt; write one on every line")
    return prompts


def read_records(where: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Record]:
    """`trajectories_per_prompt` records without a picture for every line of a text file that is not
    blank.
    """
    prompts, copies = read_prompts(Path(where)), config.trajectories_per_prompt
    total = (len(prompts) - prompts.count("")) * copies
    if min(total, config.max_train_samples or total) > MOST_SAMPLES:
        raise ValueError(
            f"trajectories_per_prompt: {copies} of each prompt are more than {MOST_SAMPLES} "
            "trajectories; pass fewer, or --max_train_samples"
        )
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            leave_out(dropped, f"line {number}", "blank lines")
        if prompt:
            yield from (Record(f"{number:06d}#{copy}", (prompt,)) for copy in range(copies))


PROMPTS = Source(read_records, has_images=False)
