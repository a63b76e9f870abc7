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

from lcm.system.device import allocated, counts_peaks, forget_peak, largest_share, peak, room


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of lists, tuples and dictionaries, which are all that operations take and give.
    It is asked twice in every one, and torch's walk through any tree takes twice its time.
    """
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for part in tree for tensor in tensors_in(part)]


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
    """The most bytes that were alive at once of the tensors made while it is entered; with
    `device_type` of those there alone, such as cpu and not meta, where tensors take none.
    """

    def __init__(self, device_type: str | None = None) -> None:
        super().__init__()
        self.device_type = device_type
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        older = {storage_key(tensor) for tensor in tensors_in((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        for tensor in tensors_in(results):
            if self.device_type not in (None, tensor.device.type):
                continue
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

    That is what the allocator of a GPU has given out; on the CPU, and on Apple's GPUs, whose
    allocator knows no peaks, the memory of tensors is counted, without what kernels use inside.
    """
    if counts_peaks(device):
        before = allocated(device) or 0
        forget_peak(device)

        def most() -> int:
            found = (peak(device) or 0) - before
            forget_peak(device)
            return found

        yield most
        return
    with LiveMemory(device.type) as memory:

        def most_counted() -> int:
            found, memory.peak = memory.peak, memory.alive
            return found

        yield most_counted


def held_on(device: torch.device, parts: Mapping[str, Iterable[Tensor]]) -> dict[str, int]:
    """Bytes of every part; on a GPU also what else is allocated there."""
    held = {name: memory_of(tensors) for name, tensors in parts.items()}
    if (total := allocated(device)) is not None:
        held["other"] = max(0, total - sum(held.values()))
    return held


def total_memory(device: torch.device) -> int:
    """Bytes of the device that this process has or can get."""
    if (own := room(device)) is not None:
        return own
    share = largest_share(device)
    return free_at_first() if share is None else min(share, free_at_first())


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

NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "Invalid buffer size"),
    *("STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "out of memory"),
)
"""What allocators without an exception of their own say: of CPUs, of NVIDIA's driver and libraries,
of Metal.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory ran out, on a GPU or not."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def peak_gib(device: torch.device) -> float:
    """The most memory that was in use so far, in GiB: of the device where that is a GPU, else of
    this process.
    """
    found = peak(device)
    return (peak_of_process() if found is None else found) / 2**30


def peak_of_process() -> int:
    """The most bytes of main memory that this process had so far."""
    if sys.platform == "win32":
        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    import resource  # which Windows has not

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
