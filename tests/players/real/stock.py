"""Asks stock diffusers, the installed one: `python stock.py FOLDER FOLDER`. `load_lora_weights` of
its pipelines puts each file into a U-Net without memory.
"""

from __future__ import annotations

from functools import partial

import diffusers
import torch
from peft.tuners.lora import LoraLayer

from tests.players.real.asking import STEPS, Asked, answer, answer_layers, work


def ask_layers(asked: Asked) -> None:
    """The file on the configuration that it was made for."""
    is_xl = asked.name in ("SDXL", "SSD-1B")
    pipeline = diffusers.StableDiffusionXLPipeline if is_xl else diffusers.StableDiffusionPipeline
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(asked.config)
    for module in unet.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            # one number in the place of all: peft sends adapters where the weights are
            whole = torch.zeros(()).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(whole, requires_grad=False))
    state, alphas, metadata = pipeline.lora_state_dict(
        str(asked.file.parent),
        weight_name=asked.file.name,
        unet_config=unet.config,
        return_lora_metadata=True,
    )
    pipeline.load_lora_into_unet(
        state,
        network_alphas=alphas,
        unet=unet,
        adapter_name="ours",
        metadata=metadata,
        low_cpu_mem_usage=True,
    )

    def added(layer: LoraLayer) -> torch.Tensor:
        down, up = (part["ours"].weight.float().flatten(1) for part in (layer.lora_A, layer.lora_B))
        return layer.scaling["ours"] * (up @ down)

    layers = {
        name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)
    }
    answer_layers(
        asked,
        {f"lora_unet_{name.replace('.', '_')}": partial(added, m) for name, m in layers.items()},
    )


def ask_times() -> None:
    """The scheduler of the recipe, as it samples with any number of steps."""
    scheduler = diffusers.LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps.tolist()
        answer("times", steps=steps, sampler="LCMScheduler", predicts="epsilon", times=times)


def main() -> None:
    _, files = work()
    for asked in files:
        ask_layers(asked)
    ask_times()


if __name__ == "__main__":
    main()
