"""What no step asks for is parked, and at hand for a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.config.run import TrainConfig
from lcm.models.families import load_family
from lcm.training.setup import offload


class Travelling(torch.nn.Module):
    """Stands for a VAE or text encoder: on a machine with one device, where it was sent is all
    there is to see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda")

    def to(self, device: Any) -> Any:
        self.device = torch.device(device)
        return self


def test_parked_parts_are_at_hand_for_a_picture(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load_family(str(sd_folder))
    vae, text = Travelling(), Travelling()
    monkeypatch.setitem(family.pipe.__dict__, "vae", vae)
    family.park([])  # asks for the empty prompt as long as there is somebody to ask
    monkeypatch.setattr(family, "text_encoders", lambda: [text])
    family.park([vae, text])
    assert {vae.device.type, text.device.type} == {"cpu"}
    with pytest.raises(KeyError), family.at_hand(torch.device("cuda")):
        assert {vae.device.type, text.device.type} == {"cuda"}
        raise KeyError
    assert {vae.device.type, text.device.type} == {"cpu"}


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ({}, []),
        ({"cache_latents": True}, ["vae", "text_encoder"]),
        ({"prompts_file": "prompts.txt"}, ["vae"]),
        ({"prompts_file": "prompts.txt", "cache_latents": True}, ["vae", "text_encoder"]),
        ({"cache_latents": True, "loss_type": "lpips"}, ["text_encoder"]),
    ],
)
def test_what_no_step_asks_for_is_parked(
    sd_folder: Path, flags: dict[str, Any], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, parked = load_family(str(sd_folder)), list[Any]()
    monkeypatch.setattr(family, "park", parked.extend)
    data = {} if "prompts_file" in flags else {"train_data_dir": "images"}
    config = TrainConfig.of(pretrained_teacher_model=str(sd_folder), **data, **flags)
    offload([family], config.method, config.cache, draws="prompts_file" in flags)
    assert parked == [getattr(family.pipe, name) for name in left]
