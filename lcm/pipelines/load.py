"""Base models into the few-step pipelines."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch

from lcm.inference.devices import choose_device, choose_dtype
from lcm.models.base_model import load_base
from lcm.models.single_file import NOT_LOADED
from lcm.system.registry import closest

OWN = ("weight", "device")
"""Options of ours beside those of `load_base` and the parts of a pipeline."""


def load_pipeline(
    pipeline_class: Any,
    base: str | os.PathLike[str],
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> Any:
    """A few-step pipeline of a folder, a hub id or a single file, as
    `FewStepMixin.from_pretrained_with_adapter` says. Raises ValueError or OSError for what cannot
    be loaded, TypeError for an option that there is not.
    """
    if "torch_dtype" in options:  # as diffusers called it
        former = options.pop("torch_dtype")
        dtype = former if dtype is None else dtype
    chosen = torch.device("cpu") if device is None else choose_device(str(device))
    parts = inspect.signature(pipeline_class.stock_class.__init__).parameters
    own = {name: options.pop(name) for name in list(options) if name in parts}
    known = inspect.signature(load_base).parameters
    for name in options:
        if name not in known:
            raise TypeError(
                f"there is no option {name!r}.{closest(name, [*known, *parts, *OWN])} Load it with "
                f"{pipeline_class.__name__}.from_pretrained, then call its attach"
            )
    dtype = choose_dtype("auto", chosen) if dtype is None else dtype
    options["pipeline_class"] = pipeline_class.stock_class
    # all that the folder has, as from_pretrained does, but for what stands in for it
    options.setdefault("leave_out", [name for name in NOT_LOADED if name in own])
    pipe = load_base(base, dtype=dtype, **options)
    pipe.__class__ = pipeline_class
    settings = {name: own.pop(name) for name in list(own) if name not in pipe.components}
    pipe.register_modules(**own)
    pipe.register_to_config(**settings)
    return pipe if device is None else pipe.to(chosen)
