"""What is trained: an adapter or a whole U-Net, its optimizer, its averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from lcm.adapter.export import export_lora, fresh_with_lora, verify_export
from lcm.adapter.full_unet import (
    W_EMBEDDING_DIM,
    export_unet,
    load_unet,
)
from lcm.adapter.layers import squared_norm
from lcm.adapter.lora import add_lora, lora_modules, lora_parameters
from lcm.adapter.recipe import Recipe
from lcm.config.run import TrainConfig
from lcm.models.ema import WeightEma
from lcm.models.families import Family
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.models.networks import Networks, make_networks
from lcm.outputs.folder import UNVERIFIED
from lcm.system.atomic import sync
from lcm.training.init_adapter import FirstAdapter
from lcm.training.optimizer import make_optimizer


@dataclass
class Student:
    """The trained U-Net in its three roles, and all that changes when it learns."""

    unet: Any
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    nets: Networks
    prepared: Any
    export_ema: WeightEma | None
    config: TrainConfig
    pipeline_class: Any

    def update_averages(self) -> None:
        """After every update that was made."""
        for ema in (self.nets.ema, self.export_ema):
            if ema is not None:
                ema.update()

    @torch.no_grad()
    def delta_norm(self) -> Tensor:
        """|theta - theta_teacher|, L2 over all trained weights, a scalar: how far training has
        moved away from the teacher.

        Of an adapter, theta - theta_teacher is alpha / rank B A; A and B on their own have no
        meaning, since A may grow as B shrinks. What the teacher lacks counts from zero.
        """
        if self.config.full_finetune:
            theirs = dict(self.nets.teacher_unet.named_parameters())
            squares = [
                (p - theirs.get(name, 0.0)).square().sum()
                for name, p in self.unet.named_parameters()
            ]
        else:
            squares = [squared_norm(layer) for layer in lora_modules(self.unet).values()]
        return torch.stack(squares).sum().clamp(min=0.0).sqrt()

    def as_exported(self) -> AbstractContextManager[None]:
        """What is given away stands in the network inside the block: its average, where one is
        kept.
        """
        return self.export_ema.swapped_in() if self.export_ema else nullcontext()

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        """The U-Net that pictures are drawn with, in evaluation mode."""
        self.unet.eval()
        with self.as_exported():
            yield self.unet
        self.unet.train()

    def export(
        self, path: Path, recipe: Recipe, training: dict[str, str], dtype: torch.dtype
    ) -> None:
        """Writes the adapter to `path`, or the U-Net beside it. Raises ExportError when it does not
        reload as what was trained.
        """
        with self.drawing() as unet:
            if self.config.full_finetune:
                export_unet(unet, path.parent, recipe, dtype)
                return
            unverified = path.with_name(
                UNVERIFIED
            )  # only what reloads gets the name that others look for
            export_lora(unet, unverified, recipe, training=training)
            verify_export(unet, unverified, self.pipeline_class)
            unverified.replace(path)
            sync(path.parent)

    def reload(self, path: Path) -> Any:
        """The U-Net as it comes out of what `export` wrote."""
        if self.config.full_finetune:
            return load_unet(path.parent, self.nets.teacher_unet)
        return fresh_with_lora(self.unet, path, self.pipeline_class)

    # --- the record to resume from ----------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors and their averages, live."""
        named: dict[str, Tensor] = {f"trained.{i}": p for i, p in enumerate(self.parameters)}
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            named |= {
                f"{name}.{i}": average for i, average in enumerate(ema.averages if ema else [])
            }
        return named

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"trained.{i}"])
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            if ema is not None:
                ema.averages = [
                    tensors[f"{name}.{i}"].to(device) for i in range(len(self.parameters))
                ]


def build_student(
    config: TrainConfig, family: Family, accelerator: Accelerator, first: FirstAdapter | None
) -> Student:
    """Adds the adapter to the family's U-Net, with the values of the `first` one, or copies that
    U-Net, and prepares it with its optimizer.
    """
    set_seed(
        config.seed
    )  # of the adapter's first values; nothing after this draws from the global generator
    unet = family.unet
    if config.full_finetune:
        unet = copy_for_training(unet, config.w_embedding)
        parameters = list(unet.parameters())
    else:
        parameters = add_lora(
            unet,
            config.lora_rank,
            config.lora_alpha,
            config.lora_target_modules,
            config.lora_dropout,
        )
        if first is not None:
            with torch.no_grad():
                for mine, theirs in zip(parameters, lora_parameters(first.unet), strict=True):
                    mine.copy_(theirs)
    unet.train()  # gradient checkpointing and dropout act only in training mode
    checkpoint_activations(unet, config.gradient_checkpointing)
    # a fused one with a loss scaler skips overflows by itself, and accelerate would count them as
    # updates
    optimizer = make_optimizer(config, parameters, fused=accelerator.scaler is None)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    if not config.full_finetune:
        # frozen weights of low precision are computed with as they are, like in pipelines; the
        # autocast that accelerate has put around the U-Net would keep norms and adapter in float32
        # and cast at every layer
        vars(unet).pop("forward", None)
    nets = make_networks(
        unet,
        ema_decay=config.ema_decay,
        prepared=prepared,
        teacher_unet=family.unet if config.full_finetune else None,
        autocast=accelerator.autocast if config.full_finetune else nullcontext,
    )
    export_ema = (
        None if config.export_ema_decay is None else WeightEma(parameters, config.export_ema_decay)
    )
    return Student(
        unet, parameters, optimizer, nets, prepared, export_ema, config, type(family.pipe)
    )


def copy_for_training(unet: Any, w_embedding: bool) -> Any:
    """A float32 copy of the teacher with gradients. With `w_embedding` it has a layer for the
    guidance scale, zero at first: it then is the teacher whatever guidance it is told.
    """
    # as an argument: an entry that the teacher's own file left out would be ignored inside the
    # configuration
    added = {"time_cond_proj_dim": W_EMBEDDING_DIM} if w_embedding else {}
    with torch.device(unet.device):
        student = type(unet).from_config(unet.config, **added)
    missing, unexpected = student.load_state_dict(
        unet.state_dict(), strict=False
    )  # converts as it copies
    assert not unexpected and set(missing) <= {"time_embedding.cond_proj.weight"}
    if w_embedding:
        torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.float().requires_grad_(True)
