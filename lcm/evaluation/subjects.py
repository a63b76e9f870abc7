"""Whose pictures are compared: those of the base model itself, and of every adapter, each sampled
as its own recipe says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lcm.adapter.locate import Located
from lcm.adapter.names import UNET_FOLDER, style_name
from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.data.precomputed.identity import add_component, key_of
from lcm.evaluation.drawings import TEACHER
from lcm.inference import detach
from lcm.inference.generate import Settings, check_usable, prepare
from lcm.inference.schedulers import teacher_scheduler
from lcm.inference.state import attachment
from lcm.system.json_input import read_object

NOISELESS = (
    "DDIMScheduler",
    "TCDScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers that draw no noise of their own at eta 0."""


def is_paired(scheduler: str, eta: float, num_steps: int) -> bool:
    """Whether a picture follows from its seed as the teacher's does, so that the two can be
    compared one by one.

    One step draws no noise with any scheduler.
    """
    return num_steps == 1 or (scheduler in NOISELESS and eta == 0.0)


@dataclass(frozen=True)
class Subject:
    """An adapter, or the base model itself where `found` is None, under a `name` that is fit for a
    folder. `scheduler` is the one for an adapter without a recipe.
    """

    name: str
    settings: Settings
    found: Located | None = None
    weight: float = 1.0
    scheduler: str | None = None

    @property
    def source(self) -> str | None:
        """The adapter, as it was named."""
        return None if self.found is None else str(self.found.source)

    @property
    def recipe(self) -> Recipe | None:
        """How the adapter is sampled with, where it says so."""
        return None if self.found is None else self.found.recipe

    def is_paired(self, pipe: Any, steps: int) -> bool:
        """Whether its pictures can be compared with the teacher's one by one."""
        return is_paired(type(pipe.scheduler).__name__, self.settings.eta, steps)

    def key(self, pipe: Any, base: str) -> str:
        """What stands for all that its pictures follow from but steps, prompt and seed, once the
        pipeline is `sampling` with it; `base` stands for the weights of the base model.
        """
        facts = {
            **{"base": base, "adapter": digest_of(self.found), "weight": self.weight},
            **{"settings": asdict(self.settings), "dtype": str(pipe.unet.dtype)},
            "scheduler": [type(pipe.scheduler).__name__, dict(pipe.scheduler.config)],
        }
        return key_of(json.loads(json.dumps(facts, sort_keys=True, default=str)))

    @contextmanager
    def sampling(self, pipe: Any) -> Iterator[None]:
        """Inside the block the pipeline draws as the subject does. Raises ValueError for an adapter
        that does not fit.
        """
        scheduler = pipe.scheduler
        try:
            if self.found is None:
                pipe.scheduler = teacher_scheduler(scheduler.config)
            else:
                named = None if self.recipe is not None else self.scheduler
                prepare(pipe, [self.found], [self.weight], named)
            yield
        finally:
            if self.found is not None and attachment(pipe) is not None:
                detach(pipe)
            elif self.found is not None:
                pipe.unload_lora_weights()
            pipe.scheduler = scheduler


def base_digest(pipe: Any) -> str:
    """What stands for the weights of a base model."""
    digest = hashlib.sha256()
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            add_component(digest, getattr(pipe, name))
    return digest.hexdigest()


def digest_of(found: Located | None) -> str | None:
    """The SHA-256 of an adapter's files."""
    if found is None:
        return None
    digest, unet = hashlib.sha256(), Path(found.source, UNET_FOLDER)
    files = sorted(unet.iterdir()) if found.file is None else [Path(found.file.path)]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def names_of(adapters: Sequence[tuple[str, float]]) -> list[str]:
    """A name for every (path, weight), fit for a folder, no two alike."""
    found: list[str] = []
    for path, weight in adapters:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", style_name(path)).strip("-._")[:40] or "adapter"
        name = plain if weight == 1.0 else f"{plain}-{in_full(weight)}"
        taken = {TEACHER, *(each.lower() for each in found)}
        number = 2
        while name.lower() in taken:
            name, number = f"{plain}-{number}", number + 1
        found.append(name)
    return found


def in_full(weight: float) -> str:
    """A weight as short as its value allows."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)


def check_differ(adapters: Sequence[tuple[str, float]], located: Sequence[Located]) -> None:
    """Raises ValueError for an adapter that is named twice with one weight, be it by another path.
    The same adapter with several weights is compared with itself.
    """
    known: dict[Any, str] = {}
    for (path, weight), found in zip(adapters, located, strict=True):
        place = Path(found.source).resolve() if found.file is None else found.file.identity
        if (other := known.get((place, weight))) is not None:
            first = "" if other == path else f" (first as {other})"
            raise ValueError(
                f"adapter: {path} is named twice with weight {in_full(weight)}{first}; name it "
                "once, or with another weight"
            )
        known[place, weight] = path


def is_told_guidance(found: Located) -> bool:
    """Whether the adapter is a whole U-Net that takes the guidance as an input."""
    if found.file is not None:
        return False
    config = Path(found.source, UNET_FOLDER, "config.json")
    return read_object(config, "download it again").get("time_cond_proj_dim") is not None


def make_subjects(
    adapters: Sequence[tuple[str, float]],
    located: Sequence[Located],
    *,
    steps: Sequence[int],
    scheduler: str | None,
    guidance_scale: float | None,
    size: tuple[int | None, int | None],
) -> list[Subject]:
    """The teacher, and every adapter with the settings of its own recipe. The teacher has the
    `guidance_scale` asked for, else the one that the first adapter with a recipe was trained with.

    Raises ValueError for an adapter that does not say how it is sampled, lacks the steps or is
    named twice, and for adapters of several resolutions without a size (height, width).
    """
    check_differ(adapters, located)
    for found in located:
        check_usable([found], None if found.recipe is not None else scheduler, steps)
    recipes = [recipe for found in located if (recipe := found.recipe) is not None]
    sides = {recipe.resolution for recipe in recipes}
    if len(sides) > 1 and None in size:
        raise ValueError(
            f"adapter: these were trained at {', '.join(map(str, sorted(sides)))} pixels; say at "
            "which they are compared with --height and --width"
        )
    side = next(iter(sides), None)
    height, width = (given or side for given in size)
    subjects = []
    for (_, weight), found, name in zip(adapters, located, names_of(adapters), strict=True):
        recipe = found.recipe
        defaults = recipe.call_defaults() if recipe else CallDefaults()
        settings = Settings(
            guidance_scale=defaults.guidance_scale,
            eta=defaults.eta,
            clip_skip=defaults.clip_skip or None,
            prompt_chunks=recipe.prompt_chunks if recipe else 1,
            height=height,
            width=width,
        )
        subjects.append(Subject(name, settings, found, weight, scheduler))
    return [teacher_of(subjects, guidance_scale), *subjects]


def teacher_of(subjects: Sequence[Subject], guidance_scale: float | None) -> Subject:
    """The teacher, which reads prompts and draws as large as the first of the adapters."""
    leading = next((each for each in subjects if each.recipe is not None), subjects[0])
    if guidance_scale is None:
        recipe, found = leading.recipe, leading.found
        assert found is not None  # an adapter
        guidance_scale = (
            7.5 if recipe is None else recipe.teacher_guidance(told=is_told_guidance(found))
        )
    settings = replace(leading.settings, guidance_scale=guidance_scale, eta=0.0)
    return Subject(TEACHER, settings)
