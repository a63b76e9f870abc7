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
from lcm.inference.arguments import check_arguments
from lcm.models.base_model import load_base, named_by
from lcm.models.prompts import check_clip_skip, check_text, final_norm


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
    components: dict[str, Any]

    @classmethod
    def from_pretrained_with_adapter(
        cls,
        base: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | Mapping[Any, float],
        *,
        weight: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Loads a base model, of which safetensors alone are read, and attaches an adapter, or
        several. Raises as `lcm.models.load_base` and `lcm.attach` do.
        """
        with named_by(path="base"):
            pipe: Self = load_base(base, dtype=dtype, pipeline_class=cls, leave_out=())
        attach(pipe, adapter, weight)
        return pipe

    def attach(
        self,
        adapters: str | os.PathLike[str] | Mapping[Any, float],
        weight: float = 1.0,
        **options: Any,
    ) -> Recipe:
        """`lcm.attach` on this pipeline; calls then have the recipe's steps, guidance and eta as
        their defaults.
        """
        return attach(self, adapters, weight, **options)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the attached adapter, None without one."""
        return current_recipe(self)

    def __call__(
        self,
        prompt: Any = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Any:
        """The stock call with defaults for a distilled model: those of the attached recipe, else 4
        steps without guidance.

        `seed` is one number per picture, prompts x num_images_per_prompt of them, or the first of
        numbers that count up. A seed gives the same picture whatever else is in the batch.
        `options` are the stock pipeline's other arguments. Raises TypeError for one that the stock
        pipeline does not have (it would ignore it), ValueError for seeds that do not fit.
        """
        check_arguments(self.stock_class, options, self.stock_class.__name__)
        check_text("prompt", prompt)
        check_text("negative_prompt", options.get("negative_prompt"))
        recipe = self.recipe
        defaults = recipe.call_defaults() if recipe else CallDefaults()
        if num_inference_steps is None:
            num_inference_steps = defaults.num_inference_steps
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1; got {num_inference_steps}")
        if guidance_scale is None:
            guidance_scale = defaults.guidance_scale
        if defaults.eta:
            options.setdefault("eta", defaults.eta)
        if options.setdefault("clip_skip", defaults.clip_skip) is not None:
            check_clip_skip(self, options["clip_skip"])
        if seed is not None:
            if options.get("generator") is not None:
                raise ValueError("seed and generator exclude each other; pass one of them")
            prompts = count_prompts(prompt, options.get("prompt_embeds"))
            options["generator"] = generators(
                seed, prompts * (options.get("num_images_per_prompt") or 1)
            )
        return super().__call__(  # type: ignore[misc]
            prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )

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
        self.stock_class(**self.components, **keep).save_pretrained(save_directory, **options)

    @classmethod
    def _optional_config(cls) -> tuple[str, ...]:
        return "requires_safety_checker", "force_zeros_for_empty_prompt"
