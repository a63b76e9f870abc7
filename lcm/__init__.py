"""Few-step distillation of Stable Diffusion: train LCM-LoRAs, attach them anywhere, generate in 1 to 8 steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcm.playback import attach, read_recipe
    from lcm.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "attach", "read_recipe"]


def __getattr__(name: str) -> Any:
    # on demand, so that `import lcm.schedule` needs torch alone
    if name in ("attach", "read_recipe"):
        from lcm import playback

        return getattr(playback, name)
    if name == "Recipe":
        from lcm.recipe import Recipe

        return Recipe
    raise AttributeError(f"module 'lcm' has no attribute {name!r}")
