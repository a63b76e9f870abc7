"""AdamW: few kernels on a GPU; in 8 bits refused where it cannot work, and resumed bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import train_lcm_lora
from lcm.config.sections import OptimizerConfig
from lcm.outputs.checkpoint import (
    RunState,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from lcm.training import optimizer
from lcm.training.optimizer import BLOCK, check_8bit, make_optimizer
from tests.support.outputs import tensors_at
from tests.support.runs import expect_refusal, flags, run

CPU = torch.device("cpu")


class Kernels(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fused", [True, False], ids=["no loss scaler", "a loss scaler"])
def test_an_update_on_a_gpu_takes_as_many_kernels_for_many_tensors(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU stands in for it, in the list of devices that torch has such kernels for."""
    module = import_module("torch.optim.optimizer")  # which is also a name that it deletes
    monkeypatch.setattr(module, "_get_foreach_kernels_supported_devices", lambda: ["cpu"])
    counts = []
    for number in (2, 20):
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(number)]
        adamw = make_optimizer(OptimizerConfig(learning_rate=1e-3), parameters, fused=fused)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.ones(2)
            with Kernels() as kernels:
                adamw.step()
        counts.append(kernels.count)
    # the steps made are numbers on the CPU, which are read there: two operations each
    assert counts[1] - counts[0] <= 2 * 18, counts


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(optimizer, "find_spec", lambda name: None)
    line = flags(sd_folder, images, tmp_path / "out", use_8bit_adam=True)
    expect_refusal(
        capsys, line, "use_8bit_adam: bitsandbytes is not installed", 'pip install -e ".[8bit]"'
    )
    assert not (tmp_path / "out").exists()


class NoKernel(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise NotImplementedError("optimizer_update_8bit_blockwise is not there\nfor this backend")


class InFloat32(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["state1"] = torch.zeros_like(parameter)


@pytest.mark.parametrize(
    ("kind", "reason"), [(NoKernel, r"is not there\); install"), (InFloat32, "not kept in 8 bits")]
)
def test_a_device_without_8_bit_moments_is_refused(
    kind: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "find_spec", lambda name: "found")
    monkeypatch.setattr(optimizer, "adamw_8bit", lambda: kind)
    with pytest.raises(ValueError, match=f"no 8-bit optimizer for cpu .*{reason}"):
        check_8bit(CPU)


class Layout:
    """What an optimizer of bitsandbytes shows of its state."""

    def __init__(self) -> None:
        code = torch.linspace(-1.0, 1.0, 256)
        moments = {
            "state1": torch.arange(6, dtype=torch.uint8),
            "qmap1": code,
            "absmax1": torch.tensor([0.1]),
        }
        self.state: dict[int, Any] = {
            0: {"step": 3, "wrapped": moments},
            1: {"step": 3, "wrapped": {"qmap1": code}},
        }
        self.groups = [{"lr": 0.1, "betas": (0.9, 0.99), "t_alpha": None, "params": [0, 1]}]

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state, "param_groups": self.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["state"]


def test_numbers_shared_code_books_and_wrapped_entries_come_back(tmp_path: Path) -> None:
    layout: Any = Layout()
    before = {
        i: {"step": values["step"], **values["wrapped"]} for i, values in layout.state.items()
    }
    tensors, groups = flatten_optimizer(layout)
    state = load_checkpoint(save_checkpoint(tmp_path, 1, RunState(tensors, {"groups": groups})))
    restore_optimizer(layout, state.tensors, state.facts["groups"])
    assert layout.state.keys() == before.keys()
    for i, values in before.items():
        assert layout.state[i].keys() == values.keys()
        assert type(layout.state[i]["step"]) is int
        for name, value in values.items():
            found = layout.state[i][name]
            assert (
                torch.equal(found, value) and found.dtype == value.dtype
                if isinstance(value, Tensor)
                else found == value
            )


# --- with the package


@pytest.fixture
def bitsandbytes() -> Iterator[None]:
    pytest.importorskip("bitsandbytes")
    yield


@pytest.mark.usefixtures("bitsandbytes")
def test_moments_take_a_quarter(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    """One byte for a number and 4 for 256 of them, where AdamW has 4; small tensors stay as they
    are.
    """
    from lcm.config.command_line import parse_config

    check_8bit(CPU)
    config = parse_config(flags(sd_folder, images, tmp_path, use_8bit_adam=True))
    parameters = [nn.Parameter(torch.zeros(n)) for n in (2 * BLOCK, BLOCK - 1)]
    eight = make_optimizer(config.optimizer, parameters, fused=False)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    eight.step()
    large, small = (
        {
            name: tensor.nbytes
            for name, tensor in eight.state[p].items()
            if isinstance(tensor, Tensor) and "qmap" not in name
        }
        for p in parameters
    )
    assert sum(large.values()) == 2 * (2 * BLOCK + 4 * 2 * BLOCK // 256)
    assert sum(small.values()) == 2 * 4 * (BLOCK - 1)


@pytest.mark.usefixtures("bitsandbytes")
def test_a_run_in_8_bits_goes_on_bit_for_bit(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "use_8bit_adam": True,
        "lora_rank": 64,
        "max_train_steps": 3,
        "validation_prompts": ["a"],
        "validation_num_steps": 1,
    }
    assert run(sd_folder, images, tmp_path, **options) == 0
    whole = tensors_at(tmp_path, 3)
    assert {tensor.dtype for name, tensor in whole.items() if name.endswith(".state1")} == {
        torch.uint8,
        torch.float32,
    }
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        if "checkpoint-2" not in str(path):
            path.rmdir() if path.is_dir() else path.unlink()
    assert run(sd_folder, images, tmp_path, **options) == 0
    again = tensors_at(tmp_path, 3)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    line = flags(
        sd_folder, images, tmp_path, **{**options, "use_8bit_adam": False, "max_train_steps": 6}
    )
    assert train_lcm_lora.main(line) == 2
    assert "use_8bit_adam: True -> False" in capsys.readouterr().err
