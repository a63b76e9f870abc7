"""Base models: loading, conditioning, the networks in their three roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcm.models.base_model import load_base

__all__ = ["load_base"]


def __getattr__(name: str) -> Any:
    if name == "load_base":  # loads diffusers, which most of these modules do without
        from lcm.models.base_model import load_base

        return load_base
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
