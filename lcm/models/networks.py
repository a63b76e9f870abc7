"""One U-Net in its roles: teacher (adapters off), student (adapters on, gradients), target
(adapters on, none), second network (other adapters), and the teacher's features.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lcm.adapter.lora import lora_modules
from lcm.diffusion.guidance import guidance_scale_to_w, guide
from lcm.diffusion.schedule import NoiseSchedule, Prediction
from lcm.diffusion.solvers.base import Predict
from lcm.models.conditioning import Conditioning
from lcm.models.ema import WeightEma
from lcm.models.second import SecondNetwork
from lcm.system.device import forked_rng


@contextmanager
def adapters_disabled(unet: Any) -> Iterator[None]:
    """The base model inside the block. Adapters come back on even after an error: left off, no
    gradient would arrive.

    PEFT's own switch also freezes and thaws every tensor, which no gradient asks for here and which
    takes longer.
    """
    layers = lora_modules(unet).values()
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def drawing_from(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers inside the block follow from `seed` alone, and those outside do not notice.
    None: nothing is done.
    """
    if seed is None:
        yield
        return
    with forked_rng(device):
        torch.manual_seed(seed)
        yield


def guidance_embedding(guidance_scale: Tensor, dim: int) -> Tensor:
    """[B] -> [B, dim]: sines and cosines of 1000 w, w = guidance_scale - 1, as
    `LatentConsistencyModelPipeline` feeds them.
    """
    half = dim // 2
    frequencies = torch.exp(
        torch.arange(half, device=guidance_scale.device) * -(math.log(10000.0) / (half - 1))
    )
    angles = 1000.0 * guidance_scale_to_w(guidance_scale.float())[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PassedError(Exception):
    """A pass of the network went as far as was asked for."""


def channels_of(unet: Any) -> list[int]:
    """The channels of what `Networks.features` gives, block by block."""
    widths = list(unet.config.block_out_channels)
    return [*widths, widths[-1]] if unet.mid_block is not None else widths


class FarFromAdapters(torch.autograd.Function):
    """Features of x_t, whose way back, too, finds the network as `without` makes it: where
    activations are computed anew, they are so after the pass has ended.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_t: Tensor,
        ask: Callable[[Tensor], list[Tensor]],
        without: Callable[[], AbstractContextManager[None]],
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            ctx.x_t = x_t.detach().requires_grad_()
            ctx.found = ask(ctx.x_t)
        ctx.without = without
        return tuple(part.detach() for part in ctx.found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        with ctx.without():
            (gradient,) = torch.autograd.grad(ctx.found, ctx.x_t, gradients)
        return gradient, None, None


class Networks:
    """The roles. Every call maps (x_t [B, C, H, W], t [B], Conditioning) to the raw float32
    network output.

    `unet` is the trained module, `prepared` the same behind DistributedDataParallel (or `unet`
    itself); only the student goes through it. The teacher is `unet` with its adapters off, or
    `teacher_unet` where the whole network is trained. `ema` makes the target an average of the
    student instead of its present state. `second_network` learns beside it, where a critic asks for
    one. `dropout_seed`, set before every step, gives student and
    target the same dropout masks.
    """

    def __init__(
        self,
        unet: Any,
        *,
        prepared: nn.Module | None = None,
        teacher_unet: Any = None,
        ema: WeightEma | None = None,
        second_network: SecondNetwork | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.unet = unet
        self.prepared: Any = prepared if prepared is not None else unet
        self.teacher_unet = teacher_unet
        self.ema = ema
        self.second_network = second_network
        self.autocast = autocast
        self.dropout_seed: int | None = None
        self.dtype = next(p.dtype for name, p in unet.named_parameters() if "lora_" not in name)

    def alone(self) -> Networks:
        """The same networks, whose student waits for no other process."""
        other = copy.copy(self)
        other.prepared = self.unet
        return other

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        with drawing_from(self.dropout_seed, x_t.device):
            return self._call(self.prepared, x_t, t, conditioning)

    @torch.no_grad()
    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self._frozen(x_t, t, conditioning)

    def _without_adapters(self) -> AbstractContextManager[None]:
        return nullcontext() if self.teacher_unet is not None else adapters_disabled(self.unet)

    def _frozen(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if self.teacher_unet is not None:
            return self._call(
                self.teacher_unet, x_t, t, dataclasses.replace(conditioning, guidance_scale=None)
            )
        with self._without_adapters():
            return self._call(self.unet, x_t, t, conditioning)

    def second(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """With gradients only while the second network is `learning`."""
        assert self.second_network is not None
        with drawing_from(self.dropout_seed, x_t.device):
            if torch.is_grad_enabled():
                return self._call(self.unet, x_t, t, conditioning)
            with self.second_network.swapped_in():
                return self._call(self.unet, x_t, t, conditioning)

    def features(
        self, x_t: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None
    ) -> list[Tensor]:
        """What the frozen teacher's first `depth` blocks on the way down give, None for all of them
        and the middle one: [B, C_i, H_i, W_i] each, with gradients to x_t. No further block is
        computed.
        """

        def ask(x_t: Tensor) -> list[Tensor]:
            return self._blocks(x_t, t, conditioning, depth)

        if not (torch.is_grad_enabled() and x_t.requires_grad):
            return ask(x_t)
        return list(FarFromAdapters.apply(x_t, ask, self._without_adapters))

    def _blocks(
        self, x_t: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None
    ) -> list[Tensor]:
        unet = self.unet if self.teacher_unet is None else self.teacher_unet
        blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else [])]
        blocks = blocks[:depth]
        found: list[Tensor] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            if len(found) == len(blocks):
                raise PassedError

        hooks = [block.register_forward_hook(note) for block in blocks]
        try:
            self._frozen(x_t, t, conditioning)
        except PassedError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return found

    @torch.no_grad()
    def target(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        with (
            self.ema.swapped_in() if self.ema else nullcontext(),
            drawing_from(self.dropout_seed, x_t.device),
        ):
            return self._call(self.unet, x_t, t, conditioning)

    def _call(self, module: Any, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = module.dtype if module is self.teacher_unet else self.dtype
        # the time ids stay float32: sizes above 256 pixels are no bfloat16 numbers, and the U-Net
        # embeds them in float32
        cast = dataclasses.replace(
            conditioning.map(lambda part: part.to(dtype)), time_ids=conditioning.time_ids
        )
        kwargs = cast.unet_kwargs()
        width = self.unet.config.time_cond_proj_dim
        if width is not None and conditioning.guidance_scale is not None:
            kwargs["timestep_cond"] = guidance_embedding(conditioning.guidance_scale, width).to(
                dtype
            )
        with self.autocast():
            return module(x_t.to(dtype), t.clamp(min=0), **kwargs, return_dict=False)[0].float()


def make_networks(unet: Any, *, ema_decay: float | None, **options: Any) -> Networks:
    """Networks on a U-Net in training; `ema_decay` None means the target is the online student."""
    ema = (
        None
        if ema_decay is None
        else WeightEma([p for p in unet.parameters() if p.requires_grad], ema_decay)
    )
    return Networks(unet, ema=ema, **options)


def guided_teacher(
    ask: Callable[[Tensor, Tensor, Conditioning], Tensor],
    schedule: NoiseSchedule,
    cond: Conditioning,
    uncond: Conditioning,
    guidance_scale: Tensor | None,
) -> Predict:
    """The teacher with guidance [B]: both halves in one call of twice the batch. None asks for the
    conditional half alone.

    `ask` is the teacher's role: raw output for (x_t, t, conditioning).
    """
    both = None if guidance_scale is None else cond.cat(uncond)

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        if guidance_scale is None or both is None:
            return schedule.predict(ask(x_t, t, cond), x_t, t)
        conditional, unconditional = ask(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return schedule.predict(guide(conditional, unconditional, guidance_scale), x_t, t)

    return predict
