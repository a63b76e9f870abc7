"""Makes the community models: the bundled teacher, trained further on one style with the plain
diffusion loss.

    python -m examples.shapes.community.make --style outlined pastel shadow
    python -m examples.shapes.community.make --style neon --lora_rank 8 --learning_rate 2e-3

The first trains whole U-Nets and writes what changed (`delta.py`), the second an ordinary style
LoRA. Captions are the plain ones.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.shapes.community.delta import pack
from examples.shapes.community.load import MODELS
from examples.shapes.community.styles import STYLES
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import load_pipe
from examples.shapes.render import CAPTIONS
from examples.shapes.train_teacher import LatentPool, diffusion_loss, without_some
from lcm.adapter.export import kohya_state_dict

WARMUP = 50
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@torch.no_grad()
def prompt_embeds(pipe: Any) -> Tensor:
    """The text encodings of the 192 captions and the empty prompt, [193, 77, 64]."""
    ids = pipe.tokenizer(
        [*CAPTIONS, ""], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    return pipe.text_encoder(ids)[0]


def denoise(unet: Any, context: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The U-Net's prediction for latents [B, 4, 8, 8] with `context` [B, 77, 64]."""
    return unet(x_t, t, context, return_dict=False)[0]


def fine_tune(
    pipe: Any, pool: LatentPool, num_steps: int, batch_size: int, learning_rate: float
) -> None:
    """Trains what requires gradients in the pipeline's U-Net; the learning rate falls to zero."""
    embeds, parameters = prompt_embeds(pipe), [p for p in pipe.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / num_steps)
    )
    start, mean = time.perf_counter(), 0.0
    for step in range(num_steps):
        latents, captions = pool.draw(batch_size)
        predict = functools.partial(denoise, pipe.unet, embeds[without_some(captions)])
        loss = diffusion_loss(predict, latents, pipe.scheduler)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean += (loss.item() - mean) * max(0.01, 1 / (step + 1))
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: loss {mean:.4f}, {time.perf_counter() - start:.0f} s", flush=True
            )


def make(style: str, args: argparse.Namespace) -> dict[str, Tensor]:
    """The tensors of the model's file."""
    torch.manual_seed(args.seed)
    pipe = load_pipe(TEACHER)
    pool = LatentPool(pipe.vae, args.num_images, args.seed, STYLES[style])
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pipe.unet.requires_grad_(not args.lora_rank)
    if args.lora_rank:
        pipe.unet.add_adapter(
            LoraConfig(r=args.lora_rank, lora_alpha=args.lora_rank / 2, target_modules=ATTENTION)
        )
    fine_tune(pipe, pool, args.num_steps, args.batch_size, args.learning_rate)
    return (
        kohya_state_dict(pipe.unet)
        if args.lora_rank
        else pack(before, pipe.unet.state_dict(), args.delta_rank)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--style", choices=[style for style in STYLES if style != "plain"], nargs="+", required=True
    )
    parser.add_argument("--output_dir", type=Path, default=MODELS)
    parser.add_argument(
        "--lora_rank",
        type=int,
        default=0,
        help="train a LoRA of this rank; 0 trains the whole U-Net",
    )
    parser.add_argument(
        "--delta_rank",
        type=int,
        default=24,
        help="of the differences that are kept of a whole U-Net",
    )
    parser.add_argument("--num_images", type=int, default=len(CAPTIONS) * 40)
    parser.add_argument("--num_steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for style in args.style:
        save_file(make(style, args), args.output_dir / f"{style}.safetensors")


if __name__ == "__main__":
    main()
