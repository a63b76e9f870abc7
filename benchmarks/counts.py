"""What one full-size training step costs, counted exactly and without weights or GPU: `results/counts.json`.

    python -m benchmarks.counts

The U-Nets of Stable Diffusion 1.5 (512 pixels) and SDXL (1024) are built from their published configurations on meta tensors,
which have shapes and no memory. On them runs the objective `lcm` of this toolkit, forward and backward, as the trainer runs it
with `--mixed_precision fp16`: frozen weights in half precision, an adapter of rank 64 in float32. Latents and embeddings are
given, and the optimizer is not in it. Attention is counted as the fused kernel.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.meters import KernelMeter, SavedActivations, flash_attention
from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json
from lcm.adapters import add_lora
from lcm.conditioning import Conditioning
from lcm.networks import make_networks
from lcm.objectives import LatentBatch, Objective, ObjectiveConfig, resolve
from lcm.schedule import NoiseSchedule

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAME = "counts.json"
DTYPE = torch.float16
RANK = 64
BATCH = 8
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Model:
    """A published model: the file of its U-Net's configuration, and what else a step must know."""

    title: str
    config: str
    resolution: int
    pooled_width: int | None
    text_encoders: tuple[tuple[type[Any], dict[str, Any]], ...]

    @property
    def side(self) -> int:
        """Of the latents."""
        return self.resolution // 8


CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
MODELS = {
    "sd15": Model("Stable Diffusion 1.5", "sd15.json", 512, None, ((CLIPTextModel, CLIP_L),)),
    "sdxl": Model(
        "SDXL",
        "sdxl.json",
        1024,
        1280,
        ((CLIPTextModel, CLIP_L), (CLIPTextModelWithProjection, {**CLIP_G, "projection_dim": 1280, "hidden_act": "gelu"})),
    ),
}


def build_unet(model: Model) -> Any:
    """The U-Net in training mode, on meta tensors, without an adapter."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads((HERE / "models" / model.config).read_text())).to(DTYPE).train()


def build_objective() -> Objective:
    """The default method with its defaults, on the noise schedule of Stable Diffusion and SDXL."""
    config = ObjectiveConfig()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    schedule = NoiseSchedule.from_alphas_cumprod((1.0 - betas).cumprod(0), "epsilon")
    return resolve(config).build(config, schedule.to("meta"))


def build_batch(model: Model, width: int, size: int) -> LatentBatch:
    with torch.device("meta"):
        pooled = None if model.pooled_width is None else torch.empty(size, model.pooled_width, dtype=DTYPE)
        cond = Conditioning(torch.empty(size, 77, width, dtype=DTYPE), pooled, None if pooled is None else torch.empty(size, 6))
        latents, uniform = torch.empty(size, 4, model.side, model.side), torch.empty(size)
    empty = cond.map(lambda part: part[:1].expand(size, *part.shape[1:]))
    return LatentBatch(latents, latents.clone(), uniform, uniform.clone(), uniform.clone(), cond, empty)


def count_step(model: Model, size: int = BATCH) -> dict[str, Any]:
    """One forward and backward pass of the objective on `size` images: totals, and the share of every operation."""
    unet = build_unet(model)
    with torch.device("meta"):
        parameters = add_lora(unet, RANK)
    objective, batch = build_objective(), build_batch(model, unet.config.cross_attention_dim, size)
    nets, saved = make_networks(unet, ema_decay=None), SavedActivations(unet)
    with flash_attention(), KernelMeter() as meter:
        with saved.watching():
            loss = objective(nets, batch).mean()
        loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
    return {
        "batch": size,
        "parameters": sum(p.numel() for name, p in unet.named_parameters() if ".lora_" not in name),
        "trained_parameters": sum(p.numel() for p in parameters),
        **summary(meter, size),
        "saved_bytes_per_image": saved.bytes // size,
    }


def summary(meter: KernelMeter, size: int) -> dict[str, Any]:
    total = meter.total()
    ordered = sorted(meter.by_name.items(), key=lambda item: -item[1].bytes)
    return {
        "kernels": total.kernels,
        "flops_per_image": total.flops // size,
        "bytes_per_image": total.bytes // size,
        "operations": {name: [cost.kernels, cost.flops // size, cost.bytes // size] for name, cost in ordered},
    }


def count_encoders(model: Model, size: int = BATCH) -> dict[str, Any]:
    """What a step adds that reads images and captions: the VAE's encoder, one picture at a time, and the text encoders."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
        ).to(DTYPE)
        encoders = [kind(CLIPTextConfig(**config)).to(DTYPE) for kind, config in model.text_encoders]
        pixels = torch.empty(size, 3, model.resolution, model.resolution, dtype=DTYPE)
        tokens = torch.zeros(size, 77, dtype=torch.long)
    vae.enable_slicing()
    with torch.no_grad(), KernelMeter() as vae_meter, flash_attention():
        vae.encode(pixels)
    with torch.no_grad(), KernelMeter() as text_meter:
        for encoder in encoders:
            encoder(tokens)
    return {"vae": summary(vae_meter, size), "text": summary(text_meter, size)}


def counts_table(results: dict[str, Any]) -> str:
    """One line a model and part."""
    head = ["per image", "TFLOP", f"kernels for {BATCH} images", "GB moved", "GB of activations kept"]
    rows = []
    for result in results["models"].values():
        rows.append(row(f"{result['title']}, step", result["step"]))
        rows += [row(f"{result['title']}, {part} encoder", cost) for part, cost in result["encoders"].items()]
    return table(head, rows)


def row(name: str, cost: dict[str, Any]) -> list[str]:
    saved = f"{cost['saved_bytes_per_image'] / GIGA:.2f}" if "saved_bytes_per_image" in cost else ""
    return [name, f"{cost['flops_per_image'] / TERA:.2f}", str(cost["kernels"]), f"{cost['bytes_per_image'] / GIGA:.1f}", saved]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    models = {
        name: {
            "title": f"{model.title} at {model.resolution}",
            "step": count_step(model),
            "encoders": count_encoders(model),
        }
        for name, model in MODELS.items()
    }
    results = {"torch": torch.__version__, "dtype": str(DTYPE).removeprefix("torch."), "rank": RANK, "models": models}
    write_json(args.results_dir / NAME, results)
    print(counts_table(results))


if __name__ == "__main__":
    main()
