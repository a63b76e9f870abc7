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
from safetensors import SafetensorError
from torch import Tensor, nn

from lcm.adapters import (
    WEIGHTS_NAME,
    add_lora,
    export_lora,
    fresh_with_lora,
    layers_named,
    lora_modules,
    lora_parameters,
    verify_export,
)
from lcm.config import TrainConfig
from lcm.disk import sync
from lcm.families import Family
from lcm.full import copy_for_training, export_unet, load_unet
from lcm.lora import squared_norm
from lcm.networks import Networks, WeightEma, make_networks
from lcm.optimizer import make_optimizer
from lcm.playback import locate, read_recipe
from lcm.recipe import Recipe
from lcm.recompute import checkpoint_activations

UNVERIFIED = f"unverified-{WEIGHTS_NAME}"


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
        """|theta - theta_teacher|, L2 over all trained weights, a scalar: how far training has moved away from the teacher.

        Of an adapter, theta - theta_teacher is alpha / rank B A; A and B on their own have no meaning, since A may grow as B
        shrinks. What the teacher lacks counts from zero.
        """
        if self.config.full_finetune:
            theirs = dict(self.nets.teacher_unet.named_parameters())
            squares = [(p - theirs.get(name, 0.0)).square().sum() for name, p in self.unet.named_parameters()]
        else:
            squares = [squared_norm(layer) for layer in lora_modules(self.unet).values()]
        return torch.stack(squares).sum().clamp(min=0.0).sqrt()

    def as_exported(self) -> AbstractContextManager[None]:
        """What is given away stands in the network inside the block: its average, where one is kept."""
        return self.export_ema.swapped_in() if self.export_ema else nullcontext()

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        """The U-Net that pictures are drawn with, in evaluation mode."""
        self.unet.eval()
        with self.as_exported():
            yield self.unet
        self.unet.train()

    def export(self, path: Path, recipe: Recipe, training: dict[str, str], dtype: torch.dtype) -> None:
        """Writes the adapter to `path`, or the U-Net beside it. Raises ExportError when it does not reload as what was trained."""
        with self.drawing() as unet:
            if self.config.full_finetune:
                export_unet(unet, path.parent, recipe, dtype)
                return
            unverified = path.with_name(UNVERIFIED)  # only what reloads gets the name that others look for
            export_lora(unet, unverified, recipe, training=training)
            verify_export(unet, unverified, self.pipeline_class)
            unverified.replace(path)
            sync(path.parent)

    def reload(self, path: Path) -> Any:
        """The U-Net as it comes out of what `export` wrote."""
        if self.config.full_finetune:
            return load_unet(path.parent, self.nets.teacher_unet)
        return fresh_with_lora(self.unet, path, self.pipeline_class)

    # --- the record to resume from ----------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors and their averages, live."""
        named: dict[str, Tensor] = {f"trained.{i}": p for i, p in enumerate(self.parameters)}
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            named |= {f"{name}.{i}": average for i, average in enumerate(ema.averages if ema else [])}
        return named

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"trained.{i}"])
        for name, ema in (("ema", self.nets.ema), ("export_ema", self.export_ema)):
            if ema is not None:
                ema.averages = [tensors[f"{name}.{i}"].to(device) for i in range(len(self.parameters))]


@dataclass(frozen=True)
class FirstAdapter:
    """--init_adapter: a U-Net that has it and shares the teacher's weights, and its recipe where this toolkit wrote it."""

    unet: Any
    recipe: Recipe | None


def load_first(config: TrainConfig, family: Family) -> FirstAdapter | None:
    """The adapter to start from, None without one. Leaves the family's U-Net as it is: all that can be wrong with the flags of
    the adapter is found here, before trajectories are made with that U-Net.

    Raises ValueError for --lora_target_modules that the U-Net lacks and for an --init_adapter that does not fit, and
    FileNotFoundError where there is no such file.
    """
    if config.full_finetune:
        return None
    layers = layers_named(family.unet, config.lora_target_modules)
    if config.init_adapter is None:
        return None
    path = locate(config.init_adapter)
    try:
        recipe = read_recipe(path)
    except ValueError:  # an adapter of another trainer
        recipe = None
    if recipe is not None and (recipe.family, recipe.prediction_type) != (family.name, family.schedule.prediction_type):
        raise ValueError(
            f"init_adapter: {config.init_adapter} was made for a {recipe.family} model that predicts {recipe.prediction_type}, "
            f"the teacher is {family.name} and predicts {family.schedule.prediction_type}; pass an adapter of the teacher's kind"
        )
    try:
        unet = fresh_with_lora(family.unet, path, type(family.pipe))
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"init_adapter: {config.init_adapter} does not fit the teacher's U-Net ({error})") from error
    check_first(unet, layers, config)
    return FirstAdapter(unet, recipe)


def check_first(unet: Any, layers: set[str], config: TrainConfig) -> None:
    """Raises ValueError when layers, ranks or scales differ from those of the run, naming the flag to pass."""
    theirs = lora_modules(unet)
    if set(theirs) != layers:
        raise ValueError(
            f"init_adapter: {config.init_adapter} adapts {len(theirs)} layers, this run {len(layers)}; the first difference is "
            f"{min(set(theirs) ^ layers)}; pass its --lora_target_modules"
        )
    scaling = (config.lora_alpha or config.lora_rank) / config.lora_rank
    for layer in theirs.values():
        rank = layer.r["default"]
        if rank != config.lora_rank or abs(layer.scaling["default"] - scaling) > 1e-6:
            alpha = layer.scaling["default"] * rank
            raise ValueError(
                f"init_adapter: {config.init_adapter} has rank {rank} and alpha {alpha:g}; pass --lora_rank {rank} "
                f"--lora_alpha {alpha:g}"
            )


def build_student(config: TrainConfig, family: Family, accelerator: Accelerator, first: FirstAdapter | None) -> Student:
    """Adds the adapter to the family's U-Net, with the values of the `first` one, or copies that U-Net, and prepares it with
    its optimizer."""
    set_seed(config.seed)  # of the adapter's first values; nothing after this draws from the global generator
    unet = family.unet
    if config.full_finetune:
        unet = copy_for_training(unet, config.w_embedding)
        parameters = list(unet.parameters())
    else:
        parameters = add_lora(unet, config.lora_rank, config.lora_alpha, config.lora_target_modules, config.lora_dropout)
        if first is not None:
            with torch.no_grad():
                for mine, theirs in zip(parameters, lora_parameters(first.unet), strict=True):
                    mine.copy_(theirs)
    unet.train()  # gradient checkpointing and dropout act only in training mode
    checkpoint_activations(unet, config.gradient_checkpointing)
    # a fused one with a loss scaler skips overflows by itself, and accelerate would count them as updates
    optimizer = make_optimizer(config, parameters, fused=accelerator.scaler is None)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    if not config.full_finetune:
        # frozen weights of low precision are computed with as they are, like in pipelines; the autocast that accelerate has put
        # around the U-Net would keep norms and adapter in float32 and cast at every layer
        vars(unet).pop("forward", None)
    nets = make_networks(
        unet,
        ema_decay=config.ema_decay,
        prepared=prepared,
        teacher_unet=family.unet if config.full_finetune else None,
        autocast=accelerator.autocast if config.full_finetune else nullcontext,
    )
    export_ema = None if config.export_ema_decay is None else WeightEma(parameters, config.export_ema_decay)
    return Student(unet, parameters, optimizer, nets, prepared, export_ema, config, type(family.pipe))
