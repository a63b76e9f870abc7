"""Adapter files of every layout: what is read is what was trained, what is written plays alike,
what is damaged is refused.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcm.adapter.files import AdapterError
from lcm.adapter.locate import find
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.factors import Adapter, Factors, uniform
from lcm.formats.read import read_adapter
from lcm.formats.write import save
from tests.support.adapters import (
    State,
    adapted,
    output,
    public_sdxl_script,
    state_of,
    stock_kohya,
    stock_without_metadata,
)
from tests.support.worlds import build_sd, build_sdxl, build_sdxl_unet, build_unet, randomize_lora

Writer = Callable[[Any, Path], None]

MIXED = {
    "rank_pattern": {"to_k": 3, "conv1": 6, "ff.net.2": 2},
    "alpha_pattern": {"to_v": 1.0, "conv2": 9.0},
}


def truth(unet: Any) -> dict[str, Tensor]:
    """The adapter's share of every weight, as PEFT computes it."""
    layers = {
        name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)
    }
    return {
        f"unet.{name}": layer.get_delta_weight("default").detach() for name, layer in layers.items()
    }


def equal_deltas(adapter: Adapter, expected: dict[str, Tensor]) -> None:
    assert adapter.problems == []
    assert adapter.modules.keys() == expected.keys()
    for name, factors in adapter.modules.items():
        assert torch.allclose(factors.delta(), expected[name], rtol=1e-5, atol=1e-6), name


# --- what others write ----------------------------------------------------------------------------


def stock_with_metadata(unet: Any, folder: Path) -> None:
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state_of(unet), **_collate_lora_metadata({"unet": unet})
    )


def stock_model_only(unet: Any, folder: Path) -> None:
    unet.save_lora_adapter(folder, weight_name=WEIGHTS_NAME)


def peft_folder(unet: Any, folder: Path) -> None:
    config = copy.deepcopy(unet.peft_config["default"])
    wrapped = get_peft_model(build_unet(), config)
    wrapped.base_model.model.load_state_dict(unet.state_dict())
    wrapped.save_pretrained(folder)


def kohya_of_peft_keys(unet: Any, folder: Path) -> None:
    save_file(
        convert_state_dict_to_kohya(state_of(unet, "base_model.model.")), folder / WEIGHTS_NAME
    )


def kohya_of_prefixed_peft_keys(unet: Any, folder: Path) -> None:
    save_file(
        convert_state_dict_to_kohya(state_of(unet, "unet.base_model.model.")), folder / WEIGHTS_NAME
    )


def kohya_without_prefix(unet: Any, folder: Path) -> None:
    save_file(convert_state_dict_to_kohya(state_of(unet)), folder / WEIGHTS_NAME)


def public_sd_script(unet: Any, folder: Path) -> None:
    """PEFT's prefix goes into the pipeline's own writer."""
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state_of(unet, "base_model.model.")
    )


def public_sdxl_validation(unet: Any, folder: Path) -> None:
    save_file(convert_state_dict_to_diffusers(state_of(unet)), folder / WEIGHTS_NAME)


def oldest_diffusers(unet: Any, folder: Path) -> None:
    state = {}
    for key, value in state_of(unet, "unet.").items():
        old = key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        state[re.sub(r"\.(to_\w+?)(?:\.0)?\.lora\.", r".processor.\1_lora.", old)] = value
    save_file(state, folder / WEIGHTS_NAME)


def compiled_and_parallel(unet: Any, folder: Path) -> None:
    state = {
        key.replace(".transformer_blocks.0.", ".transformer_blocks.0._orig_mod."): v
        for key, v in state_of(unet).items()
    }
    save_file(
        {f"module._orig_mod.{key}": value for key, value in state.items()}, folder / WEIGHTS_NAME
    )


def with_adapter_name(unet: Any, folder: Path) -> None:
    save_file(
        {
            f"unet.{name}": value.detach()
            for name, value in unet.state_dict().items()
            if ".lora_" in name
        },
        folder / WEIGHTS_NAME,
    )


def twice_in_one_file(unet: Any, folder: Path) -> None:
    both = {**state_of(unet, "unet."), **convert_state_dict_to_kohya(state_of(unet, "unet."))}
    save_file({key: value.clone() for key, value in both.items()}, folder / WEIGHTS_NAME)


KEEPS_ALPHA = {
    stock_with_metadata: "diffusers",
    stock_model_only: "model only",
    peft_folder: "peft",
}
ALPHA_IS_RANK = {
    stock_without_metadata: "diffusers",
    stock_kohya: "kohya",
    kohya_of_peft_keys: None,
    kohya_of_prefixed_peft_keys: None,
    kohya_without_prefix: None,
    public_sd_script: None,
    public_sdxl_script: None,
    public_sdxl_validation: None,
    oldest_diffusers: "old diffusers",
    compiled_and_parallel: None,
    with_adapter_name: None,
    twice_in_one_file: None,
}


@pytest.fixture(scope="module")
def trained() -> Any:
    return adapted(build_unet())


@pytest.fixture(scope="module")
def mixed() -> Any:
    """Ranks and alphas that differ among the layers."""
    return adapted(build_unet(), 2, **MIXED)


def check_reading(writer: Writer, layout: str | None, unet: Any, folder: Path) -> Adapter:
    writer(unet, folder)
    adapter = read_adapter(folder)
    equal_deltas(adapter, truth(unet))
    if layout is not None:
        assert list(adapter.layouts) == [layout]
    return adapter


def check_playing(adapter: Adapter, unet: Any, folder: Path, pipe: Any) -> None:
    """Once written by us, stock diffusers plays it as PEFT does."""
    save(adapter, folder / "repaired" / WEIGHTS_NAME, torch.float32)
    pipe.load_lora_weights(folder / "repaired")
    assert (output(pipe.unet) - output(unet)).abs().max() < 2e-5 * output(unet).abs().max()


@pytest.mark.parametrize(
    ("writer", "layout"),
    [*KEEPS_ALPHA.items(), *ALPHA_IS_RANK.items()],
    ids=lambda w: getattr(w, "__name__", ""),
)
def test_files_that_others_write_are_read_as_trained(
    trained: Any, writer: Writer, layout: str | None, tmp_path: Path
) -> None:
    check_reading(writer, layout, trained, tmp_path)


@pytest.mark.parametrize(
    ("writer", "layout"), KEEPS_ALPHA.items(), ids=lambda w: getattr(w, "__name__", "")
)
def test_ranks_and_alphas_that_differ_are_read_as_trained(
    mixed: Any, writer: Writer, layout: str | None, tmp_path: Path
) -> None:
    check_reading(writer, layout, mixed, tmp_path)


def test_ranks_and_alphas_that_differ_play_once_repaired(mixed: Any, tmp_path: Path) -> None:
    check_playing(
        check_reading(stock_with_metadata, "diffusers", mixed, tmp_path),
        mixed,
        tmp_path,
        build_sd(),
    )


@pytest.mark.parametrize("writer", [public_sd_script, public_sdxl_script])
def test_files_of_the_public_scripts_play_once_repaired(
    trained: Any, writer: Writer, tmp_path: Path
) -> None:
    check_playing(check_reading(writer, None, trained, tmp_path), trained, tmp_path, build_sd())


def test_a_file_of_the_public_sdxl_script_plays_once_repaired(tmp_path: Path) -> None:
    unet = adapted(build_sdxl_unet())
    check_playing(
        check_reading(public_sdxl_script, None, unet, tmp_path), unet, tmp_path, build_sdxl()
    )


def test_text_encoders_of_both_spellings(tmp_path: Path) -> None:
    pipe = build_sdxl()
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.add_adapter(
            LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj", "fc1"])
        )
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
        fresh.load_lora_weights(tmp_path / f"{layout}.safetensors")
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
    with pytest.raises(AdapterError, match=f"{layer} .* --to diffusers"):
        save(adapter, tmp_path / WEIGHTS_NAME, torch.float32)
    assert list(tmp_path.iterdir()) == []


# --- the strength ---------------------------------------------------------------------------------


def test_what_is_assumed_is_said(trained: Any, tmp_path: Path) -> None:
    stock_without_metadata(trained, tmp_path)
    assert "no layer states alpha" in read_adapter(tmp_path).notes[0]
    halved = read_adapter(tmp_path, alpha=2.0)
    assert halved.notes == []
    equal_deltas(halved, {name: delta / 2 for name, delta in truth(trained).items()})
    stock_kohya(trained, tmp_path)
    with pytest.raises(ValueError, match="states alpha for all its 79 layers"):
        read_adapter(tmp_path, alpha=2.0)


def test_rank_stabilised_scale(tmp_path: Path) -> None:
    unet = adapted(build_unet(), 6, use_rslora=True)
    peft_folder(unet, tmp_path)
    equal_deltas(read_adapter(tmp_path), truth(unet))


def test_one_alpha_needs_no_padding_and_padding_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)

    def factors(rank: int, alpha: float) -> Factors:
        return Factors(
            torch.randn(rank, 6, generator=generator).half(),
            torch.randn(5, rank, generator=generator).half(),
            alpha,
        )

    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    conv = "unet.mid_block.resnets.0.time_emb_proj"
    same = Adapter({attention: factors(3, 4.0), conv: factors(8, 4.0)})
    assert uniform(same).modules == same.modules
    mixed = Adapter({attention: factors(3, 3.0), conv: factors(8, 8.0)})
    padded = uniform(mixed)
    assert {(f.rank, f.alpha) for f in padded.modules.values()} == {(8, 8.0)}
    for name, before in mixed.modules.items():
        assert torch.equal(padded.modules[name].delta(), before.delta())


# --- damage ---------------------------------------------------------------------------------------


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
        "do not state alpha, and the others do",
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
    with pytest.raises(AdapterError, match="not valid JSON"):
        read_adapter(tmp_path)
    save_file(
        state_of(trained, "unet."),
        tmp_path / "a.safetensors",
        metadata={"lora_adapter_metadata": "[]"},
    )
    with pytest.raises(AdapterError, match="no JSON object"):
        read_adapter(tmp_path / "a.safetensors")


# --- any damage: recovered exactly or refused -----------------------------------------------------

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
