"""One U-Net in three roles: teacher (adapters off), student (adapters on, gradients), target (adapters on, none)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lcm.adapters import lora_parameters, swapped


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net is told besides (x_t, t): [B, L, D] embeddings, and for SDXL pooled [B, P] and time_ids [B, 6]."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None

    def unet_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"encoder_hidden_states": self.prompt_embeds}
        if self.pooled_prompt_embeds is not None:
            kwargs["added_cond_kwargs"] = {"text_embeds": self.pooled_prompt_embeds, "time_ids": self.time_ids}
        return kwargs

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(*(None if part is None else function(part) for part in self._parts()))  # type: ignore[arg-type]

    def cat(self, other: Conditioning) -> Conditioning:
        """Both along the batch, self first."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Conditioning(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.prompt_embeds, self.pooled_prompt_embeds, self.time_ids


@contextmanager
def adapters_disabled(unet: Any) -> Iterator[None]:
    """The base model inside the block. Adapters come back on even after an error: left off, no gradient would arrive."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


class LoraEma:
    """Exponential moving average of the LoRA tensors: the target theta^- of CM and LCM. Constant decay, no hidden ramp."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.averages = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """theta^- <- decay theta^- + (1 - decay) theta."""
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1.0 - self.decay)

    def swapped_in(self) -> AbstractContextManager[None]:
        """The averages stand in the network inside the block."""
        return swapped(self.parameters, self.averages)


class Networks:
    """The three roles. Every call maps (x_t [B, C, H, W], t [B], Conditioning) to the raw float32 network output.

    `unet` is the module with adapters, `prepared` the same behind DistributedDataParallel (or `unet` itself); only the
    student goes through it. `ema` makes the target an average of the student instead of its present state.
    """

    def __init__(
        self,
        unet: Any,
        *,
        prepared: nn.Module | None = None,
        ema: LoraEma | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.unet = unet
        self.prepared: Any = prepared if prepared is not None else unet
        self.ema = ema
        self.autocast = autocast
        self.dtype = next(p.dtype for name, p in unet.named_parameters() if "lora_" not in name)

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self._call(self.prepared, x_t, t, conditioning)

    @torch.no_grad()
    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        with adapters_disabled(self.unet):
            return self._call(self.unet, x_t, t, conditioning)

    @torch.no_grad()
    def target(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if self.ema is None:
            return self._call(self.unet, x_t, t, conditioning)
        with self.ema.swapped_in():
            return self._call(self.unet, x_t, t, conditioning)

    def _call(self, module: Any, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        kwargs = conditioning.map(lambda part: part.to(self.dtype)).unet_kwargs()
        with self.autocast():
            return module(x_t.to(self.dtype), t.clamp(min=0), **kwargs, return_dict=False)[0].float()


def make_networks(unet: Any, *, ema_decay: float | None, **options: Any) -> Networks:
    """Networks on a U-Net that has adapters; `ema_decay` None means the target is the online student."""
    ema = None if ema_decay is None else LoraEma(lora_parameters(unet), ema_decay)
    return Networks(unet, ema=ema, **options)
