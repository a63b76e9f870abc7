"""CLIP, and PickScore, which is a CLIP that people's choices tuned: how well a picture fits its
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from lcm.adapter.model_folder import load_model
from lcm.evaluation.features import NetKind, padded, shaped, squared
from lcm.evaluation.weights import Weights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FILES = ("model.safetensors", "config.json")
CLIP_WEIGHTS = Weights("clip-vit-large-patch14", FILES, repo="openai/clip-vit-large-patch14")
WORDS = Weights(
    "clip-vit-large-patch14", ("vocab.json", "merges.txt"), repo="openai/clip-vit-large-patch14"
)
"""All models here read the same words as the first CLIP."""
PICK_WEIGHTS = Weights("PickScore_v1", FILES, repo="yuvalkirstain/PickScore_v1")
LENGTH = 77
"""Tokens of a text, its two marks among them; the rest of a longer one is not read."""


class TextAndImage:
    """A `CLIPModel` and its words. Vectors are of length 1: their product is the cosine. Of a
    picture that is no square it sees the `whole`, or the middle.
    """

    def __init__(
        self, network: Any, tokenizer: Any, device: torch.device, whole: bool = False
    ) -> None:
        self.network = network.requires_grad_(False)
        self.tokenizer, self.device, self.whole = tokenizer, device, whole
        self.side = network.config.vision_config.image_size

    def to(self, device: torch.device) -> TextAndImage:
        """This very one, on the device."""
        if device != self.device:
            self.network.to(device)
            self.device = device
        return self

    @property
    def scale(self) -> float:
        """What the cosine is multiplied with."""
        return float(self.network.logit_scale.exp())

    def images(self, pictures: list[Image.Image]) -> Tensor:
        """RGB pictures -> [B, D]."""
        fit = padded if self.whole else squared
        pixels = torch.stack([fit(picture, self.side, MEAN, STD) for picture in pictures])
        return self.seen(pixels.to(self.device))

    def pixels(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] float32 in [0, 1] -> [B, D], with gradients to them."""
        return self.seen(shaped(pictures, self.side, MEAN, STD, whole=self.whole))

    def seen(self, pixels: Tensor) -> Tensor:
        """[B, 3, side, side] as the network was trained on -> [B, D]."""
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.network.visual_projection(pooled), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, D]."""
        read = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        ).to(self.device)
        pooled = self.network.text_model(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"]
        ).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=-1)


def load(places: Sequence[Path], device: torch.device) -> TextAndImage:
    """From two folders: that of the network, that of the words."""
    network = load_model(CLIPModel, places[0]).eval().to(device)
    return TextAndImage(network, tokenizer_of(places[1]), device)


def tokenizer_of(folder: Path) -> Any:
    """The words of CLIP."""
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


CLIP = NetKind(load, (CLIP_WEIGHTS, WORDS), revision=2)
PICK_SCORE = NetKind(load, (PICK_WEIGHTS, WORDS), revision=2)
