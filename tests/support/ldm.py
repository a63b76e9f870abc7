"""The layers of the original ldm / sgm model, by a description of its own.

Programs that keep the original layout inside (ComfyUI, A1111) translate the file's diffusers block
names into ldm block numbers and leave out, without an error, what they do not recognise. So the
names are checked against a walk over the ldm model that knows neither the adapter nor the module
tree of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "norm_num_groups": 32,
}
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

    unet: dict[str, Any]
    pipeline: Any
    widths: tuple[int, ...]  # model_channels x channel_mult
    depths: tuple[int, ...]  # transformer blocks per level, 0: no attention there
    middle_depth: int
    context: int
    linear_projection: bool
    modules: int
    parameters: int  # at rank 64


SD15 = Original(
    SD15_UNET,
    StableDiffusionPipeline,
    (320, 640, 1280, 1280),
    (1, 1, 1, 0),
    1,
    768,
    False,
    278,
    67_252_224,
)
SDXL = Original(
    SDXL_UNET,
    StableDiffusionXLPipeline,
    (320, 640, 1280),
    (0, 2, 10),
    10,
    2048,
    True,
    788,
    196_751_360,
)


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
    levels = list(enumerate(zip(model.widths, model.depths, strict=True)))
    width = model.widths[0]
    # what input_blocks.N hands over to the output side; N = 0 is the first convolution
    skips = [width]
    for level, (outputs, depth) in levels:
        for _ in range(RES_BLOCKS):
            name = f"input_blocks.{len(skips)}"
            yield from res_block(f"{name}.0", width, outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            skips.append(width)
        if level < len(levels) - 1:
            yield f"input_blocks.{len(skips)}.0.op", Layer(width, width, 3)
            skips.append(width)
    yield from res_block("middle_block.0", width, width, time)
    yield from spatial_transformer("middle_block.1", width, model.middle_depth, model)
    yield from res_block("middle_block.2", width, width, time)
    number = 0
    for level, (outputs, depth) in reversed(levels):
        for index in range(RES_BLOCKS + 1):
            name = f"output_blocks.{number}"
            yield from res_block(f"{name}.0", width + skips.pop(), outputs, time)
            width = outputs
            if depth:
                yield from spatial_transformer(f"{name}.1", width, depth, model)
            if level and index == RES_BLOCKS:
                yield f"{name}.{2 if depth else 1}.conv", Layer(width, width, 3)
            number += 1
    assert not skips


RES_BLOCK_NAMES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def kohya_name(ldm_name: str) -> str:
    """The adapter file's name of a layer of the original model."""
    side, numbers = ldm_name.split(".", 1)
    if side == "middle_block":
        part, leaf = numbers.split(".", 1)
        block, index = "mid_block", int(part) // 2
    else:
        number, part, leaf = numbers.split(".", 2)
        place, index = divmod(int(number) - (side == "input_blocks"), RES_BLOCKS + 1)
        block = f"{'down' if side == 'input_blocks' else 'up'}_blocks_{place}"
    if leaf == "op":
        module = "downsamplers_0_conv"
    elif leaf == "conv":
        module = "upsamplers_0_conv"
    elif leaf in RES_BLOCK_NAMES:
        module = f"resnets_{index}_{RES_BLOCK_NAMES[leaf]}"
    else:
        module = f"attentions_{index}_{leaf.replace('.', '_')}"
    return f"lora_unet_{block}_{module}"
