"""The implementations of a training step that are measured against each other, and whether they
take the same one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.public_scripts import TwoUnets
from lcm.adapter.lora import lora_parameters
from lcm.data.batch import SampleBatch
from lcm.training.encode import encode
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import train_step

TWO, ONE, TOOLKIT, AGAIN = "two U-Nets", "one U-Net", "this toolkit", "this toolkit again"

AS_THE_SCRIPTS: dict[str, Any] = {
    "target": "online",
    "skipping_steps": 1,
    "weighting": "uniform",
    "simulated_play": 0.0,
}
"""Flags that make a step of this toolkit that of the public scripts."""


@dataclass(frozen=True)
class Contender:
    """One implementation of the step: an update, the loss before it as a graph, the adapter, all
    that it holds in memory.
    """

    step: Callable[[], object]
    loss: Callable[[], Tensor]
    adapter: list[torch.nn.Parameter]
    held: Callable[[], list[Tensor]]


def held_by(modules: Sequence[torch.nn.Module], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights, buffers and the optimizer's state."""
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    return [
        tensor for module in modules for tensor in (*module.parameters(), *module.buffers())
    ] + state


def toolkit_contender(
    run: Run, state: TrainState, batch: SampleBatch, *, holds_encoders: bool = True
) -> Contender:
    """This toolkit's step on the same batch ever again."""
    student, family, endless = state.student, run.family, itertools.repeat(batch)
    modules = [student.unet]
    if holds_encoders:
        modules += [family.pipe.vae, *family.text_encoders()]

    def loss() -> Tensor:
        latents = encode(family, batch, run.machine.device)
        return run.objective(student.nets, latents).loss.mean()

    return Contender(
        lambda: train_step(run, state, endless),
        loss,
        student.parameters,
        lambda: held_by(modules, student.optimizer),
    )


def script_contender(script: TwoUnets, batch: SampleBatch, adapter: list[Tensor]) -> Contender:
    """A public script's step on the same batch ever again, from the values of an adapter."""
    script.load_adapter(adapter)
    return Contender(
        lambda: script.step(batch),
        lambda: script.loss(batch),
        lora_parameters(script.unet),
        lambda: held_by(script.modules(), script.optimizer),
    )


@torch.no_grad()
def randomise(parameters: Sequence[Tensor]) -> None:
    """An adapter as if in training: one that starts at zero would hide what it adds."""
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def loss_and_gradient(contender: Contender, scale: float = 1.0) -> tuple[float, Tensor]:
    """The loss, and its gradient for the whole adapter; computed at `scale` times the loss, as a
    loss scaler does in float16.
    """
    loss = contender.loss()
    gradients = torch.autograd.grad(loss * scale, contender.adapter)
    return float(loss.detach()), torch.cat([g.flatten() for g in gradients]) / scale
