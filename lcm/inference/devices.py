"""Where and how precisely pictures are drawn."""

from __future__ import annotations

import torch

from lcm.system.device import found

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str) -> torch.device:
    """The device to draw on; "auto": a GPU where there is one. Raises ValueError for one that this
    machine does not have.
    """
    here = found()
    if name == "auto":
        return here
    kind = name.partition(":")[0]
    if kind not in ("cpu", here.type):
        raise ValueError(
            f"device: this machine has no {name}; pass "
            f"cpu{'' if here.type == 'cpu' else f' or {here.type}'}, or leave it out"
        )
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """A precision by its short name; "auto": fp16 on a GPU, fp32 without."""
    return DTYPES[("fp32" if device.type == "cpu" else "fp16") if name == "auto" else name]
