"""What a run shows while it trains: a bar, and a line of numbers per logging interval in metrics.jsonl and the trackers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from lcm.disk import optional
from lcm.metrics_log import MetricsLog


class Window:
    """The losses since the last line, summed on the device of the run: nothing waits for it between lines."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, device=device)  # of losses, of samples

    def add(self, loss: Tensor) -> None:
        """The losses [n] of the samples of an update."""
        self._sums += torch.stack([loss.sum(), torch.full_like(loss, 1.0).sum()])

    def means(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Over the samples of all processes, which ask for it together. Empties the window."""
        losses, samples = accelerator.reduce(self._sums).tolist()
        self._sums.zero_()
        return {"loss": losses / samples}


class Progress:
    """The bar and the lines of one run from `step` on. Every process has one, for means are taken over all of them; the main one
    alone shows and writes."""

    def __init__(
        self, accelerator: Accelerator, window: Window, log: MetricsLog | None, *, step: int, total: int, samples_per_step: int
    ) -> None:
        self.accelerator, self.window, self.log, self.samples_per_step = accelerator, window, log, samples_per_step
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
        """After every update."""
        self.steps += 1
        self.bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Saving and drawing are not training: what the block takes counts neither for the speed nor for the time left."""
        begin = time.perf_counter()
        yield
        self.start += time.perf_counter() - begin
        self.bar.unpause()

    def write_line(self, step: int, facts: dict[str, float | None]) -> None:
        """The means since the last line and these `facts` of the last update. Nothing where there was no update since."""
        if self.steps == 0:
            return
        seconds = (time.perf_counter() - self.start) / self.steps
        metrics: dict[str, float | None] = {
            "step": step,
            **self.window.means(self.accelerator),
            **facts,
            "seconds_per_step": round(seconds, 4),
            "samples_per_second": round(self.samples_per_step / seconds, 3),
        }
        if self.log is not None:
            self.log.append(metrics)
        with optional("a line of TensorBoard"):
            self.accelerator.log(metrics, step=step)
        self.bar.set_postfix(loss=f"{metrics['loss']:.4f}", lr=f"{metrics['lr']:.1e}")
        self._restart()

    def close(self) -> None:
        self.bar.close()
