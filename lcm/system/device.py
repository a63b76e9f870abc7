"""What differs between kinds of devices besides computing: the one place that speaks to torch.cuda,
torch.mps and their likes. A kind that torch has but this does not name is asked as cuda is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

CPU = torch.device("cpu")
IN_MAIN_MEMORY = ("cpu", "meta", "mps")
"""Kinds without a memory of their own: an Apple GPU computes in that of the processor."""


def found() -> torch.device:
    """The GPU, or other accelerator, of this machine; the CPU where there is none."""
    if not torch.accelerator.is_available():
        return CPU
    return torch.accelerator.current_accelerator() or CPU


def backend(device: torch.device) -> Any:
    """The module of torch for this kind of device; None for the CPU, and for tensors without
    values.
    """
    return None if device.type in ("cpu", "meta") else torch.get_device_module(device)


def ask(device: torch.device, name: str) -> Any:
    """What that module's function `name` says of this device; None where there is no such. Of mps
    there is one alone, which its functions are not told.
    """
    function = getattr(backend(device), name, None)
    if function is None:
        return None
    return function() if device.type == "mps" else function(device)


def synchronize(device: torch.device) -> None:
    """Waits until all is computed that was asked of the device."""
    ask(device, "synchronize")


def empty_cache(device: torch.device) -> None:
    """Gives memory that no tensor has back to the driver."""
    if (module := backend(device)) is not None:
        module.empty_cache()


def has_own_memory(device: torch.device) -> bool:
    """Whether what leaves the device for main memory makes room."""
    return device.type not in IN_MAIN_MEMORY


def counts_peaks(device: torch.device) -> bool:
    """Whether the device's allocator knows the most that it has given out."""
    return hasattr(backend(device), "max_memory_allocated")


def allocated(device: torch.device) -> int | None:
    """Bytes of all tensors there; None where no allocator counts them."""
    name = "current_allocated_memory" if device.type == "mps" else "memory_allocated"
    return ask(device, name)


def peak(device: torch.device) -> int | None:
    """The most bytes that were given out since `forget_peak`; None where no allocator counts."""
    # Metal's keeps what was freed until the cache is emptied: what it has is the most it had
    name = "driver_allocated_memory" if device.type == "mps" else "max_memory_allocated"
    return ask(device, name)


def forget_peak(device: torch.device) -> None:
    """From here on `peak` counts anew, where there is one."""
    ask(device, "reset_peak_memory_stats")


def room(device: torch.device) -> int | None:
    """Bytes of the device's memory that this process has or can get; None where it is main memory,
    of which Metal may take a part that `largest_share` says.
    """
    if not has_own_memory(device):
        return None
    free = None
    with suppress(RuntimeError):  # some of Intel's do not say
        free = ask(device, "mem_get_info")
    if free is None:  # as xpu of torch 2.6
        return int(backend(device).get_device_properties(device).total_memory)
    return int(free[0] + ask(device, "memory_reserved"))


def largest_share(device: torch.device) -> int | None:
    """Bytes of main memory that the device should take at most; None where nobody says."""
    return ask(device, "recommended_max_memory")


def name_of(device: torch.device) -> str:
    """The model of the device, such as "NVIDIA H100", else its kind."""
    return str(ask(device, "get_device_name") or device.type)


def half_precision(device: torch.device) -> str:
    """The --mixed_precision that every device of this kind computes in: not every NVIDIA card has
    bf16, and Apple's GPUs have it from macOS 14 on.
    """
    old_macos = device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0)
    return "fp16" if device.type == "cuda" or old_macos else "bf16"


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Random numbers drawn inside the block, on the CPU or the device, are not missing outside."""
    if backend(device) is None:
        with torch.random.fork_rng(devices=[]):
            yield
        return
    with torch.random.fork_rng(devices=[device], device_type=device.type):
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """float32 is float32 inside the block, to compare what must be the same: NVIDIA's convolutions
    otherwise keep 10 bits of what they multiply, which torch allows unasked, and make of a last bit
    a thousandth.
    """
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    former = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, is_allowed in zip(switches, former, strict=True):
            switch.allow_tf32 = is_allowed
