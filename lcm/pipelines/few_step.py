"""What the few-step pipelines share: an adapter, its steps and guidance by default, one seed per
picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import torch

from lcm.adapter.recipe import CallDefaults, Recipe
from lcm.inference import attach, current_recipe
from lcm.inference.arguments import accepted, both_sides, check_arguments
from lcm.inference.grid import check_steps
from lcm.libraries.transformers import save_for_all
from lcm.models.prompts import check_clip_skip, check_text, final_norm
from lcm.pipelines.load import load_pipeline


def count_prompts(prompt: Any, prompt_embeds: Any) -> int:
    if prompt is None:
        return 1 if prompt_embeds is None else len(prompt_embeds)
    return 1 if isinstance(prompt, str) else len(prompt)


def generators(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    """One generator per picture, on the CPU so that every device draws the same noise. An int
    counts up: seed, seed + 1, ...

    Raises ValueError when there is not one seed per picture.
    """
    if not isinstance(seed, Integral | Iterable) or isinstance(seed, str):
        raise ValueError(
            f"seed must be an integer, or a list of one for each picture; got {seed!r}"
        )
    seeds = [int(seed) + i for i in range(count)] if isinstance(seed, Integral) else list(seed)
    if len(seeds) != count:
        raise ValueError(
            f"seed has {len(seeds)} numbers for {count} pictures (prompts x "
            "num_images_per_prompt); pass one for each, or an int"
        )
    return [torch.Generator().manual_seed(int(number)) for number in seeds]


class FewStepMixin:
    """Goes before a stock pipeline class; loading, encoding, offloading and denoising stay the
    stock ones.
    """

    stock_class: ClassVar[Any]
    scheduler: Any
    components: dict[str, Any]

    @classmethod
    def from_pretrained_with_adapter(
        cls,
        base: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | Mapping[Any, float],
        *,
        weight: float = 1.0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """Loads a base model, a diffusers folder, a hub id or a .safetensors file in the original
        layout, and attaches an adapter, or several.

        `device` is where the pipeline is moved to, "auto" a GPU where there is one; without it the
        pipeline stays where `from_pretrained` loads it. `dtype` is float16 on a GPU and float32
        elsewhere unless it is said. `options` are `variant` and `revision`, of a file
        `base_config`, and parts of the pipeline, such as `vae`, which stand in for its own. Only
        safetensors are read. Raises ValueError or OSError for what cannot be
        loaded, and as `lcm.attach` does.
        """
        pipe = load_pipeline(cls, base, device, dtype, options)
        attach(pipe, adapter, weight)
        loaded: Self = pipe
        return loaded

    def attach(
        self,
        adapters: str | os.PathLike[str] | Mapping[Any, float],
        weight: float = 1.0,
        **options: Any,
    ) -> Recipe:
        """`lcm.attach` on this pipeline; calls then have the recipe's steps, guidance and eta as
        their defaults.
        """
        pipe: Any = self
        return attach(pipe, adapters, weight, **options)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the attached adapter, None without one."""
        return current_recipe(self)

    def __call__(
        self,
        prompt: Any = None,
        *positional: Any,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Any:
        """The stock call with defaults for a distilled model: those of the attached recipe, else 4
        steps without guidance. Of height and width one may be said alone.

        `seed` is one number per picture, prompts x num_images_per_prompt of them, or the first of
        numbers that count up. A seed gives the same picture whatever else is in the batch.
        `positional` and `options` are the stock pipeline's other arguments, in its order. Raises
        TypeError for one that the stock pipeline does not have (it would ignore it), ValueError for
        seeds that do not fit.
        """
        said = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        options |= {name: value for name, value in said.items() if value is not None}
        options |= self._by_name(positional, options)
        check_arguments(self.stock_class, options, self.stock_class.__name__)
        check_text("prompt", prompt)
        check_text("negative_prompt", options.get("negative_prompt"))
        recipe = self.recipe
        for name, value in vars(recipe.call_defaults() if recipe else CallDefaults()).items():
            if name in accepted(self.stock_class) and options.get(name) is None:
                options[name] = value
        if options.get("clip_skip") is not None:
            check_clip_skip(self, options["clip_skip"])
        check_steps(self.scheduler, options["num_inference_steps"], recipe)
        options |= both_sides(self, options.get("height"), options.get("width"))
        if seed is not None:
            if options.get("generator") is not None:
                raise ValueError("seed and generator exclude each other; pass one of them")
            prompts = count_prompts(prompt, options.get("prompt_embeds"))
            options["generator"] = generators(
                seed, prompts * (options.get("num_images_per_prompt") or 1)
            )
        return super().__call__(prompt, **options)  # type: ignore[misc]

    def _by_name(self, positional: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments after the prompt by the names that the stock call has for them. Raises
        TypeError for too many, and for one that is said twice.
        """
        names = list(accepted(self.stock_class))[1:]
        if len(positional) > len(names):
            raise TypeError(
                f"{self.stock_class.__name__} takes {len(names) + 1} arguments by position, got "
                f"{len(positional) + 1}"
            )
        found = dict(zip(names, positional, strict=False))
        for name in found.keys() & options.keys():
            raise TypeError(f"{name} is given twice, by position and by name")
        return found

    def encode_prompt(self, *args: Any, **options: Any) -> Any:
        """The stock method, in which `clip_skip` works with any version of transformers."""
        with final_norm(self):
            return super().encode_prompt(*args, **options)  # type: ignore[misc]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Saves as the stock class, which everybody can load.

        Raises ValueError while adapters are attached: their layers would not be found again.
        """
        if any(self.get_list_adapters().values()):  # type: ignore[attr-defined]
            raise ValueError(
                "adapters are attached; call lcm.detach(pipe) first, or, to keep them in the "
                "weights, fuse_lora() and unload_lora_weights()"
            )
        config: dict[str, Any] = self.config  # type: ignore[attr-defined]
        keep = {name: value for name, value in config.items() if name in self._optional_config()}
        save_for_all(self.stock_class(**self.components, **keep), save_directory, **options)

    @classmethod
    def _optional_config(cls) -> tuple[str, ...]:
        return "requires_safety_checker", "force_zeros_for_empty_prompt"
