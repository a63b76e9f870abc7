"""The training step of the public LCM-LoRA scripts, restated from their logic: what this toolkit's
step is measured against.

`TwoUnets` is the one that reads webdatasets, with a teacher and a student; `OneUnet` switches the
adapter off for the teacher. Both encode images and captions in every step, ask the teacher once
with and once without the caption, run the student first and read the loss every step. The random
numbers come with the batch.

At the lowest point of the grid the scripts land at timestep 0 and this toolkit on clean data;
everywhere else the losses agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lcm.adapter.lora import lora_parameters
from lcm.adapter.names import LORA_TARGETS
from lcm.data.batch import Pixels, SampleBatch

T = 1000


@dataclass(frozen=True)
class Settings:
    """What the scripts take as flags; `w` is guidance_scale - 1. The defaults are those of the
    scripts.
    """

    rank: int = 64
    w_min: float = 5.0
    w_max: float = 15.0
    num_ddim_timesteps: int = 50
    learning_rate: float = 1e-4
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 500
    max_train_steps: int = 1000
    adam_beta2: float = 0.999
    huber_c: float = 0.001
    max_grad_norm: float = 1.0


def boundary(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the scripts: sigma_data 0.5, timestep_scaling 10."""
    scaled = 10.0 * timesteps.float()
    c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
    return c_skip.view(-1, 1, 1, 1), c_out.view(-1, 1, 1, 1)


class TwoUnets:
    """A frozen teacher, and a student that is another U-Net with an adapter of PEFT. The teacher
    predicts epsilon.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.pipe = pipe = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, use_safetensors=True
        )
        self.tokenizer, self.text_encoder, self.vae = pipe.tokenizer, pipe.text_encoder, pipe.vae
        for frozen in (pipe.vae, pipe.text_encoder, pipe.unet):
            frozen.requires_grad_(False).eval()
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod
        self.make_unets(pipe.unet)
        self.unet.train()
        self.optimizer = torch.optim.AdamW(
            self.trained(),
            lr=settings.learning_rate,
            betas=(0.9, settings.adam_beta2),
            weight_decay=0.0,
        )
        self.lr_scheduler = get_scheduler(
            settings.lr_scheduler,
            self.optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self.uncond = self.encode_prompts([""])

    def make_unets(self, unet: Any) -> None:
        self.teacher = unet
        config = LoraConfig(
            r=self.settings.rank, lora_alpha=self.settings.rank, target_modules=list(LORA_TARGETS)
        )
        self.unet: Any = get_peft_model(copy.deepcopy(unet), config)

    def trained(self) -> list[nn.Parameter]:
        """What optimizer and clipping go through: here the frozen weights too, as in the script."""
        return list(self.unet.parameters())

    @contextmanager
    def as_teacher(self) -> Iterator[Any]:
        yield self.teacher

    def modules(self) -> list[nn.Module]:
        """All whose weights are held in memory."""
        return [self.teacher, self.unet, self.vae, self.text_encoder]

    @torch.no_grad()
    def load_adapter(self, values: list[Tensor]) -> None:
        for parameter, value in zip(lora_parameters(self.unet), values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        embeds: Tensor = self.text_encoder(tokens.input_ids)[0]
        return embeds

    @torch.no_grad()
    def encode_images(self, batch: SampleBatch) -> Tensor:
        assert isinstance(batch.content, Pixels)
        posterior = self.vae.encode(batch.content.tensor).latent_dist
        latents: Tensor = (
            posterior.mean + posterior.std * batch.posterior_noise
        ) * self.vae.config.scaling_factor
        return latents

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def ask(self, unet: Any, x: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted x0 and epsilon."""
        noise = unet(x, timesteps, timestep_cond=None, encoder_hidden_states=embeds).sample
        alpha, sigma = self.alpha_sigma(timesteps)
        return (x - sigma * noise) / alpha, noise

    def loss(self, batch: SampleBatch) -> Tensor:
        stride = T // self.settings.num_ddim_timesteps
        latents, embeds = self.encode_images(batch), self.encode_prompts(batch.prompts)
        index = (batch.uniform_time * self.settings.num_ddim_timesteps).long()
        start = (index + 1) * stride - 1
        timesteps = (start - stride).clamp(min=0)
        alpha, sigma = self.alpha_sigma(start)
        noisy = alpha * latents + sigma * batch.noise
        c_skip, c_out = boundary(start)
        prediction = c_skip * noisy + c_out * self.ask(self.unet, noisy, start, embeds)[0]
        w = self.settings.w_min + batch.uniform_guidance * (
            self.settings.w_max - self.settings.w_min
        )
        x_prev = self.solve(noisy, start, timesteps, embeds, w.view(-1, 1, 1, 1))
        with torch.no_grad():
            c_skip, c_out = boundary(timesteps)
            target = c_skip * x_prev + c_out * self.ask(self.unet, x_prev, timesteps, embeds)[0]
        c = self.settings.huber_c
        return torch.mean(torch.sqrt((prediction - target) ** 2 + c**2) - c)

    @torch.no_grad()
    def solve(
        self, noisy: Tensor, start: Tensor, timesteps: Tensor, embeds: Tensor, w: Tensor
    ) -> Tensor:
        """One DDIM step of the guided teacher."""
        with self.as_teacher() as teacher:
            cond_x0, cond_noise = self.ask(teacher, noisy, start, embeds)
            uncond_x0, uncond_noise = self.ask(
                teacher, noisy, start, self.uncond.repeat(len(noisy), 1, 1)
            )
        x0 = cond_x0 + w * (cond_x0 - uncond_x0)
        noise = cond_noise + w * (cond_noise - uncond_noise)
        alpha, sigma = self.alpha_sigma(timesteps)
        return alpha * x0 + sigma * noise

    def step(self, batch: SampleBatch) -> float:
        """One update; the loss."""
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach().item())


class OneUnet(TwoUnets):
    """One U-Net with an adapter of PEFT; the teacher is that U-Net with the adapter off."""

    def make_unets(self, unet: Any) -> None:
        unet.add_adapter(
            LoraConfig(
                r=self.settings.rank,
                lora_alpha=self.settings.rank,
                target_modules=list(LORA_TARGETS),
            )
        )
        self.teacher = self.unet = unet

    def trained(self) -> list[nn.Parameter]:
        return lora_parameters(self.unet)

    @contextmanager
    def as_teacher(self) -> Iterator[Any]:
        self.unet.disable_adapters()
        yield self.unet
        self.unet.enable_adapters()
