"""What is measured on: models of true size with random weights, batches for them, and runs of this
toolkit put together without the files of a model or of data.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from benchmarks import counts
from benchmarks.gpu.plan import Bench
from benchmarks.published import MODELS, Model
from examples.shapes.render import CAPTIONS
from examples.shapes.tokenizer import build_tokenizer
from lcm.config.run import TrainConfig
from lcm.data.batch import Moments, Pixels, SampleBatch
from lcm.models.conditioning import ImageSize
from lcm.models.families import FAMILIES, Family
from lcm.training.inputs import DTYPES
from lcm.training.launch import make_machine
from lcm.training.learning_rate import with_rate
from lcm.training.run import Run, RunFacts
from lcm.training.setup import make_objective, make_state
from lcm.training.state import TrainState
from lcm.training.student import build_student
from lcm.training.teachers import FrozenWeights

RANK, TINY_RANK = 64, 4
GUIDANCE_SCALE = 5.0
NUM_UPDATES = 1000
SMALL_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SMALL_VAE = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 4}
SMALL_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}
TINY = {
    "sd15": Model(
        "a small Stable Diffusion",
        "sd15.json",
        64,
        None,
        ((CLIPTextModel, SMALL_CLIP),),
        {**SMALL_UNET, "cross_attention_dim": 16},
        SMALL_VAE,
    ),
    "sdxl": Model(
        "a small SDXL",
        "sdxl.json",
        64,
        16,
        ((CLIPTextModel, SMALL_CLIP), (CLIPTextModelWithProjection, SMALL_CLIP)),
        {
            **SMALL_UNET,
            "cross_attention_dim": 32,
            "transformer_layers_per_block": 1,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        {**SMALL_VAE, "force_upcast": True},
    ),
}
"""What stands in for a published model in a rehearsal."""


def model_of(bench: Bench, name: str) -> Model:
    """A published model, or its stand-in."""
    return (TINY if bench.tiny else MODELS)[name]


def batch_of(bench: Bench, size: int) -> int:
    """The batch size, or that of a rehearsal."""
    return min(size, 2) if bench.tiny else size


def precision_of(bench: Bench, precision: str) -> str:
    """A value of --mixed_precision; accelerate has no fp16 on a CPU."""
    return precision if bench.device.is_gpu or precision != "fp16" else "no"


# --- models ---------------------------------------------------------------------------------------


def made(build: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen network with random weights, made where it will be."""
    with torch.device(device):
        network = build()
    return network.to(dtype).requires_grad_(False).eval()


def make_pipe(bench: Bench, name: str, dtype: torch.dtype) -> Any:
    """The pipeline of a published model with random weights, on the device, all of it in `dtype`,
    as stock diffusers loads it.
    """
    model, device = model_of(bench, name), bench.device.torch
    torch.manual_seed(0)
    encoders = list(made(lambda: nn.ModuleList(model.encoders()), device, dtype))
    parts = {
        "unet": made(model.unet, device, dtype),
        "vae": made(model.autoencoder, device, dtype),
        "text_encoder": encoders[0],
        "tokenizer": build_tokenizer(),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }
    if len(encoders) == 1:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        second = {"text_encoder_2": encoders[1], "tokenizer_2": build_tokenizer()}
        pipe = StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_teacher(bench: Bench, name: str, precision: str) -> Family:
    """The same as a teacher for --mixed_precision. The VAE of SDXL is float32, as `load_family` has
    it.
    """
    pipe = make_pipe(bench, name, DTYPES[precision_of(bench, precision)])
    if pipe.vae.config.force_upcast:
        pipe.vae.float()
    return family_of(pipe)


def family_of(pipe: Any) -> Family:
    """A pipeline as a teacher."""
    return FAMILIES[type(pipe).__name__](pipe)


def twin(family: Family) -> Family:
    """The same teacher with a U-Net of its own that has the same weights in the same memory, so
    that each may have its own adapter. The U-Net must not have one yet.
    """
    unet = family.unet
    with torch.device("meta"):
        copy = type(unet).from_config(unet.config)
    copy.load_state_dict(unet.state_dict(), assign=True)
    copy.requires_grad_(False).eval()
    return family_of(family.few_step_pipe(copy, family.pipe.scheduler))


@functools.cache
def flops_per_image(name: str, tiny: bool) -> dict[str, int]:
    """FLOPs of a training step and of the encoders, for one image: those of `results/counts.json`,
    which are counted with the toolkit's own step. Those of a stand-in are nobody's, a number to
    compute with.
    """
    if tiny:
        return {"step": 10**9, "encoders": 10**8}
    found = json.loads((counts.RESULTS / counts.NAME).read_text(encoding="utf-8"))["models"][name]
    return {
        "step": found["step"]["flops_per_image"],
        "encoders": sum(part["flops_per_image"] for part in found["encoders"].values()),
    }


# --- batches --------------------------------------------------------------------------------------


def pixel_batch(bench: Bench, name: str, size: int) -> SampleBatch:
    """Random pictures with captions, all on the device, none at the lowest point of the grid, where
    the scripts mean another landing point.
    """
    model, device = model_of(bench, name), bench.device.torch
    generator = torch.Generator(device).manual_seed(0)
    side, latents = model.resolution, (size, 4, model.side, model.side)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, device=device, generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    return SampleBatch(
        keys=[str(i) for i in range(size)],
        prompts=[CAPTIONS[i % len(CAPTIONS)] for i in range(size)],
        sizes=[ImageSize(side, side, 0, 0, side, side)] * size,
        content=Pixels(2.0 * uniform(size, 3, side, side) - 1.0),
        embeds=None,
        posterior_noise=normal(*latents),
        noise=normal(*latents),
        uniform_time=0.02 + 0.98 * uniform(size),
        uniform_guidance=uniform(size),
        uniform_landing=uniform(size),
        extra_noise=normal(size, 1, *latents[1:]),
    )


@torch.no_grad()
def cached(family: Family, batch: SampleBatch) -> SampleBatch:
    """The same batch as --cache_latents reads it."""
    assert isinstance(batch.content, Pixels)
    moments = family.image_moments(batch.content.tensor)
    return replace(batch, content=Moments(moments), embeds=family.embed_prompts(batch.prompts))


# --- runs -----------------------------------------------------------------------------------------


def make_run(
    bench: Bench, family: Family, batch: int, precision: str, *, scaler: Any = None, **flags: Any
) -> tuple[Run, TrainState]:
    """A run of this toolkit on a teacher that is there already, with all that a step asks for.

    There are no data, and nothing is validated or exported. `scaler` is a loss scaler in the place
    of accelerate's.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # as for a launch of its own
    GradientState._reset_state()
    settings: dict[str, Any] = {
        "pretrained_teacher_model": "random",
        "train_data_dir": "none",
        "output_dir": tempfile.gettempdir(),
        "report_to": ["none"],
        "mixed_precision": precision_of(bench, precision),
        "train_batch_size": batch,
        "lora_rank": TINY_RANK if bench.tiny else RANK,
        "guidance_scale": GUIDANCE_SCALE,
        "max_train_steps": NUM_UPDATES,
    }
    config = with_rate(TrainConfig.of(**{**settings, **flags}), family)
    machine = make_machine(config.loop, config.output, config.optimizer)
    if scaler is not None:
        machine.accelerator.scaler = scaler
    objective = make_objective(config.method, family, machine)
    student = build_student(config, family, machine.accelerator, None, objective)
    nothing = cast(Any, None)
    facts = RunFacts(
        resolution=family.native_resolution,
        num_updates=config.loop.max_train_steps,
        samples_per_step=batch,
        fingerprint="",
        styles=[],
        settings=config.flat(),
        report=nothing,
        prompts=[],
    )
    run = Run(
        config=config,
        facts=facts,
        machine=machine,
        workspace=nothing,
        families=[family],
        weights=FrozenWeights(student.unet, []),
        loaded=nothing,
        inputs=nothing,
        objective=objective,
        publisher=nothing,
        accumulation=1,
    )
    return run, make_state(run, student, None)
