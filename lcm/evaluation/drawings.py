"""What was drawn, on the disk: of each subject, number of steps, prompt and seed a PNG file and the
latents behind it, each with the key of all that it follows from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lcm.data.precomputed.identity import key_of
from lcm.outputs.reference import read_reference, write_reference
from lcm.system.image_grid import save_png
from lcm.system.paths import is_regular

KEY = "lcm.evaluate"
"""The text of a PNG file that has its key."""
FOLDER = "pictures"
"""Where they are, inside --output."""
TEACHER = "teacher"
"""The name of the base model's own pictures."""


class DamagedError(ValueError):
    """A picture that was drawn cannot be read any more."""


def mark_of(path: Path) -> str | None:
    """The key in a PNG file, by its head alone; None where it is none of ours."""
    if not is_regular(path):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


@dataclass(frozen=True)
class Drawings:
    """The pictures of one subject, by name, in one number of steps.

    `rows` are the numbers of its prompts in the list of all. `key` stands for all that they follow
    from but prompt and seed. `is_paired`: from the same noise they should be the teacher's own,
    for no noise is added on the way.
    """

    subject: str
    steps: int
    prompts: tuple[str, ...]
    rows: tuple[int, ...]
    seeds: tuple[int, ...]
    folder: Path
    key: str
    is_paired: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """As it is called in one line."""
        return f"{self.subject}, {self.steps} step{'' if self.steps == 1 else 's'}"

    @property
    def pictures(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.seeds)

    @property
    def identity(self) -> str:
        """The key of them all."""
        return key_of(self.key, self.prompts, self.rows, self.seeds)

    def places(self) -> list[tuple[int, int]]:
        """The (index of the prompt here, seed) of every picture, in order."""
        return [(index, seed) for index in range(len(self.rows)) for seed in self.seeds]

    def batches(self, batch_size: int) -> list[list[tuple[int, int]]]:
        """The places of every call of the pipeline, the same whatever is there already: what is
        drawn beside a picture may change its last bits.
        """
        places = self.places()
        return [places[i : i + batch_size] for i in range(0, len(places), batch_size)]

    def path(self, index: int, seed: int) -> Path:
        """The picture of a prompt; its latents have the same name with another ending."""
        return self.folder / f"{self.rows[index] + 1:05d}-seed{seed}.png"

    def picture_key(self, index: int, seed: int) -> str:
        """The key of one picture."""
        return key_of(self.key, self.prompts[index], seed)

    # --- writing ----------------------------------------------------------------------------------

    def is_there(self, index: int, seed: int) -> bool:
        """Whether it was drawn, with these settings; the PNG file is written last."""
        path = self.path(index, seed)
        return mark_of(path) == self.picture_key(index, seed) and is_regular(
            path.with_suffix(".safetensors")
        )

    def is_others(self, index: int, seed: int) -> bool:
        """Whether another picture has its place."""
        path = self.path(index, seed)
        return path.exists() and mark_of(path) != self.picture_key(index, seed)

    def write(self, index: int, seed: int, picture: Image.Image, latents: Tensor) -> None:
        """Keeps one, whole or not at all."""
        path, key = self.path(index, seed), self.picture_key(index, seed)
        write_reference(path.with_suffix(".safetensors"), key, latents.float().cpu())
        save_png(picture, path, chunks={KEY: key})

    # --- reading ----------------------------------------------------------------------------------

    def latents(self, index: int) -> Tensor:
        """[S, C, h, w] float32 of one prompt. Raises DamagedError where they are."""
        found = []
        for seed in self.seeds:
            path = self.path(index, seed).with_suffix(".safetensors")
            one = read_reference(path, self.picture_key(index, seed))
            if one is None:
                raise DamagedError(
                    f"output: {path} is damaged; remove it, and give the command again"
                )
            found.append(one)
        return torch.stack(found)

    def all_latents(self) -> Iterator[Tensor]:
        """The latents of one prompt after the other, each as `latents` has them."""
        return map(self.latents, range(len(self)))

    def images(self, places: Sequence[tuple[int, int]]) -> list[Image.Image]:
        """Pictures by (index, seed). Raises DamagedError where one is."""
        found = []
        for index, seed in places:
            path = self.path(index, seed)
            try:
                with Image.open(path, formats=["PNG"]) as image:
                    found.append(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise DamagedError(
                    f"output: {path} is damaged ({error}); remove it, and give the command again"
                ) from error
        return found
