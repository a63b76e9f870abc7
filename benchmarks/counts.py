"""What one full-size training step costs, counted exactly and without weights or GPU:
`results/counts.json`.

    python -m benchmarks.counts

The U-Nets of Stable Diffusion 1.5 (512 pixels), 2.1 (768) and SDXL (1024) are built from their
published configurations on meta tensors, which have shapes and no memory. On them runs the
objective `lcm` of this toolkit, forward and backward, as the trainer runs it with
`--mixed_precision fp16`: frozen weights in half precision, an adapter of rank 64 in float32.
Latents and embeddings are given, and the optimizer is not in it. Attention is counted as the fused
kernel.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.meters import KernelMeter, flash_attention
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from benchmarks.published import MODELS, Model
from lcm.adapter.lora import add_lora
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.build import build_objective
from lcm.methods.config import MethodConfig, resolved
from lcm.methods.context import LatentBatch, Numbers
from lcm.methods.objective import Objective
from lcm.methods.terms.term import Parts
from lcm.models.conditioning import Conditioning
from lcm.models.gradient_checkpointing import checkpoint_activations
from lcm.models.networks import channels_of, make_networks
from lcm.system.memory import LiveMemory

RESULTS = Path(__file__).parent / "results"
NAME = "counts.json"
DTYPE = torch.float16
RANK = 64
BATCH = 8
TERA, GIGA = 1e12, 1e9
CARDS = (12, 16, 24, 80)
"""Sizes of GPU memory in GB."""
BESIDES = 1.5 * GIGA
"""Left for the CUDA context and for what allocators lose between tensors: assumed, not counted."""


def build_unet(model: Model) -> Any:
    """The U-Net in training mode, on meta tensors, without an adapter."""
    with torch.device("meta"):
        return model.unet().to(DTYPE).train()


def build_loss(unet: Any, **flags: Any) -> Objective:
    """The loss that these flags name, on the noise schedule of Stable Diffusion and SDXL; without
    flags the default one.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    schedule = NoiseSchedule.from_alphas_cumprod((1.0 - betas).cumprod(0), "epsilon")
    parts = Parts(channels_of(unet), device="meta")
    return build_objective(resolved(MethodConfig(**flags)), schedule.to("meta"), parts=parts)


def build_batch(model: Model, width: int, size: int, numbers: Numbers) -> LatentBatch:
    """A batch with so many random numbers besides the usual ones."""
    with torch.device("meta"):
        pooled = (
            None
            if model.pooled_width is None
            else torch.empty(size, model.pooled_width, dtype=DTYPE)
        )
        cond = Conditioning(
            torch.empty(size, 77, width, dtype=DTYPE),
            pooled,
            None if pooled is None else torch.empty(size, 6),
        )
        latents, uniform = torch.empty(size, 4, model.side, model.side), torch.empty(size)
    empty = cond.map(lambda part: part[:1].expand(size, *part.shape[1:]))
    return LatentBatch(
        *(latents, latents.clone(), uniform, uniform.clone(), uniform.clone(), cond, empty),
        extra_noise=latents[:, None].expand(-1, numbers.noises, -1, -1, -1),
        extra_uniform=uniform[:, None].expand(-1, numbers.uniforms),
    )


def count_step(model: Model, size: int = BATCH, checkpointing: str = "no") -> dict[str, Any]:
    """One forward and backward pass of the objective on `size` images: totals, and the share of
    every operation. `checkpointing` is a value of --gradient_checkpointing.
    """
    unet = build_unet(model)
    with torch.device("meta"):
        parameters = add_lora(unet, RANK)
    checkpoint_activations(unet, checkpointing)
    objective = build_loss(unet)
    batch = build_batch(model, unet.config.cross_attention_dim, size, objective.extra_numbers)
    nets = make_networks(unet, ema_decay=None)
    with flash_attention(), LiveMemory() as memory, KernelMeter() as meter:
        loss = objective(nets, batch).loss.mean()
        saved = memory.alive
        loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
    return {
        "batch": size,
        "parameters": sum(p.numel() for name, p in unet.named_parameters() if ".lora_" not in name),
        "trained_parameters": sum(p.numel() for p in parameters),
        **summary(meter, size),
        "saved_bytes_per_image": saved // size,
        "peak_bytes_per_image": memory.peak // size,
    }


def summary(meter: KernelMeter, size: int) -> dict[str, Any]:
    total = meter.total()
    ordered = sorted(meter.by_name.items(), key=lambda item: -item[1].bytes)
    return {
        "kernels": total.kernels,
        "flops_per_image": total.flops // size,
        "bytes_per_image": total.bytes // size,
        "operations": {
            name: [cost.kernels, cost.flops // size, cost.bytes // size] for name, cost in ordered
        },
    }


def count_encoders(model: Model, size: int = BATCH) -> dict[str, Any]:
    """What a step adds that reads images and captions: the VAE's encoder, one picture at a time,
    and the text encoders.
    """
    with torch.device("meta"):
        vae = model.autoencoder().to(DTYPE)
        encoders = [encoder.to(DTYPE) for encoder in model.encoders()]
        pixels = torch.empty(size, 3, model.resolution, model.resolution, dtype=DTYPE)
        tokens = torch.zeros(size, 77, dtype=torch.long)
    vae.enable_slicing()
    with torch.no_grad(), KernelMeter() as vae_meter, flash_attention():
        vae.encode(pixels)
    with torch.no_grad(), KernelMeter() as text_meter:
        for encoder in encoders:
            encoder(tokens)
    text = sum(numbers_in(encoder) for encoder in encoders)
    return {
        "vae": {"parameters": numbers_in(vae), **summary(vae_meter, size)},
        "text": {"parameters": text, **summary(text_meter, size)},
    }


def numbers_in(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def held_bytes(result: dict[str, Any], moments: float, is_cached: bool) -> float:
    """Bytes of a model between steps: U-Net and text encoders in half precision and the VAE in
    float32, of which a cache leaves the U-Net; of every trained number the value, its gradient, the
    target's average, and `moments` bytes of AdamW.
    """
    step, encoders = result["step"], result["encoders"]
    encoding = (
        0 if is_cached else 2 * encoders["text"]["parameters"] + 4 * encoders["vae"]["parameters"]
    )
    return float(2 * step["parameters"] + encoding + (12 + moments) * step["trained_parameters"])


CASES: dict[str, tuple[float, bool]] = {
    "": (8.0, False),
    ", --cache_latents": (8.0, True),
    ", --cache_latents --use_8bit_adam": (2.0 + 8 / 256, True),
}
"""Flags -> bytes of AdamW's moments for a trained number, and whether the encoders are off the
card.
"""


def fit_table(results: dict[str, Any]) -> str:
    """The largest batch on cards of several sizes: a column for each way of gradient
    checkpointing.
    """
    models = results["models"].values()
    rows = []
    for size in CARDS:
        for name, case in CASES.items():
            batches = [
                (size * GIGA - BESIDES - held_bytes(result, *case)) // cost["peak_bytes_per_image"]
                for result in models
                for cost in (result["step"], *result["checkpointing"].values())
            ]
            rows.append(
                [f"{size} GB{name}", *(f"{batch:.0f}" if batch >= 1 else "-" for batch in batches)]
            )
    heads = [
        f"{result['title'].split(' at ')[0]}, {mode}"
        for result in models
        for mode in ("no", *result["checkpointing"])
    ]
    return table(["largest batch", *heads], rows)


def counts_table(results: dict[str, Any]) -> str:
    """One line a model and part."""
    head = [
        "per image",
        "TFLOP",
        f"kernels for {BATCH} images",
        "GB moved",
        "GB of activations kept",
        "GB at the peak",
    ]
    rows = []
    for result in results["models"].values():
        rows.append(row(f"{result['title']}, step", result["step"]))
        for mode, cost in result["checkpointing"].items():
            rows.append(row(f"{result['title']}, step with --gradient_checkpointing {mode}", cost))
        rows += [
            row(f"{result['title']}, {part} encoder", cost)
            for part, cost in result["encoders"].items()
        ]
    return table(head, rows)


def row(name: str, cost: dict[str, Any]) -> list[str]:
    memory = [
        f"{cost[key] / GIGA:.2f}" if key in cost else ""
        for key in ("saved_bytes_per_image", "peak_bytes_per_image")
    ]
    return [
        name,
        f"{cost['flops_per_image'] / TERA:.2f}",
        str(cost["kernels"]),
        f"{cost['bytes_per_image'] / GIGA:.1f}",
        *memory,
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    models = {
        name: {
            "title": f"{model.title} at {model.resolution}",
            "step": count_step(model),
            "checkpointing": {
                mode: count_step(model, checkpointing=mode) for mode in ("selective", "full")
            },
            "encoders": count_encoders(model),
        }
        for name, model in MODELS.items()
    }
    results = {
        "torch": torch.__version__,
        "dtype": str(DTYPE).removeprefix("torch."),
        "rank": RANK,
        "models": models,
    }
    write_json(args.results_dir / NAME, results)
    print(counts_table(results))


if __name__ == "__main__":
    main()
