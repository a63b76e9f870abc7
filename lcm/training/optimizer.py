"""AdamW, with its moments in float32 or, by bitsandbytes, in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from lcm.config.sections import OptimizerConfig

BLOCK = 4096
"""Numbers of a parameter from which on bitsandbytes keeps its moments in 8 bits."""
BESIDE_RATE = 1e-2
"""The learning rate of what the loss learns for itself, a few numbers of size one, whatever the
network's own is.
"""


def adamw_8bit() -> Any:
    """AdamW of bitsandbytes, which is imported only here, where it was asked for."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit


def check_8bit(device: torch.device) -> None:
    """Makes one update of a tensor of zeros. Raises ValueError where there is no 8-bit optimizer
    for `device`.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            'use_8bit_adam: bitsandbytes is not installed; pip install -e ".[8bit]", or leave '
            "--use_8bit_adam out"
        )
    parameter = nn.Parameter(torch.zeros(BLOCK, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = adamw_8bit()([parameter])
        optimizer.step()
        works = optimizer.state[parameter]["state1"].dtype == torch.uint8
    except Exception as error:  # what it raises depends on which part of it is missing
        raise no_8bit(device, str(error) or type(error).__name__) from error
    if not works:
        raise no_8bit(device, "its moments are not kept in 8 bits")


def no_8bit(device: torch.device, reason: str) -> ValueError:
    first = reason.strip().splitlines()[0]
    return ValueError(
        f"use_8bit_adam: the installed bitsandbytes has no 8-bit optimizer for {device.type} "
        f"({first}); install a version that has one, or leave --use_8bit_adam out"
    )


def make_optimizer(
    config: OptimizerConfig,
    parameters: list[nn.Parameter],
    beside: Sequence[nn.Parameter] = (),
    *,
    fused: bool,
) -> torch.optim.Optimizer:
    """AdamW on these parameters, and with a rate of their own on those that the loss learns
    `beside` them. `fused`: one kernel for all tensors, which bitsandbytes does not have; else
    torch's choice, on a GPU some kernels for all of them.
    """
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if beside:
        groups.append({"params": list(beside), "lr": BESIDE_RATE, "weight_decay": 0.0})
    options: dict[str, Any] = {
        "lr": config.rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.use_8bit_adam:
        optimizer: torch.optim.Optimizer = adamw_8bit()(groups, **options)
        return optimizer
    # told False, torch would loop over the tensors, a dozen kernels each
    return torch.optim.AdamW(groups, **options, fused=fused or None)
