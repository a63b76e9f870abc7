"""How much memory a piece of torch code takes, and how much there is."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]


def storage_key(tensor: Tensor) -> int:
    """The same for tensors that share memory."""
    key: int = tensor.untyped_storage()._cdata
    return key


def memory_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that tensors lie in, shared memory once."""
    return sum(
        {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values()
    )


class LiveMemory(TorchDispatchMode):
    """The most bytes that were alive at once of the tensors made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        older = {storage_key(tensor) for tensor in tensors_in((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        for tensor in tensors_in(results):
            key = storage_key(tensor)
            if key not in older and key not in self._known:
                self._add(tensor.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


@contextmanager
def counting(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that says the most bytes that were alive on `device` since it was last
    asked, beyond those at the entry.

    On a GPU that is what the allocator has given out; elsewhere the memory of tensors is counted,
    without what kernels use inside.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

        def most() -> int:
            peak = torch.cuda.max_memory_allocated(device) - before
            torch.cuda.reset_peak_memory_stats(device)
            return peak

        yield most
        return
    with LiveMemory() as memory:

        def most_counted() -> int:
            peak, memory.peak = memory.peak, memory.alive
            return peak

        yield most_counted


def held_on(device: torch.device, parts: Mapping[str, Iterable[Tensor]]) -> dict[str, int]:
    """Bytes of every part; on a GPU also what else is allocated there."""
    held = {name: memory_of(tensors) for name, tensors in parts.items()}
    if device.type == "cuda":
        held["other"] = max(0, torch.cuda.memory_allocated(device) - sum(held.values()))
    return held


def total_memory(device: torch.device) -> int:
    """Bytes of the device that this process has or can get."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return free_at_first()


@functools.cache
def free_at_first() -> int:
    """Bytes of main memory that this process had or could get when it first asked, less what
    libraries need beside tensors: where it runs out there, no error is raised, but some process is
    killed.
    """
    return int(
        BESIDE_LIBRARIES * (psutil.virtual_memory().available + psutil.Process().memory_info().rss)
    )


BESIDE_LIBRARIES = 0.75
"""Share of main memory that tensors may take."""

NO_MEMORY = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""What allocators without an exception of their own say: of CPUs, of NVIDIA's libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory ran out, on a GPU or not."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def peak_gib() -> float:
    """The most memory that was in use so far, in GiB: of the GPU where there is one, else of this
    process.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_of_process() / 2**30


def peak_of_process() -> int:
    """The most bytes of main memory that this process had so far."""
    if sys.platform == "win32":
        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    import resource  # which Windows has not

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_memory() -> str:
    """The peak memory of a run, in words."""
    return (
        f"{peak_gib():.2f} GiB {'on the GPU' if torch.cuda.is_available() else 'of this process'}"
    )
