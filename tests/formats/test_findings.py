"""What inspect calls a problem, attach refuses; what inspect warns of, attach warns of."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from packaging.version import Version
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.read import read_adapter
from tests.support.adapters import State, adapted, everything, stock_kohya
from tests.support.verbs import run
from tests.support.worlds import build_sd, build_unet


def each(end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    def apply(state: State) -> None:
        state.update({key: change(value) for key, value in state.items() if key.endswith(end)})

    return apply


def one(end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    def apply(state: State) -> None:
        key = next(key for key in state if key.endswith(end))
        state[key] = change(state[key])

    return apply


COMPLEX: dict[str, Callable[[State], Any]] = {
    "complex": each("lora_up.weight", lambda t: t.to(torch.complex64)),
    "complex alpha": one(".alpha", lambda t: t.to(torch.complex64) * 1j),
}
"""What safetensors before 0.6 can neither write nor read."""
REFUSED: dict[str, Callable[[State], Any]] = {
    **(COMPLEX if Version(safetensors.__version__) >= Version("0.6") else {}),
    "integers": each("lora_up.weight", lambda t: t.to(torch.int8)),
    "not finite": one("lora_up.weight", lambda t: t * float("inf")),
    "alpha 0": each(".alpha", torch.zeros_like),
    "one alpha 0": one(".alpha", torch.zeros_like),
    "alpha of two": one(".alpha", lambda t: torch.stack([t, t])),
    "alpha 1e30": each(".alpha", lambda t: torch.tensor(1e30)),
    "one alpha 1e30": one(".alpha", lambda t: torch.tensor(1e30)),
    "weights of 6e4": each("lora_up.weight", lambda t: torch.full_like(t, 6e4)),
    "a product beyond numbers": one(
        "lora_up.weight", lambda t: torch.full(t.shape, 1e200, dtype=torch.float64)
    ),
    "an alpha missing": lambda s: s.pop(next(key for key in s if key.endswith(".alpha"))),
    "a stranger": lambda s: s.update({"stray": torch.ones(1)}),
}
PLAYED: dict[str, Callable[[State], Any]] = {
    "negative alpha": each(".alpha", torch.neg),
    "whole": lambda s: None,
    "8 bits": each(".weight", lambda t: t.to(torch.float8_e4m3fn)),
    "8 bits with a wide exponent": each(".weight", lambda t: t.to(torch.float8_e5m2)),
    "alpha as a whole number": each(".alpha", lambda t: t.to(torch.int64)),
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    folder = tmp_path_factory.mktemp("state")
    stock_kohya(adapted(build_unet()), folder)
    # fewer layers are as good
    return {k: v for k, v in load_file(folder / WEIGHTS_NAME).items() if "mid_block" in k}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_sd()


@pytest.mark.parametrize("kind", REFUSED)
def test_attach_refuses_what_inspect_calls_a_problem(
    pipe: Any, kind: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    REFUSED[kind](changed := dict(state))
    save_file(changed, file := tmp_path / "a.safetensors")
    first = read_adapter(file).problems[0]
    assert run("inspect", file) == 1
    assert f"problem: {first}" in capsys.readouterr().out
    before = everything(pipe)
    with pytest.raises(ValueError, match=re.escape(first)):
        lcm.attach(pipe, file, recipe=lcm.Recipe.lcm_lora(pipe))
    assert everything(pipe) == before


@pytest.mark.parametrize("kind", PLAYED)
def test_attach_plays_and_warns_of_what_inspect_warns_of(
    pipe: Any, kind: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PLAYED[kind](changed := dict(state))
    save_file(changed, file := tmp_path / "a.safetensors")
    adapter = read_adapter(file)
    assert run("inspect", file) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        lcm.attach(pipe, file, recipe=lcm.Recipe.lcm_lora(pipe))
    ours = [str(w.message).removeprefix(f"{file}: ") for w in caught if str(file) in str(w.message)]
    assert [f"warning: {text}" for text in ours] == said
    assert (kind == "negative alpha") == bool(said)
    for name, factors in adapter.modules.items():
        layer = pipe.unet.get_submodule(name.removeprefix("unet."))
        delta = layer.get_delta_weight("lcm").float()
        assert torch.allclose(delta, factors.delta(), rtol=1e-3, atol=1e-5), name
    lcm.detach(pipe)


def test_dora_of_peft_is_played_and_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = build_sd()
    unet = adapted(pipe.unet, use_dora=True)
    pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(unet))
    fresh = build_sd()
    with pytest.warns(UserWarning, match="DoRA"):
        lcm.attach(fresh, tmp_path, recipe=lcm.Recipe.lcm_lora(fresh))
    assert run("repair", tmp_path, tmp_path / "out") == 1
    assert "DoRA" in capsys.readouterr().err


def test_what_a_file_that_states_some_alphas_is_told(state: State, tmp_path: Path) -> None:
    kept = {key: value for key, value in state.items() if not key.endswith("conv1.alpha")}
    save_file(kept, file := tmp_path / "a.safetensors")
    adapter = read_adapter(file)
    lacking = sum(key.endswith("conv1.alpha") for key in state)
    assert adapter.notes == []
    assert (
        f"{lacking - 1} more of {len(adapter.modules)} layers state no alpha, and the others do"
        in adapter.problems[0]
    )
