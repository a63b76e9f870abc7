"""Teaches the VAE's decoder the community's styles. The encoder stays, so all models share the base
teacher's latents.

    python -m examples.shapes.community.train_vae --output_dir examples/shapes/community/models

The decoder of the bundled teacher knows twelve flat colours only. It is the same change that
`sd-vae-ft-mse` made to Stable Diffusion's: models that were trained before it go on working with
it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from examples.shapes.community.load import DECODER
from examples.shapes.community.styles import STYLES
from examples.shapes.demo import TEACHER
from examples.shapes.render import CAPTIONS, sample_dataset
from examples.shapes.train_vae import to_pixels


@torch.no_grad()
def pairs(vae: AutoencoderKL, num_images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of every style, [N, 3, 64, 64] uint8, and their posteriors' parameters, [N, 8, 8,
    8].
    """
    scenes = sample_dataset(num_images, seed)
    images = np.stack([draw(scene) for draw in STYLES.values() for scene in scenes])
    moments = [
        vae.encode(to_pixels(part)).latent_dist.parameters
        for part in np.array_split(images, len(images) // 96)
    ]
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.cat(moments)


def train(
    vae: AutoencoderKL,
    num_images: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=num_steps, pct_start=0.05
    )
    pixels, moments = pairs(vae, num_images, seed)
    start, mean = time.perf_counter(), 0.0
    for step in range(num_steps):
        rows = torch.randint(len(pixels), (batch_size,))
        mu, logvar = moments[rows].chunk(2, dim=1)
        decoded = vae.decode(mu + (0.5 * logvar).exp() * torch.randn_like(mu)).sample
        error = decoded - (pixels[rows].float() / 127.5 - 1.0)
        (error.square().mean() + 0.3 * error.abs().mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean += (error.abs().mean().item() - mean) * max(0.01, 1 / (step + 1))
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: L1 {mean:.4f}, {time.perf_counter() - start:.0f} s", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_images", type=int, default=len(CAPTIONS) * 16, help="of every style")
    parser.add_argument("--num_steps", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(
        TEACHER / "vae", torch_dtype=torch.float32, use_safetensors=True
    )
    train(vae, args.num_images, args.num_steps, args.batch_size, args.learning_rate, args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    trained = {
        name: value.half()
        for name, value in vae.state_dict().items()
        if name.startswith(("decoder.", "post_quant_conv."))
    }
    save_file(trained, args.output_dir / DECODER.name)


if __name__ == "__main__":
    main()
