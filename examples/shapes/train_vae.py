"""Trains the VAE of a picture world (f = 8, latents 4x8x8): squared and absolute error + a little
KL, about 12 minutes on two cores.

python -m examples.shapes.train_vae --output_dir examples/shapes/teacher/vae
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from examples.shapes.render import WORLD
from examples.worlds import Style, World, add_world_flag, load_world

# per latent element, against errors per pixel: the posterior std stays a few % of the latents'
KL_WEIGHT = 1e-4


def to_pixels(images: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def render_batch(
    num_images: int, seed: int, style: Style | None = None, world: World = WORLD
) -> Tensor:
    """[B, 3, 64, 64] float32 pictures of the captions in turn, by the renderer or in a style."""
    scenes = world.sample_dataset(num_images, seed)
    return to_pixels(np.stack([(style or world.render)(scene) for scene in scenes]))


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        # one group keeps the ratios between channels, which is where flat colours live
        norm_num_groups=1,
        sample_size=64,
    )


def train(
    vae: AutoencoderKL,
    world: World,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    log_every: int = 100,
) -> AutoencoderKL:
    """Trains what requires gradients."""
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=num_steps, pct_start=0.05
    )
    pool = render_batch(min(192 * 80, num_steps * batch_size), seed, world=world)
    start = time.perf_counter()
    for step in range(num_steps):
        pixels = pool[torch.randint(len(pool), (batch_size,))]
        posterior = vae.encode(pixels).latent_dist
        reconstruction = vae.decode(posterior.sample()).sample
        error = reconstruction - pixels
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        (error.square().mean() + 0.3 * error.abs().mean() + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % log_every == 0:
            print(
                f"step {step + 1}: L1 {error.abs().mean().item():.4f}, KL {kl.item():.2f}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return vae


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, world: World, seed: int = 1) -> None:
    """Stores 1 / std of the latents, as Stable Diffusion does, so that the diffusion sees unit
    variance.
    """
    pixels = render_batch(1920, seed, world=world)
    latents = torch.cat([vae.encode(part).latent_dist.sample() for part in pixels.split(192)])
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_steps", type=int, default=9000)
    parser.add_argument("--batch_size", type=int, default=6)
    parser.add_argument("--learning_rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--refine", type=Path, help="a trained VAE whose decoder alone is trained further"
    )
    parser.add_argument("--init_from", type=Path, help="a trained VAE, of another world, say")
    add_world_flag(parser)
    args = parser.parse_args()
    world = load_world(args.world)
    torch.manual_seed(args.seed)
    vae = build_vae()
    if args.refine or args.init_from:
        vae = AutoencoderKL.from_pretrained(
            args.refine or args.init_from, torch_dtype=torch.float32, use_safetensors=True
        )
    if args.refine:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    vae = train(
        vae.train(), world, args.num_steps, args.batch_size, args.learning_rate, args.seed
    ).eval()
    if not args.refine:
        set_scaling_factor(vae, world)
    vae.half().save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
