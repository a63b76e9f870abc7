"""What is measured on a device: time, memory, graphs, what it is. The one place that asks whether
it is a GPU; on a CPU stand-ins take the same ways, so that all of it can be rehearsed there.
"""

from __future__ import annotations

import gc
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    *("torch", "triton", "diffusers", "transformers", "peft", "accelerate"),
    *("huggingface_hub", "safetensors", "numpy"),
)
DATASHEET = {
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""Word of a card's name -> dense TFLOP/s in bfloat16 by its datasheet; the first found counts."""
GRAPH_WARM_UP = 3
"""Passes on another stream before a capture, as torch's notes on CUDA graphs ask for."""
STATE = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


def installed(package: str) -> str | None:
    """The version of a package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def datasheet_peak(name: str) -> float | None:
    """Dense TFLOP/s in bfloat16 of a card by its name; None where that is not known here, as of
    part of a card.
    """
    if "MIG" in name:
        return None
    return next((peak for word, peak in DATASHEET.items() if re.search(rf"\b{word}\b", name)), None)


def nvidia_smi(query: str) -> dict[str, str]:
    """What the driver says of the first card, by the names of the query; empty where it is not
    asked.
    """
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(query.split(","), answer.stdout.strip().split(", "), strict=False))


@dataclass(frozen=True)
class Device:
    """A GPU or the CPU, as something to measure on."""

    torch: torch.device

    @classmethod
    def find(cls) -> Device:
        """The first GPU. Raises ValueError where there is none."""
        if not torch.cuda.is_available():
            raise ValueError(
                "there is no NVIDIA GPU here that torch sees; run this on a machine with one, or "
                "try every section on the CPU with --rehearse"
            )
        return cls(torch.device("cuda", 0))

    @property
    def is_gpu(self) -> bool:
        """Whether there are streams, graphs and a memory of its own."""
        return self.torch.type == "cuda"

    def wait(self) -> None:
        """Returns once all work that was given to the device is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.torch)

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall seconds of some work, from an idle device to an idle device."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def clear(self) -> None:
        """Gives back the memory of the card that nobody holds any more."""
        if self.is_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    def memory(self, work: Callable[[], object]) -> dict[str, int]:
        """Bytes that some work has alive at most, above what was alive before; what the allocator
        took for it from the card, and the most in all. On a CPU nothing is done: counting takes
        longer than the work, which a rehearsal has made by then.
        """
        self.clear()
        if not self.is_gpu:
            return {"peak_above": 0}
        self.wait()
        allocated = torch.cuda.memory_allocated(self.torch)
        reserved = torch.cuda.memory_reserved(self.torch)
        torch.cuda.reset_peak_memory_stats(self.torch)
        work()
        self.wait()
        most = torch.cuda.max_memory_allocated(self.torch)
        most_reserved = torch.cuda.max_memory_reserved(self.torch)
        return {
            "peak_above": most - allocated,
            "reserved_above": most_reserved - reserved,
            "max_allocated": most,
            "max_reserved": most_reserved,
        }

    def capture(self, work: Callable[[], object], reset: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of some work, which reads and writes the same memory at every replay.

        `reset` is called before every pass and before the capture. On a CPU the work itself.
        """
        if not self.is_gpu:

            def again() -> None:
                reset()
                work()

            return again
        side = torch.cuda.Stream(self.torch)
        side.wait_stream(torch.cuda.current_stream(self.torch))
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP):
                reset()
                work()
        torch.cuda.current_stream(self.torch).wait_stream(side)
        self.wait()
        reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def state(self) -> dict[str, str]:
        """Clocks, temperature and power of a GPU at this moment."""
        return nvidia_smi(STATE) if self.is_gpu else {}

    def facts(self) -> dict[str, Any]:
        """What it is, and with what it is driven: the same on every run on this machine."""
        packages = {package: installed(package) for package in PACKAGES}
        facts = {"python": platform.python_version(), "packages": packages}
        if not self.is_gpu:
            return {"name": "CPU", **facts}
        properties = torch.cuda.get_device_properties(self.torch)
        return {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "datasheet_bf16_tflops": datasheet_peak(properties.name),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **nvidia_smi("driver_version,clocks.max.sm,clocks.max.mem,power.limit"),
            **facts,
        }

    def is_alive(self) -> bool:
        """Whether it still computes: after an illegal access no call of this process does."""
        try:
            self.wait()
            return bool((torch.ones(2, device=self.torch) + 1).sum().item() == 4.0)
        except RuntimeError:
            return False
