"""A base model with adapters, of which any mixture can be put on: the same networks for text and
for pictures to begin with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline

from lcm.adapter.locate import Located
from lcm.adapter.names import style_name
from lcm.adapter.recipe import Recipe
from lcm.inference import attach, detach, fitting_scheduler
from lcm.inference.arguments import own_sides
from lcm.inference.judge import judge
from lcm.inference.load import load
from lcm.inference.state import PipelineState, attachment
from lcm.pipelines import (
    FewStepStableDiffusionImg2ImgPipeline,
    FewStepStableDiffusionXLImg2ImgPipeline,
)
from lcm.system.text import plain

MOST_ADAPTERS = 16
"""Each costs memory, and the page a slider."""


@dataclass(frozen=True)
class Look:
    """What draws: the few-step adapter `lead`, None for the teacher, and the weights by name of all
    adapters that have one, the lead among them.
    """

    lead: str | None = None
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> str:
        """The adapters as `lcm generate` writes them into pictures."""
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights)


@dataclass(frozen=True)
class Loaded:
    """An adapter that is there to be put on, `weight` strong to begin with; one without a recipe is
    a style.
    """

    name: str
    source: str
    recipe: Recipe | None
    weight: float


def image_pipeline(stock: Any) -> Any:
    """The few-step pipeline from pictures that shares the networks of one from text."""
    is_xl = isinstance(stock, StableDiffusionXLPipeline)
    kind = (
        FewStepStableDiffusionXLImg2ImgPipeline if is_xl else FewStepStableDiffusionImg2ImgPipeline
    )
    pipe = kind.from_pipe(stock)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stand_in(pipe: Any, scheduler: str) -> Recipe:
    """A recipe for a few-step adapter that carries none and is played with this scheduler."""
    recipe = Recipe.lcm_lora(pipe)
    config = recipe.scheduler_config if scheduler == recipe.scheduler else {}
    return replace(recipe, scheduler=scheduler, scheduler_config=config)


class Stage:
    """The pipelines `text` and `image` of one base model, and its `adapters` by name. One thread
    changes it, while nothing is drawn.
    """

    def __init__(self, pipe: Any, base: str) -> None:
        self.text, self.image, self.base = pipe, image_pipeline(pipe), base
        self.adapters: dict[str, Loaded] = {}
        self.look: Look | None = Look()
        self.own_scheduler = pipe.scheduler
        self._files: dict[str, Any] = {}

    @property
    def side(self) -> tuple[int, int]:
        """Height and width in pixels: what the first few-step adapter was trained at, else what the
        base draws at.
        """
        recipes = [loaded.recipe for loaded in self.adapters.values() if loaded.recipe]
        return (recipes[0].resolution,) * 2 if recipes else own_sides(self.text)

    def check(self, at: Located, scheduler: str | None = None) -> Recipe | None:
        """What an adapter would be played with, None for a style; `scheduler` is for one without a
        recipe. Raises ValueError, with the way on, for one that could not be attached.
        """
        if at.file is None:
            raise ValueError(
                f"{at.source} holds a whole U-Net, and the playground mixes adapters; lcm generate "
                "draws with it"
            )
        judge(self.text, at.file)
        recipe = at.recipe
        if recipe is None and scheduler is not None:
            recipe = stand_in(self.text, scheduler)
        if recipe is not None:
            fitting_scheduler(self.text, recipe, self.own_scheduler.config, at.source)
        if len(self.adapters) >= MOST_ADAPTERS:
            raise ValueError(
                f"{MOST_ADAPTERS} adapters are there already; remove one of them first"
            )
        if at.file.identity in self._files.values():
            raise ValueError(f"{at.source} is attached already")
        return recipe

    def add(self, at: Located, weight: float = 1.0, scheduler: str | None = None) -> Loaded:
        """Loads an adapter. `scheduler` is what one without a recipe is played with; None makes it
        a style. Raises ValueError for one that does not fit; nothing has changed then.
        """
        recipe = self.check(at, scheduler)
        assert at.file is not None  # `check` has refused the others
        name = self._free_name(style_name(at.source))
        self.look = None  # loading makes the new one active
        if self.adapters:
            self.text.enable_lora()
        if recipe is None:
            before = PipelineState.of(self.text)
            try:
                load(self.text, at.file, name)
            except BaseException:
                before.restore(self.text, {name})
                raise
        else:
            others = dict.fromkeys(self.adapters, 0.0)
            attach(self.text, {at: 1.0, **others}, adapter_name=name, recipe=recipe)
        self._files[name] = at.file.identity
        loaded = Loaded(name, plain(Path(at.source).name), recipe, weight)
        self.adapters = {**self.adapters, name: loaded}  # other threads read the one before
        return loaded

    def remove(self, name: str) -> None:
        """Takes an adapter out, and with the last one all that the first had changed. Raises
        ValueError for one that is not there.
        """
        self._check_known(name)
        self.look = None
        self.text.enable_lora()  # layers stay as they are, and what is loaded next is to be on
        self.text.delete_adapters(name)
        self.adapters = {n: loaded for n, loaded in self.adapters.items() if n != name}
        del self._files[name]
        few = [n for n, loaded in self.adapters.items() if loaded.recipe is not None]
        if few:  # the recipe that the pipeline minds may be that of the one that is gone
            attach(self.text, {n: float(n == few[0]) for n in self.adapters})
        elif attachment(self.text) is not None:
            detach(self.text)
        if not self.adapters:
            self.text.unload_lora_weights()

    def _check_known(self, name: str) -> None:
        if name not in self.adapters:
            raise ValueError(f"there is no adapter {plain(name, 60)!r} here; reload the page")

    def _free_name(self, wanted: str) -> str:
        """A name that no adapter has, of characters that names of modules may have."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted)[:40].strip("_") or "adapter"
        names = [stem, *(f"{stem}_{number}" for number in range(2, MOST_ADAPTERS + 2))]
        return next(name for name in names if name not in self.adapters)

    def put(self, look: Look) -> None:
        """Switches adapters on and off, and sets the scheduler. Raises ValueError for a mixture
        that there is not.
        """
        if look == self.look:
            return
        for name in (*dict(look.weights), *([look.lead] if look.lead is not None else [])):
            self._check_known(name)
        self.look, weights = None, dict(look.weights)
        if self.adapters:
            self.text.enable_lora()  # what is switched off cannot be attached
            if look.lead is not None:
                attach(self.text, {name: weights.get(name, 0.0) for name in self.adapters})
            if weights:
                self.text.set_adapters(list(weights), list(weights.values()))
            else:
                self.text.disable_lora()
        if look.lead is None:
            self.text.scheduler = self.own_scheduler
        self.image.scheduler = self.text.scheduler
        self.look = look
