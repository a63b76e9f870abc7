"""Where and how precisely pictures are drawn."""

from __future__ import annotations

import torch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str) -> torch.device:
    """The device to draw on; "auto": a GPU where there is one. Raises ValueError for one that this
    machine does not have.
    """
    found = (
        torch.accelerator.current_accelerator()
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )
    assert found is not None
    if name == "auto":
        return found
    kind = name.partition(":")[0]
    if kind not in ("cpu", found.type):
        raise ValueError(
            f"device: this machine has no {name}; pass "
            f"cpu{'' if found.type == 'cpu' else f' or {found.type}'}, or leave it out"
        )
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """A precision by its short name; "auto": fp16 on a GPU, fp32 without."""
    return DTYPES[("fp32" if device.type == "cpu" else "fp16") if name == "auto" else name]
