"""What a run trains and exports: an adapter, or the whole U-Net. Everything that differs between
the two is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lcm.adapter.export import export_lora, fresh_with_lora, verify_export
from lcm.adapter.full_unet import W_EMBEDDING_DIM, export_unet, load_unet
from lcm.adapter.layers import squared_norm
from lcm.adapter.lora import add_lora, lora_modules, lora_parameters
from lcm.adapter.names import UNVERIFIED
from lcm.adapter.recipe import Recipe
from lcm.config.sections import AdapterConfig
from lcm.models.families import Family
from lcm.models.styles import Style, check_unet_alone
from lcm.system.atomic import sync
from lcm.system.checksums import sum_of
from lcm.training.init_adapter import FirstAdapter, load_first


class Result(Protocol):
    """What is trained: `unet` is the network that has it, `parameters` its trained tensors.

    `teacher_unet` is the teacher where it is another network, None where it is `unet` without its
    adapter. `name` is what people call it.
    """

    name: ClassVar[str]

    @property
    def unet(self) -> Any: ...

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    @property
    def teacher_unet(self) -> Any: ...

    def autocast(self, accelerator: Accelerator) -> Callable[[], AbstractContextManager[Any]]:
        """The context that the network is called in."""

    def unwrap(self) -> None:
        """Takes away what accelerate has put around the network and it does not need."""

    def squared_distance(self) -> Tensor:
        """|theta - theta_teacher|^2 over all trained weights, a scalar."""

    def teacher_values(self) -> list[Tensor]:
        """Values of the trained tensors, new ones, with which the network is the teacher."""

    def export(
        self, path: Path, recipe: Recipe, training: dict[str, str], dtype: torch.dtype
    ) -> None:
        """Writes the result to `path`, or its folder beside it. Raises ExportError when it does not
        reload as what was trained.
        """

    def reload(self, path: Path) -> Any:
        """The U-Net as it comes out of what `export` wrote."""


@dataclass(frozen=True)
class LoraResult:
    """An adapter on the frozen U-Net of the teacher. `proven` are the SHA-256 of the files that
    this process has seen to reload.
    """

    unet: Any
    parameters: list[nn.Parameter]
    pipeline_class: Any
    teacher_unet: None = None
    proven: set[str] = field(default_factory=set)
    name: ClassVar[str] = "adapter"

    @staticmethod
    def check_styles(styles: Sequence[Style]) -> None:
        """Any style may be summed into a teacher whose adapter is trained."""

    @staticmethod
    def load_first(config: AdapterConfig, family: Family) -> FirstAdapter | None:
        """The adapter of --init_adapter. Raises ValueError where it does not fit."""
        return load_first(config, family)

    @classmethod
    def make(cls, config: AdapterConfig, family: Family, first: FirstAdapter | None) -> LoraResult:
        """Adds an adapter to the family's U-Net, with the values of the `first` one."""
        unet = family.unet
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
        return cls(unet, parameters, type(family.pipe))

    def autocast(self, accelerator: Accelerator) -> Callable[[], AbstractContextManager[Any]]:
        """None: frozen weights of low precision are computed with as they are, like in
        pipelines.
        """
        return nullcontext

    def unwrap(self) -> None:
        """Takes away the autocast that accelerate puts around the U-Net, which would keep norms and
        adapter in float32 and cast at every layer.
        """
        vars(self.unet).pop("forward", None)

    def squared_distance(self) -> Tensor:
        """|alpha / rank B A|^2 over all layers, a scalar. A and B on their own have no meaning,
        since A may grow as B shrinks.
        """
        return torch.stack(
            [squared_norm(layer) for layer in lora_modules(self.unet).values()]
        ).sum()

    def teacher_values(self) -> list[Tensor]:
        """A as it is, B zero."""
        named = [name for name, _ in self.unet.named_parameters() if ".lora_" in name]
        pairs = zip(named, self.parameters, strict=True)
        return [
            torch.zeros_like(value) if ".lora_B." in name else value.detach().clone()
            for name, value in pairs
        ]

    def export(
        self, path: Path, recipe: Recipe, training: dict[str, str], dtype: torch.dtype
    ) -> None:
        """Writes the adapter to `path`: only what reloads gets the name that others look for. The
        last checkpoint and the result are the same bytes, which are proven once.

        Raises ExportError when it does not reload as what was trained.
        """
        unverified = path.with_name(UNVERIFIED)
        export_lora(self.unet, unverified, recipe, training=training)
        if (content := sum_of(unverified)) not in self.proven:
            verify_export(self.unet, unverified, self.pipeline_class)
            self.proven.add(content)
        unverified.replace(path)
        sync(path.parent)

    def reload(self, path: Path) -> Any:
        """A U-Net with the adapter, by the stock loader."""
        return fresh_with_lora(self.unet, path, self.pipeline_class)


@dataclass(frozen=True)
class UNetResult:
    """The whole U-Net, a trained copy of the teacher's."""

    unet: Any
    parameters: list[nn.Parameter]
    teacher_unet: Any
    name: ClassVar[str] = "U-Net"

    @staticmethod
    def check_styles(styles: Sequence[Style]) -> None:
        """Raises ValueError for a style of text encoders too, which a U-Net cannot carry."""
        check_unet_alone(styles)

    @staticmethod
    def load_first(config: AdapterConfig, family: Family) -> None:
        """A whole U-Net starts from the teacher's."""

    @classmethod
    def make(cls, config: AdapterConfig, family: Family, first: FirstAdapter | None) -> UNetResult:
        """Copies the family's U-Net, with an embedding of the guidance where that is asked for."""
        unet = copy_for_training(family.unet, config.w_embedding)
        return cls(unet, list(unet.parameters()), family.unet)

    def autocast(self, accelerator: Accelerator) -> Callable[[], AbstractContextManager[Any]]:
        """The one of --mixed_precision, since the weights are float32."""
        return accelerator.autocast

    def unwrap(self) -> None:
        """The network stays as accelerate has it."""

    def squared_distance(self) -> Tensor:
        """|theta - theta_teacher|^2, a scalar. What the teacher lacks counts from zero."""
        theirs = dict(self.teacher_unet.named_parameters())
        squares = [
            (p - theirs.get(name, 0.0)).square().sum() for name, p in self.unet.named_parameters()
        ]
        return torch.stack(squares).sum()

    def teacher_values(self) -> list[Tensor]:
        """The teacher's own; zero for what it lacks."""
        theirs = dict(self.teacher_unet.named_parameters())
        return [
            torch.zeros_like(value)
            if name not in theirs
            else theirs[name].detach().to(value.dtype, copy=True)
            for name, value in self.unet.named_parameters()
        ]

    def export(
        self, path: Path, recipe: Recipe, training: dict[str, str], dtype: torch.dtype
    ) -> None:
        """Writes the U-Net's folder beside `path`. Raises ExportError when it does not hold what
        was trained.
        """
        export_unet(self.unet, path.parent, recipe, dtype)

    def reload(self, path: Path) -> Any:
        """The U-Net out of its folder beside `path`."""
        return load_unet(path.parent, self.teacher_unet)


def kind_of(config: AdapterConfig) -> type[LoraResult] | type[UNetResult]:
    """The kind of result that the flags ask for: the one place that asks."""
    return UNetResult if config.full_finetune else LoraResult


def copy_for_training(unet: Any, w_embedding: bool) -> Any:
    """A float32 copy of the teacher with gradients. With `w_embedding` it has a layer for the
    guidance scale, zero at first: it then is the teacher whatever guidance it is told.
    """
    # as an argument: an entry that the teacher's own file left out would be ignored inside the
    # configuration
    added = {"time_cond_proj_dim": W_EMBEDDING_DIM} if w_embedding else {}
    with torch.device(unet.device):
        student = type(unet).from_config(unet.config, **added)
    # converts as it copies
    missing, unexpected = student.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"time_embedding.cond_proj.weight"}
    if w_embedding:
        torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.float().requires_grad_(True)
