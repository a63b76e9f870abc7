"""The training step of the public LCM-LoRA scripts, restated from their logic: what this toolkit's
step is measured against.

`TwoUnets` is the one that reads webdatasets, with a teacher and a student; `OneUnet` switches the
adapter off for the teacher. Both encode images and captions in every step, ask the teacher once
with and once without the caption, run the student first and read the loss every step. The random
numbers come with the batch.

In half precision networks are called under autocast and the adapter is float32, as there; float16
has a loss scaler. Frozen weights have the precision of the pipeline. SDXL has the size of a picture
beside its caption, and zeros in the place of none.

At the lowest point of the grid the scripts land at timestep 0 and this toolkit on clean data;
everywhere else the losses agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from lcm.models.prompts import encoders_of

T = 1000
Cond = dict[str, Any]
"""What a U-Net is called with besides latents and times."""


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


def load_pipe(folder: Path) -> Any:
    """A teacher of Stable Diffusion as the scripts load it, in float32."""
    return StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, use_safetensors=True
    )


class TwoUnets:
    """A frozen teacher, and a student that is another U-Net with an adapter of PEFT. The teacher
    predicts epsilon or v.
    """

    def __init__(self, pipe: Any, settings: Settings, autocast: torch.dtype | None = None) -> None:
        """`pipe` is a pipeline of Stable Diffusion or SDXL on its device; `autocast` the precision
        that networks are called in, None for that of their weights.
        """
        self.settings, self.pipe, self.autocast_dtype = settings, pipe, autocast
        self.device = pipe.unet.device
        self.is_xl = hasattr(pipe, "text_encoder_2")
        self.tokenizer, self.text_encoder, self.vae = pipe.tokenizer, pipe.text_encoder, pipe.vae
        for frozen in (pipe.vae, *encoders_of(pipe), pipe.unet):
            frozen.requires_grad_(False).eval()
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(self.device)
        self.make_unets(pipe.unet)
        for parameter in lora_parameters(self.unet):
            parameter.data = parameter.data.float()
        self.unet.train()
        self.optimizer = torch.optim.AdamW(
            self.trained(),
            lr=settings.learning_rate,
            betas=(0.9, settings.adam_beta2),
            weight_decay=0.0,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast == torch.float16)
        self.lr_scheduler = get_scheduler(
            settings.lr_scheduler,
            self.optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self.uncond = None if self.is_xl else self.encode_prompts([""])

    def autocast(self) -> AbstractContextManager[Any]:
        """What every network is called in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

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
        return [self.teacher, self.unet, self.vae, *encoders_of(self.pipe)]

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
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds

    @torch.no_grad()
    def condition(self, batch: SampleBatch) -> tuple[Cond, Cond]:
        """What the U-Net is told of a batch: with its captions, and without."""
        rows = len(batch.prompts)
        if self.uncond is not None:
            embeds = self.encode_prompts(batch.prompts)
            without = self.uncond.repeat(rows, 1, 1)
            return {"encoder_hidden_states": embeds}, {"encoder_hidden_states": without}
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            batch.prompts, device=self.device, do_classifier_free_guidance=False
        )
        sizes = [
            (s.original_height, s.original_width, s.crop_top, s.crop_left, s.height, s.width)
            for s in batch.sizes
        ]
        ids = torch.tensor(sizes, device=self.device, dtype=embeds.dtype)

        def told(embeds: Tensor, pooled: Tensor) -> Cond:
            added = {"text_embeds": pooled, "time_ids": ids}
            return {"encoder_hidden_states": embeds, "added_cond_kwargs": added}

        return told(embeds, pooled), told(torch.zeros_like(embeds), torch.zeros_like(pooled))

    @torch.no_grad()
    def encode_images(self, batch: SampleBatch) -> Tensor:
        assert isinstance(batch.content, Pixels)
        pixels = batch.content.tensor.to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        noise = batch.posterior_noise.to(self.device)
        latents: Tensor = (
            posterior.mean.float() + posterior.std.float() * noise
        ) * self.vae.config.scaling_factor
        return latents

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def ask(self, unet: Any, x: Tensor, timesteps: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Predicted x0 and epsilon."""
        with self.autocast():
            noise = unet(x.to(self.pipe.unet.dtype), timesteps, timestep_cond=None, **cond).sample
        noise = noise.float()
        alpha, sigma = self.alpha_sigma(timesteps)
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            return alpha * x - sigma * noise, alpha * noise + sigma * x
        return (x - sigma * noise) / alpha, noise

    def loss(self, batch: SampleBatch) -> Tensor:
        stride = T // self.settings.num_ddim_timesteps
        latents, (cond, uncond) = self.encode_images(batch), self.condition(batch)
        uniform_time = batch.uniform_time.to(self.device)
        index = (uniform_time * self.settings.num_ddim_timesteps).long()
        start = (index + 1) * stride - 1
        timesteps = (start - stride).clamp(min=0)
        alpha, sigma = self.alpha_sigma(start)
        noisy = alpha * latents + sigma * batch.noise.to(self.device)
        c_skip, c_out = boundary(start)
        prediction = c_skip * noisy + c_out * self.ask(self.unet, noisy, start, cond)[0]
        w = self.settings.w_min + batch.uniform_guidance.to(self.device) * (
            self.settings.w_max - self.settings.w_min
        )
        x_prev = self.solve(noisy, start, timesteps, (cond, uncond), w.view(-1, 1, 1, 1))
        with torch.no_grad():
            c_skip, c_out = boundary(timesteps)
            target = c_skip * x_prev + c_out * self.ask(self.unet, x_prev, timesteps, cond)[0]
        c = self.settings.huber_c
        return torch.mean(torch.sqrt((prediction - target) ** 2 + c**2) - c)

    @torch.no_grad()
    def solve(
        self, noisy: Tensor, start: Tensor, timesteps: Tensor, both: tuple[Cond, Cond], w: Tensor
    ) -> Tensor:
        """One DDIM step of the guided teacher."""
        cond, uncond = both
        with self.as_teacher() as teacher:
            cond_x0, cond_noise = self.ask(teacher, noisy, start, cond)
            uncond_x0, uncond_noise = self.ask(teacher, noisy, start, uncond)
        x0 = cond_x0 + w * (cond_x0 - uncond_x0)
        noise = cond_noise + w * (cond_noise - uncond_noise)
        alpha, sigma = self.alpha_sigma(timesteps)
        return alpha * x0 + sigma * noise

    def step(self, batch: SampleBatch) -> float:
        """One update; the loss."""
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.trained(), self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
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
