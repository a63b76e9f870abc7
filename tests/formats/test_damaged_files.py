"""Damaged adapter files are recovered exactly or refused."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcm.adapter.files import AdapterError
from lcm.adapter.locate import find
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.read import read_adapter
from tests.support.adapters import State, state_of, stock_kohya
from tests.support.layouts import equal_deltas, peft_folder


def first(state: State, end: str) -> str:
    return next(key for key in state if key.endswith(end))


def rename(state: State, old: str, new: str) -> None:
    state[new] = state.pop(old)


DAMAGE: dict[str, tuple[Callable[[State], Any], str]] = {
    "half a layer": (lambda s: s.pop(first(s, "lora_up.weight")), "has no up matrix"),
    "not finite": (lambda s: s[first(s, "lora_up.weight")].fill_(float("nan")), "not finite"),
    "shapes": (
        lambda s: s.update({first(s, "lora_up.weight"): torch.ones(8, 3)}),
        "do not fit each other",
    ),
    "axes": (lambda s: s.update({first(s, "lora_up.weight"): torch.ones(8)}), "2 or 4 axes"),
    "integers": (
        lambda s: s.update({first(s, "lora_up.weight"): torch.ones(8, 4, dtype=torch.int8)}),
        "int8",
    ),
    "alpha": (
        lambda s: s.update({first(s, ".alpha"): torch.tensor(float("inf"))}),
        "no usable alpha",
    ),
    "alpha 0": (lambda s: s.update({first(s, ".alpha"): torch.tensor(0)}), "no usable alpha"),
    "one alpha missing": (
        lambda s: s.pop(first(s, ".alpha")),
        "state no alpha, and the others do",
    ),
    "DoRA": (
        lambda s: s.update({first(s, ".alpha").replace("alpha", "dora_scale"): torch.ones(3)}),
        "DoRA",
    ),
    "LoHa": (
        lambda s: s.update({first(s, ".alpha").replace("alpha", "hada_w1_a"): torch.ones(3)}),
        "LoHa",
    ),
    "LoKr": (
        lambda s: s.update({first(s, ".alpha").replace("alpha", "lokr_w1"): torch.ones(3)}),
        "LoKr",
    ),
    "Tucker": (
        lambda s: s.update({first(s, ".alpha").replace("alpha", "lora_mid.weight"): torch.ones(3)}),
        "Tucker",
    ),
    "bias": (
        lambda s: s.update({first(s, ".alpha").replace("alpha", "diff_b"): torch.ones(3)}),
        "weight difference",
    ),
    "a stranger": (
        lambda s: s.update({"optimizer.state": torch.ones(3)}),
        "optimizer.state is dropped: no part of a LoRA",
    ),
    "no such layer": (
        lambda s: s.update({"lora_unet_up_blocks_0_norm.lora_up.weight": torch.ones(3, 3)}),
        "'up_blocks_0_norm' names no linear or conv layer",
    ),
    "two components": (
        lambda s: rename(
            s, first(s, ".alpha"), "unet.text_encoder.mid_block.resnets.0.conv1.alpha"
        ),
        "text_encoder and unet at once",
    ),
    "two values": (
        lambda s: s.update({"mid_block.resnets.0.conv1.lora_B.weight": torch.ones(16, 4, 1, 1)}),
        "same layer with different values",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_understood_is_named_and_refused(
    trained: Any, kind: str, tmp_path: Path
) -> None:
    stock_kohya(trained, tmp_path)
    state = load_file(tmp_path / WEIGHTS_NAME)
    damage, message = DAMAGE[kind]
    damage(state)
    save_file(state, tmp_path / WEIGHTS_NAME)
    adapter = read_adapter(tmp_path)
    assert any(message in problem for problem in adapter.problems), adapter.problems
    with pytest.raises(AdapterError):
        adapter.checked()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_refused_by_name_and_by_content_and_never_opened(tmp_path: Path) -> None:
    trace = tmp_path / "opened"
    for name in ("adapter.bin", "adapter.safetensors", "adapter.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(trace)))
        with pytest.raises(ValueError, match="is a pickle"):
            read_adapter(tmp_path / name)
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        read_adapter(tmp_path / "zip.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pytorch_lora_weights.bin").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match=r"pytorch_lora_weights\.bin is a pickle"):
        find(folder)
    assert not trace.exists()


def test_damaged_files_are_one_line(trained: Any, tmp_path: Path) -> None:
    stock_kohya(trained, tmp_path)
    whole = (tmp_path / WEIGHTS_NAME).read_bytes()
    for data in (
        b"",
        b"hello",
        b"<html>not found</html>",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        b"\x00" * 64,
    ):
        (tmp_path / WEIGHTS_NAME).write_bytes(data)
        with pytest.raises(AdapterError) as caught:
            read_adapter(tmp_path)
        assert "\n" not in str(caught.value)
        assert WEIGHTS_NAME in str(caught.value)
    save_file({}, tmp_path / WEIGHTS_NAME)
    assert "holds no tensors" in read_adapter(tmp_path).problems[0]


def test_a_header_whose_length_begins_like_a_pickle_is_read(trained: Any, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in list(state_of(trained, "unet.").items())[:2]}
    for length in range(560):
        save_file(state, tmp_path / WEIGHTS_NAME, metadata={"note": "x" * length})
        if (tmp_path / WEIGHTS_NAME).read_bytes().startswith(b"\x80\x02"):
            break
    else:
        pytest.fail("no header of 640 bytes")
    assert len(read_adapter(tmp_path).modules) == 1


def test_configurations_that_are_damaged_or_ask_for_more(trained: Any, tmp_path: Path) -> None:
    peft_folder(trained, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert "use_dora" in read_adapter(tmp_path).problems[0]
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="is no JSON"):
        read_adapter(tmp_path)
    save_file(
        state_of(trained, "unet."),
        tmp_path / "a.safetensors",
        metadata={"lora_adapter_metadata": "[]"},
    )
    with pytest.raises(AdapterError, match="no JSON object"):
        read_adapter(tmp_path / "a.safetensors")


LAYERS = (
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.0.resnets.1.time_emb_proj",
    "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "up_blocks.1.attentions.2.proj_in",
)


def spelt(rng: random.Random, layer: str, part: str) -> str:
    """A key in one of the ways that files have."""
    direction, letter = ("down", "A") if part == "down" else ("up", "B")
    prefix = rng.choice(
        ("unet.", "", "base_model.model.", "unet.base_model.model.", "module.", "unet._orig_mod.")
    )
    ends = (f".lora_{letter}.weight", f".lora.{direction}.weight", f".lora_{letter}.default.weight")
    kohya = f"lora_unet_{layer.replace('.', '_')}"
    if part == "alpha":
        return rng.choice((f"{prefix}{layer}.alpha", f"{kohya}.alpha"))
    return rng.choice(
        (*(f"{prefix}{layer}{end}" for end in ends), f"{kohya}.lora_{direction}.weight")
    )


def put(state: State, key: str, value: Tensor) -> None:
    """Beside what is there: nothing can notice one tensor put in the place of another."""
    state.setdefault(key, value)


def break_one(rng: random.Random, state: State) -> None:
    key = rng.choice(list(state))
    kind = rng.choice(("nothing", "lose", "rename", "nan", "transpose", "cut", "copy"))
    value = state[key]
    if kind == "lose":
        del state[key]
    elif kind == "rename":
        at = rng.randrange(len(key))
        put(state, key[:at] + rng.choice("abdpqx0123._") + key[at + 1 :], state.pop(key))
    elif kind == "nan":
        state[key] = torch.full_like(value, float("nan"))
    elif kind == "transpose" and value.dim():
        state[key] = value.t().contiguous()
    elif kind == "cut" and value.dim():
        # of the rank
        state[key] = (value[:-1] if value.shape == (3, 5) else value[:, :-1]).contiguous()
    elif kind == "copy":
        put(state, spelt(rng, rng.choice(LAYERS), "up" if value.dim() else "alpha"), value.clone())


@pytest.mark.parametrize("seed", range(150))
def test_any_damage_is_recovered_exactly_or_refused(seed: int, tmp_path: Path) -> None:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    state: State = {}
    expected = {}
    for number, layer in enumerate(LAYERS):
        down, up = torch.randn(3, 5, generator=generator), torch.randn(4, 3, generator=generator)
        alpha = float(number + 1)  # none is the rank of another
        expected[f"unet.{layer}"] = alpha / 3 * up @ down
        tensors = {"down": down, "up": up, "alpha": torch.tensor(alpha)}
        state.update({spelt(rng, layer, part): value for part, value in tensors.items()})
    break_one(rng, state)
    save_file(state, tmp_path / WEIGHTS_NAME)
    adapter = read_adapter(tmp_path)
    if not adapter.problems:
        equal_deltas(adapter, expected)
