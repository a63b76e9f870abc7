"""A family of teachers: what to load and how to condition. Facts come from the checkpoint, never
from its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import LCMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor, nn

from lcm.diffusion.schedule import NoiseSchedule
from lcm.models.conditioning import Conditioning, ImageSize
from lcm.models.long_prompts import MOST_CHUNKS, embed_in_chunks, limit_of
from lcm.models.prompts import (
    check_clip_skip,
    encoders_of,
    final_norm,
    said_already,
    tokenizers_of,
)

PIXELS_AT_ONCE = 512**2
"""The VAE takes so many pixels in one call, or one picture: the activations of a large batch would
outgrow those of the U-Net.
"""


def in_parts(batch: Tensor, pixels_each: int) -> tuple[Tensor, ...]:
    """A batch of pictures as the VAE takes it."""
    return batch.split(max(1, PIXELS_AT_ONCE // pixels_each))


class Family(ABC):
    """A loaded teacher. Holds a stock diffusers pipeline and asks it, so that training conditions
    as inference does.
    """

    name: ClassVar[str]

    def __init__(self, pipe: Any, clip_skip: int | None = None) -> None:
        """`clip_skip` layers of the text encoders are left out, counted as diffusers does. Raises
        ValueError where they have fewer.

        Set `chunks` before any prompt is embedded: with more than one, every prompt has so many.
        """
        check_clip_skip(pipe, clip_skip)
        self.pipe, self.clip_skip = pipe, clip_skip
        self.chunks = 1
        for component in (pipe.unet, pipe.vae, *self.text_encoders()):
            component.requires_grad_(False).eval()
        # LCMScheduler carries over betas, prediction type and the zero-SNR flag: the schedule of
        # training is that of sampling
        self.schedule = NoiseSchedule.from_scheduler(
            LCMScheduler.from_config(pipe.scheduler.config)
        )

    def text_encoders(self) -> list[Any]:
        return encoders_of(self.pipe)

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    def park(self, parts: Sequence[nn.Module]) -> None:
        """Moves what no step asks for into main memory; `at_hand` fetches it for the time of a
        picture.
        """
        _ = self.unconditional_row  # what the text encoders are still to be asked
        for part in parts:
            part.to("cpu")

    @contextmanager
    def at_hand(self, device: torch.device) -> Iterator[None]:
        """VAE and text encoders are on `device` inside the block, and afterwards where they
        were.
        """
        parts = [self.pipe.vae, *self.text_encoders()]
        homes = [part.device for part in parts]
        for part in parts:
            part.to(device)
        try:
            yield
        finally:
            for part, home in zip(parts, homes, strict=True):
                part.to(home)

    @property
    def zero_terminal_snr(self) -> bool:
        return bool(self.pipe.scheduler.config.get("rescale_betas_zero_snr", False))

    @property
    def native_resolution(self) -> int:
        """Side in pixels of what the stock pipeline draws by default: 512 for SD 1.x, 1024 for
        SDXL.

        Raises ValueError for a checkpoint that states no side.
        """
        size = self.unet.config.sample_size
        if not isinstance(size, int):
            raise ValueError(
                f"resolution: the teacher states no side of its own (sample_size {size}); pass "
                "--resolution"
            )
        return size * self.pipe.vae_scale_factor

    @property
    def divisor(self) -> int:
        """What divides the sides of training images, in pixels: the VAE makes them smaller by its
        factor, the U-Net by its own.
        """
        return self.pipe.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """[C, h, w] of one image's latents. Raises ValueError for a resolution the VAE cannot halve
        down.
        """
        factor = self.divisor
        if resolution < factor or resolution % factor:
            raise ValueError(
                f"resolution must be a multiple of {factor} for this teacher; got {resolution}"
            )
        return (
            self.unet.config.in_channels,
            resolution // self.pipe.vae_scale_factor,
            resolution // self.pipe.vae_scale_factor,
        )

    @torch.no_grad()
    def image_moments(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> mean and log variance of their latents [B, 2C, h, w],
        in the VAE's own precision.
        """
        vae = self.pipe.vae
        parts = in_parts(pixels.to(vae.dtype), pixels[0, 0].numel())
        return torch.cat([vae.encode(part).latent_dist.parameters for part in parts])

    def draw_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """`image_moments` and unit noise [B, C, h, w] -> a posterior sample at unit scale,
        float32.
        """
        posterior = DiagonalGaussianDistribution(moments)
        return (
            posterior.mean.float() + posterior.std.float() * noise
        ) * self.pipe.vae.config.scaling_factor

    def encode_prompts(self, prompts: Sequence[str], sizes: Sequence[ImageSize]) -> Conditioning:
        """One row per prompt."""
        return self.condition(self.embed_prompts(prompts), sizes)

    def stock_encode(self, *args: Any, **options: Any) -> Any:
        """What the stock pipeline's `encode_prompt` returns. Prompts that are too long for it have
        been counted by then.
        """
        with final_norm(self.pipe), said_already(self.pipe):
            return self.pipe.encode_prompt(*args, **options)

    @property
    def text_settings(self) -> dict[str, int]:
        """What embeddings follow from besides encoders and prompts; empty where nothing is set, so
        that what was kept without settings is found.
        """
        chunks = {"chunks": self.chunks} if self.chunks > 1 else {}
        return chunks if self.clip_skip is None else {**chunks, "clip_skip": self.clip_skip}

    def embed_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the text encoders say, one row per prompt, named as in Conditioning."""
        if self.chunks > 1:
            return embed_in_chunks(self.pipe, prompts, self.chunks, self.clip_skip)
        return self.embed_seen(prompts)

    @abstractmethod
    def embed_seen(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The same of so much of every prompt as the encoders see at once."""

    @abstractmethod
    def condition(self, embeds: dict[str, Tensor], sizes: Sequence[ImageSize]) -> Conditioning:
        """What the U-Net gets from prompts embedded by `embed_prompts` and from pictures of these
        sizes.
        """

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """[B, n, L] int64 of the n tokenizers, cut and padded: all that the text encoders see of a
        prompt, L = 77, or what there can be of chunks.
        """
        most = limit_of(self.pipe, 1 if self.chunks == 1 else MOST_CHUNKS)
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return torch.stack(
            [
                t(list(prompts), max_length=most, **options).input_ids
                for t in tokenizers_of(self.pipe)
            ],
            dim=1,
        )

    @property
    @abstractmethod
    def unconditional_row(self) -> tuple[Tensor, ...]:
        """What the text encoders say in the place of no prompt, one row; they are asked once.

        As in the stock pipelines, `clip_skip` does not count for it.
        """

    @abstractmethod
    def unconditional(self, like: Conditioning) -> Conditioning:
        """The other half of classifier-free guidance, as many rows as `like`."""

    def few_step_pipe(self, unet: Any, scheduler: Any) -> Any:
        """The stock pipeline around another U-Net and scheduler; everything else is shared."""
        components = {**self.pipe.components, "unet": unet, "scheduler": scheduler}
        pipe = type(self.pipe)(**components, **self.pipeline_options())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents at unit scale -> [B, 3, H, W] float32 in about [-1, 1], in the VAE's own
        precision, with gradients.
        """
        vae = self.pipe.vae
        parts = in_parts(
            latents.to(vae.dtype) / vae.config.scaling_factor,
            latents[0, 0].numel() * self.pipe.vae_scale_factor**2,
        )
        return torch.cat([vae.decode(part).sample for part in parts]).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents at unit scale -> pictures (the stock SD pipeline would mix two precisions)."""
        images: list[Image.Image] = self.pipe.image_processor.postprocess(
            self.pixels(latents), output_type="pil"
        )
        return images

    def pipeline_options(self) -> dict[str, Any]:
        """Constructor arguments of the pipeline that are no components."""
        return {}
