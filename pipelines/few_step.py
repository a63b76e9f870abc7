"""What the few-step pipelines share: an adapter, few steps by default, no guidance by default."""

from __future__ import annotations

import inspect
import os
from typing import Any, ClassVar, Self

import torch

import lcm
from lcm.registry import closest


class FewStepMixin:
    """Goes before a stock text-to-image pipeline class; loading, encoding, offloading and denoising stay the stock ones."""

    stock_class: ClassVar[Any]
    components: dict[str, Any]

    @classmethod
    def from_pretrained_with_adapter(
        cls,
        base: str | os.PathLike[str],
        adapter: str | os.PathLike[str],
        *,
        weight: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Loads a base model and attaches an adapter. Raises as `lcm.attach` does."""
        pipe: Self = cls.from_pretrained(base, dtype=dtype)  # type: ignore[attr-defined]
        pipe.attach(adapter, weight)
        return pipe

    def attach(self, path: str | os.PathLike[str], weight: float = 1.0) -> lcm.Recipe:
        """`lcm.attach` on this pipeline; calls then have the recipe's steps, guidance and eta as their defaults."""
        self.recipe: lcm.Recipe = lcm.attach(self, path, weight)
        return self.recipe

    def __call__(
        self, prompt: Any = None, *, num_inference_steps: int | None = None, guidance_scale: float | None = None, **options: Any
    ) -> Any:
        """The stock call with defaults for a distilled model: those of the attached recipe, else 4 steps without guidance.

        `options` are the stock pipeline's other arguments. Raises TypeError for one that the stock pipeline does not have (it
        would ignore it).
        """
        accepted = inspect.signature(self.stock_class.__call__).parameters
        for name in options.keys() - accepted.keys():
            raise TypeError(f"{self.stock_class.__name__} has no argument {name!r}.{closest(name, accepted)}")
        recipe: lcm.Recipe | None = getattr(self, "recipe", None)
        if num_inference_steps is None:
            num_inference_steps = recipe.usual_steps if recipe else 4
        if guidance_scale is None:
            guidance_scale = recipe.guidance_scale if recipe else 1.0
        if recipe is not None and recipe.eta:
            options.setdefault("eta", recipe.eta)
        return super().__call__(  # type: ignore[misc]
            prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, **options
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Saves as the stock class, which everybody can load.

        Raises ValueError while adapters are attached: their layers would not be found again.
        """
        if any(self.get_list_adapters().values()):  # type: ignore[attr-defined]
            raise ValueError("adapters are attached; call fuse_lora() and unload_lora_weights() first, or only the latter")
        keep = {name: value for name, value in self.config.items() if name in self._optional_config()}  # type: ignore[attr-defined]
        self.stock_class(**self.components, **keep).save_pretrained(save_directory, **options)

    @classmethod
    def _optional_config(cls) -> tuple[str, ...]:
        return "requires_safety_checker", "force_zeros_for_empty_prompt"
