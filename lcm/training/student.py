"""What learns: the trained network in its three roles, its optimizer, its averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from lcm.config.run import TrainConfig
from lcm.methods.config import settings_of
from lcm.methods.objective import Objective
from lcm.methods.settings import TargetSettings
from lcm.models.ema import WeightEma
from lcm.models.families import Family
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.models.networks import Networks, adapters_disabled, make_networks
from lcm.training.critics import make_second
from lcm.training.init_adapter import FirstAdapter
from lcm.training.optimizer import make_optimizer
from lcm.training.result import Result, kind_of


@dataclass(frozen=True)
class Student:
    """The result in training, its three roles, and all that changes when it learns.

    What is exported in the place of the trained tensors is `export_ema`, an average kept for that
    alone, or, where it `exports_target`, that of the target. `ema_exponent(progress)` is the power
    of its decay with which the target moves. `beside` are tensors that the loss learns for itself,
    with the same optimizer; no file but a checkpoint has them.
    """

    result: Result
    optimizer: torch.optim.Optimizer
    beside: list[nn.Parameter]
    nets: Networks
    export_ema: WeightEma | None
    exports_target: bool
    ema_exponent: Callable[[float], float]

    @property
    def unet(self) -> Any:
        """The trained network, or the one that carries the trained adapter."""
        return self.result.unet

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors."""
        return self.result.parameters

    @property
    def was_skipped(self) -> bool:
        """Whether the fp16 loss scaler skipped the last update of the student; what it did with
        those of critics does not count.
        """
        return bool(getattr(self.optimizer, "step_was_skipped", False))

    def update_averages(self, update: int, progress: float) -> None:
        """Moves the averages towards the trained tensors, after update number `update`, made at
        this progress of the run.
        """
        if self.nets.ema is not None:
            self.nets.ema.update(update, self.ema_exponent(progress))
        if self.export_ema is not None:
            self.export_ema.update(update)

    @torch.no_grad()
    def delta_norm(self) -> Tensor:
        """|theta - theta_teacher|, L2 over all trained weights, a scalar: how far training has
        moved away from the teacher.
        """
        return self.result.squared_distance().clamp(min=0.0).sqrt()

    def as_exported(self) -> AbstractContextManager[None]:
        """The exported values stand in the network inside the block: their average, where one is
        kept.
        """
        average = self.nets.ema if self.exports_target else self.export_ema
        return average.swapped_in() if average else nullcontext()

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        """The U-Net that pictures are drawn with and that is exported, in evaluation mode."""
        self.unet.eval()
        try:
            with self.as_exported():
                yield self.unet
        finally:
            self.unet.train()

    @contextmanager
    def teaching(self) -> Iterator[Any]:
        """The teacher's U-Net, in evaluation mode: the first one's, where there are several."""
        if self.result.teacher_unet is not None:
            yield self.result.teacher_unet
            return
        was_training = self.unet.training
        self.unet.eval()
        try:
            with adapters_disabled(self.unet):
                yield self.unet
        finally:
            self.unet.train(was_training)

    def alone(self) -> Student:
        """The same student, whose steps wait for no other process."""
        return dataclasses.replace(self, nets=self.nets.alone())

    @contextmanager
    def averages_standing_still(self) -> Iterator[None]:
        """No average moves inside the block."""
        averages = [ema for ema in (self.nets.ema, self.export_ema) if ema is not None]
        for ema in averages:
            ema.stands_still = True
        try:
            yield
        finally:
            for ema in averages:
                ema.stands_still = False

    # --- the record to resume from ----------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors, their averages, and what is learnt beside them, live."""
        named: dict[str, Tensor] = {f"trained.{i}": p for i, p in enumerate(self.parameters)}
        named |= {f"beside.{i}": p for i, p in enumerate(self.beside)}
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            named |= {
                f"{name}.{i}": average for i, average in enumerate(ema.averages if ema else [])
            }
        return named

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Takes the values of a checkpoint. Raises KeyError or ValueError for those of another
        network.
        """
        for name, value in self.tensors().items():
            if tensors[name].shape != value.shape:  # which copying might stretch
                raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(value.shape)}")
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"trained.{i}"])
        for i, parameter in enumerate(self.beside):
            parameter.copy_(tensors[f"beside.{i}"])
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            if ema is not None:
                # copies: what stayed in the file's own memory would keep Windows from deleting it
                ema.averages = [
                    tensors[f"{name}.{i}"].to(device, copy=True)
                    for i in range(len(self.parameters))
                ]


def constant(progress: float) -> float:
    """The exponent of an average whose decay is the same all through the run."""
    return 1.0


def build_student(
    config: TrainConfig,
    family: Family,
    accelerator: Accelerator,
    first: FirstAdapter | None,
    objective: Objective,
) -> Student:
    """Makes what is trained on the family's U-Net, and prepares it with its optimizer, which moves
    what the loss learns beside it as well; and the second network, where a critic is one.
    """
    set_seed(config.loop.seed)  # of the adapter's first values; nothing after this draws from it
    result: Result = kind_of(config.adapter).make(config.adapter, family, first)
    unet, parameters = result.unet, result.parameters
    unet.train()  # gradient checkpointing and dropout act only in training mode
    checkpoint_activations(unet, config.loop.gradient_checkpointing)
    # a fused one with a loss scaler skips overflows by itself, and accelerate would count them as
    # updates
    fused = accelerator.scaler is None
    beside = objective.parameters
    optimizer = make_optimizer(config.optimizer, parameters, beside, fused=fused)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    result.unwrap()
    nets = make_networks(
        unet,
        ema_decay=config.method.ema_decay,
        prepared=prepared,
        teacher_unet=result.teacher_unet,
        second_network=make_second(objective, unet, parameters, result.teacher_values),
        autocast=result.autocast(accelerator),
    )
    decay, settings = config.adapter.export_ema_decay, settings_of(config.method)
    return Student(
        result,
        optimizer,
        beside,
        nets,
        export_ema=None if decay is None else WeightEma(parameters, decay),
        exports_target=decay is None and nets.ema is not None,
        ema_exponent=settings.ema_exponent if isinstance(settings, TargetSettings) else constant,
    )
