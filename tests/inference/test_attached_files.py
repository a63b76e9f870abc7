"""The files that `lcm.attach` takes: found by file, folder and hub id, and refused where stock
diffusers would load them without effect or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.export import kohya_state_dict
from lcm.adapter.lora import add_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.inference import locate
from tests.support.adapters import build_of, everything, make_recipe
from tests.support.pipelines import FEW, SIZE, draw
from tests.support.worlds import build_sd, build_sdxl, randomize_lora


def model_only(pipe: Any, folder: Path) -> None:
    pipe.unet.save_lora_adapter(folder, adapter_name="default", weight_name="x.safetensors")


def peft_folder(pipe: Any, folder: Path) -> None:
    get_peft_model(
        build_sd().unet, LoraConfig(r=2, target_modules=["to_q", "conv1"])
    ).save_pretrained(folder)


def converted(pipe: Any, folder: Path) -> None:
    unet = build_sd().unet
    add_lora(unet, 2)  # with every kind of layer, the attention is lost
    StableDiffusionPipeline.save_lora_weights(
        folder, convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    )


def rewritten(
    change: Callable[[dict[str, torch.Tensor]], None], name: str = "x.safetensors"
) -> Callable[[Any, Path], None]:
    """A kohya file after `change` of its tensors."""

    def write(pipe: Any, folder: Path) -> None:
        unet = build_sd().unet
        add_lora(unet, 2)
        randomize_lora(unet)
        state = kohya_state_dict(unet, torch.float32)
        change(state)
        folder.mkdir()
        save_file(state, folder / name)

    return write


def first(state: dict[str, torch.Tensor], ending: str) -> str:
    return next(key for key in state if key.endswith(ending))


def another_alpha(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "to_q.alpha")] *= (
        2  # diffusers does not see those of single attention layers
    )


def not_finite(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "conv1.lora_up.weight")].fill_(float("nan"))


def dora(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "to_q.alpha").replace(".alpha", ".dora_scale")] = torch.ones(8, 1)


def dotted(prefix: str, down: str, up: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """One layer under the given names."""

    def change(state: dict[str, torch.Tensor]) -> None:
        layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        stem = f"lora_unet_{layer.replace('.', '_')}"
        matrices = {
            f"{prefix}{layer}.{name}.weight": state[f"{stem}.{part}.weight"]
            for name, part in ((down, "lora_down"), (up, "lora_up"))
        }
        state.clear()
        state.update(matrices)

    return change


def no_lora(pipe: Any, folder: Path) -> None:
    folder.mkdir()
    save_file({"emb_params": torch.zeros(2, 16)}, folder / "embedding.safetensors")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (model_only, "lcm repair"),
        (peft_folder, "lcm repair"),
        (converted, "lcm repair"),
        (no_lora, r"is a textual inversion .* pipe\.load_textual_inversion"),
        (rewritten(another_alpha), "another strength .* lcm repair"),
        (rewritten(not_finite), "not finite"),
        (rewritten(dora), "a DoRA scale"),
        (
            rewritten(dotted("unet._orig_mod.", "lora_A", "lora_B")),
            "(leaves out 1 of the 1|does not read) .* lcm repair",
        ),
        (
            rewritten(dotted("unet.", "lora_linear_layer.down", "lora_linear_layer.up")),
            "lcm repair",
        ),
        (rewritten(dotted("unet.", "lora_A.default", "lora_B.default")), "lcm repair"),
        (rewritten(dotted("unet.base_model.model.", "lora_A", "lora_B")), "lcm repair"),
    ],
)
def test_files_that_stock_diffusers_loads_without_effect_or_wrong_are_refused(
    adapter: Path, tmp_path: Path, write: Any, message: str
) -> None:
    source = build_sd()
    source.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "conv1", "ff.net.0.proj"])
    )
    write(source, tmp_path / "file")
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=message):
        lcm.attach(pipe, tmp_path / "file", recipe=make_recipe())
    assert everything(pipe) == before
    with pytest.raises(ValueError, match=message):  # as a style
        lcm.attach(pipe, {adapter: 1.0, tmp_path / "file": 1.0})
    assert everything(pipe) == before


def test_a_safetensors_file_needs_its_name_for_diffusers_not_to_unpickle_it(
    adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.SAFETENSORS").write_bytes((adapter / WEIGHTS_NAME).read_bytes())
    with pytest.raises(ValueError, match=r"rename it to end with \.safetensors"):
        lcm.attach(build_sd(), tmp_path / "x.SAFETENSORS")


def test_an_lcm_lora_without_a_recipe_is_called_one(
    adapter: Path, style: Path, tmp_path: Path
) -> None:
    # as the official ones: no header
    save_file(load_file(adapter / WEIGHTS_NAME), tmp_path / "lcm-lora.safetensors")
    pipe, ours = build_sd(), build_sd()
    with pytest.raises(ValueError, match=r"recipe=lcm\.Recipe\.lcm_lora\(pipe\)"):
        lcm.attach(pipe, tmp_path / "lcm-lora.safetensors")
    with pytest.raises(ValueError, match="carries no recipe"):
        lcm.attach(pipe, {style: 1.0})
    lcm.attach(
        pipe, {tmp_path / "lcm-lora.safetensors": 1.0, style: 0.5}, recipe=lcm.Recipe.lcm_lora(pipe)
    )
    lcm.attach(ours, {adapter: 1.0, style: 0.5})
    assert dict(pipe.scheduler.config) == dict(ours.scheduler.config)
    assert np.array_equal(draw(pipe, **SIZE, **FEW), draw(ours, **SIZE, **FEW))
    assert lcm.Recipe.lcm_lora(build_sdxl()).family == "sdxl"
    assert lcm.Recipe.lcm_lora(build_sd("v_prediction")).prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="no recipe is known"):
        lcm.attach(build_of(style), {"early": 1.0})


def test_an_adapter_is_found_by_file_folder_and_hub_id(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes((adapter / WEIGHTS_NAME).read_bytes())
    assert locate(tmp_path) == other  # the only one
    (tmp_path / "second.safetensors").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"but other\.safetensors, second\.safetensors; name one"
    ):
        locate(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(adapter.parent))
        assert locate(f"~/{adapter.name}") == adapter / WEIGHTS_NAME
        assert (
            lcm.attach(build_sd(), f"~/{adapter.name}")
            == lcm.read_recipe(f"~/{adapter.name}")
            == lcm.read_recipe(adapter)
        )
    asked = []

    def answer(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(other)

    monkeypatch.setattr("lcm.adapter.locate.hf_hub_download", answer)
    assert locate("someone/lcm-lora") == locate("someone/styles/deep/ink.safetensors") == other
    assert asked == [("someone/lcm-lora", WEIGHTS_NAME), ("someone/styles", "deep/ink.safetensors")]

    def lacking(repo_id: str, filename: str) -> str:
        if filename != "ink.safetensors":
            raise EntryNotFoundError("404")
        return str(other)

    monkeypatch.setattr("lcm.adapter.locate.hf_hub_download", lacking)
    monkeypatch.setattr(
        HfApi, "list_repo_files", lambda self, repo_id: ["README.md", "ink.safetensors"]
    )
    assert locate("someone/ink") == other
    with pytest.raises(
        FileNotFoundError,
        match=r"there is no file or folder someone/ink here.* answers with x\.safetensors",
    ):
        locate("someone/ink/x.safetensors")
    for path in ("a/b/c.txt", "/nowhere/x", "./a/b"):
        with pytest.raises(FileNotFoundError, match="no adapter at"):
            locate(path)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "style.ckpt", "style.pt"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no pickle either")
    for path in (tmp_path, tmp_path / name, f"someone/style/{name}"):
        with pytest.raises(ValueError, match=r"is a pickle.*safetensors"):
            locate(path)
