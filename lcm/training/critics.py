"""What learns against the student, after every update of it: the second network and the critics'
own tensors, with an optimizer of their own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from lcm.config.sections import OptimizerConfig
from lcm.methods.objective import Objective
from lcm.models.second import SecondNetwork
from lcm.training.optimizer import make_optimizer

NAME = "critics"


@dataclass(frozen=True)
class Critics:
    """`parameters` are all that learns, those of the second network first. The learning rate goes
    the way of the student's.
    """

    second: SecondNetwork | None
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any

    def learning(self) -> AbstractContextManager[None]:
        """Inside the block the second network, if there is one, is in the place of the student."""
        return self.second.learning() if self.second is not None else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """All that learns, live, by name."""
        return {f"{NAME}.{i}": parameter for i, parameter in enumerate(self.parameters)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes the values of a checkpoint. Raises KeyError or ValueError for those of others."""
        for name, parameter in self.tensors().items():
            if tensors[name].shape != parameter.shape:
                found, wanted = list(tensors[name].shape), list(parameter.shape)
                raise ValueError(f"{name} is {found}, not {wanted}")
            parameter.copy_(tensors[name])


def make_second(objective: Objective, unet: Any, live: list[nn.Parameter], values: Any) -> Any:
    """The second network, where a critic is one; `values()` are those that make it the teacher."""
    if not any(critic.is_second for critic in objective.critics):
        return None
    return SecondNetwork(unet, live, values())


def make_critics(
    config: OptimizerConfig,
    objective: Objective,
    second: SecondNetwork | None,
    accelerator: Accelerator,
    num_updates: int,
) -> Critics | None:
    """The critics of the objective's terms; None where there are none."""
    if not objective.critics:
        return None
    parameters = list(second.parameters) if second is not None else []
    parameters += [p for critic in objective.critics for p in critic.parameters]
    fused = accelerator.scaler is None
    optimizer = make_optimizer(config.of_critics, parameters, fused=fused)
    optimizer = accelerator.prepare(optimizer)
    scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps or 0,
        num_training_steps=num_updates,
    )
    return Critics(second, parameters, optimizer, scheduler)
