"""Trains a text-to-image teacher of a picture world: a Stable Diffusion pipeline of about 3 M
parameters, in diffusers format.

    python -m examples.shapes.train_teacher --output_dir examples/shapes/teacher \\
        --vae examples/shapes/teacher/vae
    python -m examples.shapes.train_teacher --output_dir examples/shapes/teacher_v \\
        --vae examples/shapes/teacher/vae \\
        --prediction_type v_prediction --init_from examples/shapes/teacher

The first is the Stable Diffusion 1.5 case (epsilon), the second the 2.x case (v_prediction, zero
terminal SNR), `--world patterns` a teacher of that world. Interrupted, the same command goes on
from `--state`.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from examples.shapes.networks import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_text_encoder,
)
from examples.shapes.render import WORLD
from examples.shapes.tokenizer import build_tokenizer
from examples.shapes.train_vae import render_batch
from examples.worlds import Style, World, add_world_flag, load_world
from lcm.libraries.transformers import save_for_all

EMPTY_PROMPT_PROBABILITY = 0.1  # what classifier-free guidance needs
DECAY_FRACTION = (
    0.4  # constant learning rate, then a linear fall to zero over this share of the run
)


class LatentPool:
    """VAE posteriors of many renders in memory; every draw samples the posterior anew."""

    @torch.no_grad()
    def __init__(
        self,
        vae: AutoencoderKL,
        num_images: int,
        seed: int,
        style: Style | None = None,
        world: World = WORLD,
    ) -> None:
        moments = [
            vae.encode(pixels).latent_dist.parameters
            for pixels in render_batch(num_images, seed, style, world).split(192)
        ]
        self.mean, logvar = torch.cat(moments).chunk(2, dim=1)
        self.std = (0.5 * logvar).exp()
        self.scaling_factor = vae.config.scaling_factor
        # the scenes go through the captions in turn
        self.caption_index = torch.arange(num_images) % len(world.captions)

    def draw(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, 8, 8] at unit variance and caption indices [B]."""
        rows = torch.randint(len(self.mean), (batch_size,))
        mean = self.mean[rows]
        return (
            mean + self.std[rows] * torch.randn_like(mean)
        ) * self.scaling_factor, self.caption_index[rows]


class Teacher(nn.Module):
    """Text encoder and U-Net as one module, because they are trained together."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, x_t: Tensor, t: Tensor, input_ids: Tensor) -> Tensor:
        return self.unet(x_t, t, self.text_encoder(input_ids)[0], return_dict=False)[0]


def loss_weights(scheduler: DDIMScheduler) -> Tensor:
    """[1000]: an error in epsilon counts as the error in v it makes (1 / alpha^2), up to 4: at high
    noise the caption decides.
    """
    epsilon = scheduler.config.prediction_type == "epsilon"
    return (1 / scheduler.alphas_cumprod).clamp(max=4.0) if epsilon else torch.ones(1000)


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor], latents: Tensor, scheduler: DDIMScheduler
) -> Tensor:
    """The plain loss of `predict(x_t, t)` on latents [B, 4, 8, 8] at unit variance."""
    noise = torch.randn_like(latents)
    t = torch.randint(0, 1000, (len(latents),))
    target = (
        noise
        if scheduler.config.prediction_type == "epsilon"
        else scheduler.get_velocity(latents, noise, t)
    )
    error = (predict(scheduler.add_noise(latents, noise, t), t) - target).square().mean((1, 2, 3))
    return (loss_weights(scheduler)[t] * error).mean()


def without_some(captions: Tensor, world: World = WORLD) -> Tensor:
    """Caption indices [B], a tenth of them replaced by that of the empty prompt, which follows the
    captions.
    """
    captions[torch.rand(len(captions)) < EMPTY_PROMPT_PROBABILITY] = len(world.captions)
    return captions


def learning_rate_factor(step: int, num_steps: int, warmup: int = 200) -> float:
    return min(1.0, (step + 1) / warmup, (num_steps - step) / (DECAY_FRACTION * num_steps))


def train(args: argparse.Namespace, tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> Teacher:
    world = load_world(args.world)
    torch.manual_seed(args.seed)
    teacher = Teacher(build_text_encoder(tokenizer), build_unet(args.widths))
    if args.init_from:
        teacher.text_encoder = load_text_encoder(args.init_from, tokenizer)
        teacher.unet = UNet2DConditionModel.from_pretrained(
            args.init_from / "unet", torch_dtype=torch.float32, use_safetensors=True
        )
    teacher.train().requires_grad_(True)
    parameters = list(teacher.parameters())
    scheduler = build_scheduler(args.prediction_type)
    optimizer = torch.optim.AdamW(
        parameters, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    ema = EMAModel(parameters, decay=0.999)
    first_step = 0
    if args.state.exists():
        state = torch.load(args.state, weights_only=True)
        teacher.load_state_dict(state["teacher"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        first_step = state["step"]
        torch.manual_seed(args.seed + first_step)
    input_ids = tokenizer(
        [*world.captions, ""], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    pool = LatentPool(vae, args.num_images, args.seed, world=world)
    start, mean_loss = time.perf_counter(), 0.0
    for step in range(first_step, args.num_steps):
        latents, captions = pool.draw(args.batch_size)
        ids = input_ids[without_some(captions, world)]
        loss = diffusion_loss(functools.partial(teacher, input_ids=ids), latents, scheduler)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(step, args.num_steps)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters)
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / (step - first_step + 1))
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: loss {mean_loss:.4f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
        if (step + 1) % 250 == 0 or step + 1 == args.num_steps:
            args.state.parent.mkdir(parents=True, exist_ok=True)
            partial = args.state.with_suffix(".part")
            state = {
                "teacher": teacher.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(),
                "step": step + 1,
            }
            torch.save(state, partial)
            partial.replace(args.state)
    ema.copy_to(parameters)
    return teacher.eval()


def save(
    teacher: Teacher, tokenizer: CLIPTokenizer, vae: AutoencoderKL, args: argparse.Namespace
) -> None:
    """Writes the pipeline folder: fp16 safetensors, no safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=teacher.text_encoder,
        tokenizer=tokenizer,
        unet=teacher.unet,
        scheduler=build_scheduler(args.prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_for_all(pipeline.to(torch.float16), args.output_dir)
    # transformers loads in the dtype of the file, diffusers in float32: without torch_dtype=
    # the two would not fit together
    config = args.output_dir / "text_encoder" / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"dtype": "float16"', '"dtype": "float32"'),
        encoding="utf-8",
        newline="\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--prediction_type", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument(
        "--init_from",
        type=Path,
        help="teacher folder whose U-Net and text encoder are the starting point",
    )
    parser.add_argument("--num_images", type=int, default=192 * 200, help="renders in the pool")
    parser.add_argument("--num_steps", type=int, default=5000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--widths",
        type=int,
        nargs=2,
        default=(64, 128),
        help="channels of the U-Net's two resolutions, multiples of 16",
    )
    add_world_flag(parser)
    parser.add_argument(
        "--state",
        type=Path,
        help="file that holds the interrupted run (default: out/<output_dir>.pt)",
    )
    args = parser.parse_args()
    args.state = args.state or Path("out") / f"{args.output_dir.name}.pt"
    tokenizer = build_tokenizer(world=load_world(args.world))
    vae = AutoencoderKL.from_pretrained(
        args.vae, torch_dtype=torch.float32, use_safetensors=True
    ).eval()
    save(train(args, tokenizer, vae), tokenizer, vae, args)


if __name__ == "__main__":
    main()
