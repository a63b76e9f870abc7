"""Few-step distillation of Stable Diffusion: train LCM-LoRAs, attach them anywhere, generate in 1
to 8 steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcm.system.version import VERSION

if TYPE_CHECKING:
    from lcm.adapter.recipe import Recipe
    from lcm.inference import attach, detach, read_recipe
    from lcm.inference.serving import Engine, Request, serve

__version__ = VERSION
__all__ = ["Engine", "Recipe", "Request", "__version__", "attach", "detach", "read_recipe", "serve"]


def __getattr__(name: str) -> Any:
    # on demand, so that `import lcm.diffusion.schedule` needs torch alone
    if name in ("attach", "detach", "read_recipe"):
        from lcm import inference

        return getattr(inference, name)
    if name == "Recipe":
        from lcm.adapter.recipe import Recipe

        return Recipe
    if name in ("Engine", "Request", "serve"):
        from lcm.inference import serving

        return getattr(serving, name)
    raise AttributeError(f"module 'lcm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
