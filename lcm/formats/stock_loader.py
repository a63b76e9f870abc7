"""What stock diffusers takes of an adapter file: found out by loading it for real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.peft import PeftAdapterMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lcm.formats.factors import Adapter, Factors
from lcm.formats.taken import Taken, taken
from lcm.libraries.diffusers import named_as_safetensors
from lcm.system.console import silenced

ATTACHED = "verified"
"""A name of an adapter. Under "default" diffusers would also read keys with `.default.`, as it does
under no other.
"""


class Skeleton(PeftAdapterMixin, nn.Module):
    """A module tree with the adapted layers and nothing else, which takes no memory: all that the
    stock loader looks at.
    """

    def __init__(self, layers: dict[str, Factors]) -> None:
        super().__init__()
        for name, factors in layers.items():
            *path, leaf = name.split(".")
            parent: nn.Module = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(leaf, layer(factors))


def layer(factors: Factors) -> nn.Module:
    """What the factors adapt, with one number in the place of all its weights."""
    outputs, (_, inputs, *kernel) = len(factors.up), factors.down.shape
    with torch.device("meta"):
        shell = (
            nn.Conv2d(inputs, outputs, kernel[0], bias=False)
            if kernel
            else nn.Linear(inputs, outputs, bias=False)
        )
    shell.weight = nn.Parameter(
        torch.zeros((), dtype=factors.up.dtype).expand(shell.weight.shape), requires_grad=False
    )
    return shell


def loaded_by_diffusers(adapter: Adapter, file: Path | dict[str, Tensor]) -> Taken:
    """What `load_lora_weights` of the stock pipeline takes of a file, or of the tensors of one, on
    a skeleton of the U-Net.
    """
    if isinstance(file, Path):
        with named_as_safetensors(file) as named:
            return stock_takes(adapter, str(named.parent), weight_name=named.name)
    return stock_takes(adapter, dict(file))


def stock_takes(adapter: Adapter, source: str | dict[str, Tensor], **options: str) -> Taken:
    """What comes of the first argument of `lora_state_dict`, and its other `options`."""
    skeleton = Skeleton(adapter.component("unet"))
    pipeline = StableDiffusionXLPipeline if adapter.text_width == 2048 else StableDiffusionPipeline
    config = SimpleNamespace(layers_per_block=2)
    try:
        state, alphas, metadata = pipeline.lora_state_dict(
            source,
            unet_config=config,
            return_lora_metadata=True,
            use_safetensors=True,
            **options,
        )
        with silenced():
            pipeline.load_lora_into_unet(
                state,
                network_alphas=alphas,
                unet=skeleton,
                adapter_name=ATTACHED,
                metadata=metadata,
                low_cpu_mem_usage=True,
            )
    except Exception as error:  # whatever a user would see
        return Taken(0, 0, error=" ".join(str(error).split())[:160])
    loaded = {
        name: m for name, m in skeleton.named_modules() if isinstance(m, LoraLayer) and is_filled(m)
    }
    return taken(adapter, {name: m.scaling[ATTACHED] for name, m in loaded.items()})


def is_filled(module: LoraLayer) -> bool:
    """Whether both matrices came from the file: what did not is left without memory."""
    return not any(part[ATTACHED].weight.is_meta for part in (module.lora_A, module.lora_B))
