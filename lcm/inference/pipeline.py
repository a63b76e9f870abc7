"""What the functions of this package ask of a pipeline."""

from __future__ import annotations

from typing import Any, Protocol

from lcm.system.text import plain


class Pipeline(Protocol):
    """A pipeline of diffusers with a U-Net.

    To type checkers the classes of diffusers are stand-ins without any of their attributes; what
    they do show is how they are loaded. The rest is looked at when it is used.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads one."""


def check_pipeline(pipe: object) -> Any:
    """The pipeline. Raises ValueError for what is none, or has no U-Net."""
    if isinstance(pipe, type) or not hasattr(pipe, "register_modules"):
        shown = f"the class {pipe.__name__}" if isinstance(pipe, type) else repr(pipe)
        raise ValueError(
            "pass a pipeline of diffusers, as StableDiffusionPipeline.from_pretrained makes one; "
            f"got {plain(shown, 100)}"
        )
    for name in ("unet", "scheduler"):
        if getattr(pipe, name, None) is None:
            raise ValueError(
                f"this {type(pipe).__name__} has no {name}; pass a pipeline of Stable Diffusion "
                "1.x, 2.x or SDXL"
            )
    return pipe
