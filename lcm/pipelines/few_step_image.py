"""What the pipelines that begin with a picture add: exactly the steps asked for, and pictures that
belong to their prompts.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lcm.inference.grid import check_strength, knows_strength
from lcm.pipelines.few_step import FewStepMixin, count_prompts


def for_every_image(name: str, pictures: Any, prompts: int, per_prompt: int) -> Any:
    """One picture for each of prompts x per_prompt images, in the order of the prompts: a, a, b, b.

    `pictures` is one (PIL, array or tensor [C, H, W]) or one per prompt (list, or array or tensor
    [B, C, H, W]). Raises ValueError when there are neither one nor as many as prompts.
    """
    is_batch = isinstance(pictures, list | tuple) or getattr(pictures, "ndim", 0) == 4
    count = len(pictures) if is_batch else 1
    if count not in (1, prompts):
        raise ValueError(
            f"{name}: {count} pictures for {prompts} prompts; pass one, or one for each prompt"
        )
    if prompts * per_prompt == count:
        return pictures
    chosen = [i // per_prompt if count > 1 else 0 for i in range(prompts * per_prompt)]
    if isinstance(pictures, list | tuple) or not is_batch:
        return [pictures[i] if is_batch else pictures for i in chosen]
    return pictures[chosen]


class FewStepImageMixin(FewStepMixin):
    """`num_inference_steps` are the steps made, whatever the strength: the noise begins at
    `strength` of the way and the steps are spread below it
    (`LCMScheduler.set_timesteps(strength=)`). Stock pipelines make the part `strength` of them,
    none of 4 steps at 0.2, and begin at the nearest of those steps.

    Adapters that sample with `DDIMScheduler` are trained for fixed steps, of which they make the
    lower part, as stock ones do.
    """

    has_own_timesteps = False
    pictures: ClassVar[tuple[str, ...]] = ("image",)

    def __call__(self, prompt: Any = None, *positional: Any, **options: Any) -> Any:
        """Calls as `FewStepMixin.__call__` does. `image`, and `mask_image` where there is one, are
        one picture or one per prompt. Raises ValueError where one is missing.
        """
        options |= self._by_name(positional, options)
        prompts = count_prompts(prompt, options.get("prompt_embeds"))
        per_prompt = options.get("num_images_per_prompt") or 1
        for name in self.pictures:
            if options.get(name) is None:
                raise ValueError(f"{name} is missing; pass one picture, or one for each prompt")
            options[name] = for_every_image(name, options[name], prompts, per_prompt)
        self.has_own_timesteps = (
            options.get("timesteps") is not None or options.get("sigmas") is not None
        )
        return super().__call__(prompt, **options)

    def get_timesteps(
        self,
        num_inference_steps: int,
        strength: float,
        device: torch.device,
        denoising_start: float | None = None,
    ) -> tuple[torch.Tensor, int]:
        """The descending timesteps [steps] int64 of this call, and how many they are. Raises
        ValueError where the adapter's grid has fewer below `strength`.
        """
        if (
            self.has_own_timesteps
            or denoising_start is not None
            or not knows_strength(self.scheduler)
        ):
            given = {} if denoising_start is None else {"denoising_start": denoising_start}
            return super().get_timesteps(num_inference_steps, strength, device, **given)  # type: ignore[misc]
        check_strength(self.scheduler, num_inference_steps, strength)
        self.scheduler.set_timesteps(num_inference_steps, device=device, strength=strength)
        self.scheduler.set_begin_index(0)
        return self.scheduler.timesteps, num_inference_steps
