"""Parts for the text encoders, in both spellings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from lcm.adapter.files import AdapterError
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.factors import Adapter, Factors
from lcm.formats.read import read_adapter
from lcm.formats.write import save
from tests.support.adapters import adapt, stock_load
from tests.support.layouts import equal_deltas
from tests.support.worlds import build_sdxl, randomize_lora


def test_text_encoders_of_both_spellings(tmp_path: Path) -> None:
    pipe = build_sdxl()
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        adapt(encoder, LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj", "fc1"]))
        randomize_lora(encoder)
    states = [
        get_peft_model_state_dict(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)
    ]
    folders = [tmp_path / "new", tmp_path / "old"]
    StableDiffusionXLPipeline.save_lora_weights(
        folders[0], text_encoder_lora_layers=states[0], text_encoder_2_lora_layers=states[1]
    )
    old = [convert_state_dict_to_diffusers(dict(state)) for state in states]
    StableDiffusionXLPipeline.save_lora_weights(
        folders[1], text_encoder_lora_layers=old[0], text_encoder_2_lora_layers=old[1]
    )
    new, converted = read_adapter(folders[0]), read_adapter(folders[1])
    assert new.problems == converted.problems == []
    assert len(new.component("text_encoder")) == len(new.component("text_encoder_2")) == 6
    equal_deltas(converted, {name: factors.delta() for name, factors in new.modules.items()})
    for layout in ("kohya", "diffusers"):
        save(new, tmp_path / f"{layout}.safetensors", torch.float32, layout)
        fresh = build_sdxl()
        stock_load(fresh, tmp_path / f"{layout}.safetensors")
        for here, there in zip(
            (pipe.text_encoder, pipe.text_encoder_2),
            (fresh.text_encoder, fresh.text_encoder_2),
            strict=True,
        ):
            theirs = {n: m for n, m in there.named_modules() if isinstance(m, LoraLayer)}
            ours = {n: m for n, m in here.named_modules() if isinstance(m, LoraLayer)}
            assert theirs.keys() == ours.keys()
            for name, layer in ours.items():
                (active,) = theirs[name].active_adapters
                assert torch.allclose(
                    theirs[name].get_delta_weight(active),
                    layer.get_delta_weight("default"),
                    atol=1e-6,
                )


def test_text_encoders_that_diffusers_would_misread_in_a_kohya_file_are_refused(
    tmp_path: Path,
) -> None:
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    adapter = Adapter({layer: Factors(torch.ones(2, 4), torch.ones(4, 2), 2.0)})
    with pytest.raises(AdapterError, match=f"{layer} would be left out by diffusers"):
        save(adapter, tmp_path / WEIGHTS_NAME, torch.float32)
    assert list(tmp_path.iterdir()) == []
