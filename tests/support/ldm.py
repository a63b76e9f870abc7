"""The layers of the original ldm / sgm model, by a description of its own.

Programs that keep the original layout inside (ComfyUI, A1111) translate the file's diffusers block
names into ldm block numbers and leave out, without an error, what they do not recognise. So the
names are checked against a walk over the ldm model that knows neither the adapter nor the module
tree of diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from tests.support import ROOT


def published(name: str) -> dict[str, Any]:
    """The configuration of a published U-Net, as its config.json has it."""
    config = json.loads((ROOT / "benchmarks" / "models" / f"{name}.json").read_text())
    return {key: value for key, value in config.items() if not key.startswith("_")}


SD15_UNET, SD21_UNET, SDXL_UNET, SSD1B_UNET = map(published, ("sd15", "sd21", "sdxl", "ssd1b"))
RES_BLOCKS = 2  # num_res_blocks of both models


class Layer(NamedTuple):
    """Widths of a linear layer (kernel 0) or a convolution."""

    inputs: int
    outputs: int
    kernel: int

    def down(self, rank: int) -> tuple[int, ...]:
        return (rank, self.inputs, self.kernel, self.kernel) if self.kernel else (rank, self.inputs)

    def up(self, rank: int) -> tuple[int, ...]:
        return (self.outputs, rank, 1, 1) if self.kernel else (self.outputs, rank)

    def lora_size(self, rank: int) -> int:
        return rank * (self.inputs * max(self.kernel, 1) ** 2 + self.outputs)


@dataclass(frozen=True)
class Original:
    """An ldm / sgm U-Net as its configuration file gives it, and what the adapter must come to."""

    name: str
    unet: dict[str, Any]
    pipeline: Any
    widths: tuple[int, ...]
    """model_channels x channel_mult."""
    depths: tuple[tuple[int, ...], ...]
    """Transformer blocks of every input block of a level, 0: no attention there."""
    output_depths: tuple[tuple[int, ...], ...]
    """The same of the output blocks, whose levels run the other way."""
    middle_depth: int | None
    """None: the middle has one residual block and nothing else."""
    context: int
    linear_projection: bool
    modules: int
    prediction_type: str = "epsilon"
    parameters: int | None = None
    """At rank 64, where it is published."""


def even(*depths: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Levels whose blocks are alike, on both sides."""
    return {
        "depths": tuple((depth,) * RES_BLOCKS for depth in depths),
        "output_depths": tuple((depth,) * (RES_BLOCKS + 1) for depth in reversed(depths)),
    }


SD15 = Original(
    "SD 1.5",
    SD15_UNET,
    StableDiffusionPipeline,
    (320, 640, 1280, 1280),
    **even(1, 1, 1, 0),
    middle_depth=1,
    context=768,
    linear_projection=False,
    modules=278,
    parameters=67_252_224,
)
SD21 = Original(
    "SD 2.1",
    SD21_UNET,
    StableDiffusionPipeline,
    (320, 640, 1280, 1280),
    **even(1, 1, 1, 0),
    middle_depth=1,
    context=1024,
    linear_projection=True,
    modules=278,
    prediction_type="v_prediction",
)
SDXL = Original(
    "SDXL",
    SDXL_UNET,
    StableDiffusionXLPipeline,
    (320, 640, 1280),
    **even(0, 2, 10),
    middle_depth=10,
    context=2048,
    linear_projection=True,
    modules=788,
    parameters=196_751_360,
)
SSD1B = Original(
    "SSD-1B",
    SSD1B_UNET,
    StableDiffusionXLPipeline,
    (320, 640, 1280),
    depths=((0, 0), (2, 2), (4, 4)),
    output_depths=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
    middle_depth=None,
    context=2048,
    linear_projection=True,
    modules=423,
)
ORIGINALS = (SD15, SD21, SDXL, SSD1B)


def res_block(name: str, inputs: int, outputs: int, time: int) -> Iterator[tuple[str, Layer]]:
    yield f"{name}.in_layers.2", Layer(inputs, outputs, 3)
    yield f"{name}.emb_layers.1", Layer(time, outputs, 0)
    yield f"{name}.out_layers.3", Layer(outputs, outputs, 3)
    if inputs != outputs:
        yield f"{name}.skip_connection", Layer(inputs, outputs, 1)


def spatial_transformer(
    name: str, width: int, depth: int, model: Original
) -> Iterator[tuple[str, Layer]]:
    kernel = 0 if model.linear_projection else 1
    yield f"{name}.proj_in", Layer(width, width, kernel)
    yield f"{name}.proj_out", Layer(width, width, kernel)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, source in (("attn1", width), ("attn2", model.context)):
            yield f"{block}.{attention}.to_q", Layer(width, width, 0)
            yield f"{block}.{attention}.to_k", Layer(source, width, 0)
            yield f"{block}.{attention}.to_v", Layer(source, width, 0)
            yield f"{block}.{attention}.to_out.0", Layer(width, width, 0)
        yield f"{block}.ff.net.0.proj", Layer(width, 2 * 4 * width, 0)  # GEGLU: value and gate
        yield f"{block}.ff.net.2", Layer(4 * width, width, 0)


def ldm_layers(model: Original) -> Iterator[tuple[str, Layer]]:
    """The layers inside input_blocks, middle_block and output_blocks, but for the first
    convolution.
    """
    time = 4 * model.widths[0]
    last = len(model.widths) - 1
    width = model.widths[0]
    # what input_blocks.N hands over to the output side; N = 0 is the first convolution
    skips = [width]
    for level, (outputs, depths) in enumerate(zip(model.widths, model.depths, strict=True)):
        for depth in depths:
            name = f"input_blocks.{len(skips)}"
            yield from res_block(f"{name}.0", width, outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            skips.append(width)
        if level < last:
            yield f"input_blocks.{len(skips)}.0.op", Layer(width, width, 3)
            skips.append(width)
    yield from res_block("middle_block.0", width, width, time)
    if model.middle_depth is not None:
        yield from spatial_transformer("middle_block.1", width, model.middle_depth, model)
        yield from res_block("middle_block.2", width, width, time)
    number = 0
    sides = zip(reversed(model.widths), model.output_depths, strict=True)
    for level, (outputs, depths) in enumerate(sides):
        for index, depth in enumerate(depths):
            name = f"output_blocks.{number}"
            yield from res_block(f"{name}.0", width + skips.pop(), outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            if level < last and index == RES_BLOCKS:
                yield f"{name}.{2 if depth else 1}.conv", Layer(width, width, 3)
            number += 1
    assert not skips


RES_BLOCK_NAMES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def diffusers_name(ldm_name: str) -> str:
    """What diffusers calls a layer of the original model."""
    side, numbers = ldm_name.split(".", 1)
    if side == "middle_block":
        part, leaf = numbers.split(".", 1)
        block, index = "mid_block", int(part) // 2
    else:
        number, part, leaf = numbers.split(".", 2)
        place, index = divmod(int(number) - (side == "input_blocks"), RES_BLOCKS + 1)
        block = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{place}"
    if leaf == "op":
        return f"{block}.downsamplers.0.conv"
    if leaf == "conv":
        return f"{block}.upsamplers.0.conv"
    if leaf in RES_BLOCK_NAMES:
        return f"{block}.resnets.{index}.{RES_BLOCK_NAMES[leaf]}"
    return f"{block}.attentions.{index}.{leaf}"


def kohya_name(ldm_name: str) -> str:
    """The adapter file's name of a layer of the original model."""
    return f"lora_unet_{diffusers_name(ldm_name).replace('.', '_')}"
