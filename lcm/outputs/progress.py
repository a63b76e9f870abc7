"""What a run shows while it trains: a bar, and a line of numbers per logging interval in
metrics.jsonl and the trackers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from lcm.outputs.metrics import MetricsLog
from lcm.outputs.trackers import log_numbers
from lcm.system.memory import peak_gib
from lcm.system.transfers import fetched

QUARTERS = 4


class Window:
    """The losses since the last line, summed by the quarter of the timesteps that they were taken
    at, on the device of the run: nothing waits for it between lines.
    """

    def __init__(self, num_train_timesteps: int, device: torch.device) -> None:
        self.num_train_timesteps = num_train_timesteps
        edges = [-(-i * num_train_timesteps // QUARTERS) for i in range(QUARTERS + 1)]
        self.names = [f"loss_t_{low:03d}_{high - 1:03d}" for low, high in pairwise(edges)]
        self._quarters = torch.arange(QUARTERS, device=device)[:, None]
        self._sums = torch.zeros(2, QUARTERS, device=device)  # of losses, of samples

    def add(self, loss: Tensor, t: Tensor) -> None:
        """The losses [n] of the samples of an update and their times [n], 0 to num_train_timesteps
        - 1.
        """
        inside = t * QUARTERS // self.num_train_timesteps == self._quarters
        # atomic adds would be in another order every time
        self._sums += torch.stack([inside * loss, inside]).sum(2)

    def means(self, accelerator: Accelerator) -> dict[str, float | None]:
        """The means over the samples of all processes, which ask for it together; None where there
        was none. Empties the window.
        """
        losses, samples = fetched(accelerator.reduce(self._sums)).tolist()
        self._sums.zero_()
        quarters = {
            name: loss / n if n else None
            for name, loss, n in zip(self.names, losses, samples, strict=True)
        }
        return {"loss": sum(losses) / sum(samples), **quarters}


class Progress:
    """The bar and the lines of one run from `step` on. Every process has one, for means are taken
    over all of them; the main one alone shows and writes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        window: Window,
        log: MetricsLog | None,
        *,
        step: int,
        total: int,
        samples_per_step: int,
    ) -> None:
        self.accelerator = accelerator
        self.window = window
        self.log = log
        self.samples_per_step = samples_per_step
        self.bar = tqdm(
            total=total,
            initial=step,
            disable=not accelerator.is_main_process,
            unit="step",
            desc="distilling",
            dynamic_ncols=True,
        )
        self._restart()

    def _restart(self) -> None:
        self.steps, self.start = 0, time.perf_counter()

    def advance(self) -> None:
        """Counts an update."""
        self.steps += 1
        self.bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Saving and drawing are not training: what the block takes counts neither for the speed
        nor for the time left.
        """
        begin = time.perf_counter()
        self.bar.clear()  # what is said meanwhile begins a line
        yield
        pause = time.perf_counter() - begin
        self.start += pause
        if not self.bar.disable:  # without a bar it has no clocks either
            self.bar.start_t += pause
            self.bar.last_print_t += pause

    def write_line(self, step: int, facts: dict[str, float | None]) -> None:
        """The means since the last line and these `facts` of the last update. Nothing where there
        was no update since.
        """
        if self.steps == 0:
            return
        seconds = (time.perf_counter() - self.start) / self.steps
        metrics: dict[str, float | None] = {
            "step": step,
            **self.window.means(self.accelerator),
            **facts,
            "seconds_per_step": round(seconds, 4),
            "samples_per_second": round(self.samples_per_step / seconds, 3),
            "peak_memory_gib": round(peak_gib(self.accelerator.device), 3),
        }
        if self.log is not None:
            self.log.append(metrics)
        log_numbers(self.accelerator, metrics, step)
        shown = {"loss": "loss:.4f", "lr": "lr:.1e", "images/s": "samples_per_second:.3g"}
        self.bar.set_postfix(
            {name: f"{{{field}}}".format(**metrics) for name, field in shown.items()}
        )
        self._restart()

    def close(self) -> None:
        self.bar.close()
