"""Checkpoints: bit-exact, complete or not there at all."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.outputs.checkpoint import (
    DamagedError,
    RunState,
    flatten_optimizer,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from tests.support.damage import flip_bit


def save(output_dir: Path, step: int, value: float = 0.0) -> Path:
    return save_checkpoint(
        output_dir, step, RunState({"x": torch.tensor([value])}, {"value": value})
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "cut at its start": lambda content: content[:5],
    "zeroed": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "binary": lambda content: bytes(range(128, 256)),
}
"""What a disk or a power loss makes of a file."""

TENSORS = {
    "float32": torch.tensor([0.1, -0.0, 1e-45, 3.4e38, math.pi]),
    "not finite": torch.tensor([math.inf, -math.inf, math.nan]),
    "float64": torch.tensor([0.1], dtype=torch.float64),
    "float16": torch.tensor([0.1, 6e-8], dtype=torch.float16),
    "bfloat16": torch.tensor([0.1], dtype=torch.bfloat16),
    "int64": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "every other": torch.arange(10.0)[::2],
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    want = TENSORS[name]
    got = load_checkpoint(save_checkpoint(tmp_path, 3, RunState({name: want}, {}))).tensors[name]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert (
        got.contiguous().reshape(-1).view(torch.uint8).tolist()
        == want.contiguous().reshape(-1).view(torch.uint8).tolist()
    )


def test_a_trained_parameter_is_saved_by_value(tmp_path: Path) -> None:
    live = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    folder = save_checkpoint(tmp_path, 1, RunState({"w": live}, {}))
    with torch.no_grad():
        live.zero_()
    loaded = load_checkpoint(folder).tensors["w"]
    assert loaded.tolist() == [1.0, 2.0]
    assert not loaded.requires_grad


def test_facts_come_back_equal_and_hold_the_step(tmp_path: Path) -> None:
    facts = {
        "config": {"lr": 2e-5, "names": ["a", "b"], "none": None, "flag": True},
        "third": 1 / 3,
        "tiny": 5e-324,
        "text": 'Größe "x"\n貓',
        "big": 2**70,
    }
    assert load_checkpoint(save_checkpoint(tmp_path, 12, RunState({}, facts))).facts == {
        **facts,
        "step": 12,
    }


def test_saving_a_step_again_replaces_it_whole(tmp_path: Path) -> None:
    (save(tmp_path, 5, value=1.0) / "old.json").write_text("{}")
    folder = save(tmp_path, 5, value=2.0)
    assert load_checkpoint(folder).tensors["x"].tolist() == [2.0]
    assert not (folder / "old.json").exists()


def make_parameters() -> list[torch.nn.Parameter]:
    """More than ten, so that the order of their numbers is not that of their spellings."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, i + 1, generator=generator)) for i in range(12)]


def make_optimizer(parameters: list[torch.nn.Parameter], amsgrad: bool) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": parameters[:5]},
        {"params": parameters[5:], "lr": 0.03, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=1 / 30, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-7, amsgrad=amsgrad
    )


def train(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range
) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** (step % 3)
        for group in optimizer.param_groups:
            group["lr"] *= 0.97
        optimizer.step()


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("steps_before", [0, 1, 7])
def test_a_restored_optimizer_goes_on_bit_for_bit(
    tmp_path: Path, amsgrad: bool, steps_before: int
) -> None:
    straight = make_parameters()
    train(straight, make_optimizer(straight, amsgrad), range(steps_before + 5))

    first = make_parameters()
    optimizer = make_optimizer(first, amsgrad)
    train(first, optimizer, range(steps_before))
    moments, groups = flatten_optimizer(optimizer)
    weights = {f"weight.{i}": parameter for i, parameter in enumerate(first)}
    folder = save_checkpoint(
        tmp_path, steps_before, RunState({**moments, **weights}, {"groups": groups})
    )

    state = load_checkpoint(folder)
    second = make_parameters()
    fresh = torch.optim.AdamW(
        [{"params": second[:5]}, {"params": second[5:]}], lr=9.0, amsgrad=amsgrad
    )
    with torch.no_grad():
        for i, parameter in enumerate(second):
            parameter.copy_(state.tensors[f"weight.{i}"])
    restore_optimizer(fresh, state.tensors, state.facts["groups"])
    train(second, fresh, range(steps_before, steps_before + 5))
    for i, (got, want) in enumerate(zip(second, straight, strict=True)):
        assert torch.equal(got, want), i


def test_optimizer_tensors_share_no_name_with_other_tensors() -> None:
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, False)
    train(parameters, optimizer, range(1))
    tensors, groups = flatten_optimizer(optimizer)
    assert len(tensors) == 12 * 3  # step and two moments
    assert all(
        name.startswith("optimizer.") and isinstance(value, Tensor)
        for name, value in tensors.items()
    )
    json.dumps(groups)


def test_a_partial_folder_is_never_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 4).rename(tmp_path / ".checkpoint-5.part")
    assert list_checkpoints(tmp_path) == []
    save(tmp_path, 2)
    prune_checkpoints(tmp_path, 1, step=100)
    assert list_checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]


def test_leftovers_of_a_partial_folder_do_not_enter_the_next_checkpoint(tmp_path: Path) -> None:
    partial = tmp_path / ".checkpoint-5.part"
    partial.mkdir()
    (partial / "leftover.json").write_text("{}")
    assert names(save(tmp_path, 5)) == {"state.safetensors", "state.json", "SHA256SUMS"}
    assert not partial.exists()


@pytest.mark.parametrize(
    "name",
    ["checkpoint-", "checkpoint-best", "checkpoint-5.bak", "checkpoint--5", "my-checkpoint-5"],
)
def test_folders_of_other_names_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    save(tmp_path, 5).rename(tmp_path / name)
    assert list_checkpoints(tmp_path) == []


def test_a_folder_without_facts_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    assert list_checkpoints(tmp_path) == []


def test_facts_that_are_not_json_leave_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, RunState({"x": torch.ones(1)}, {"x": object()}))
    assert list_checkpoints(tmp_path) == []
    assert not (tmp_path / "checkpoint-1").exists()


def test_the_list_is_in_numeric_order(tmp_path: Path) -> None:
    for step in (10, 2, 100, 9):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        f"checkpoint-{step}" for step in (2, 9, 10, 100)
    ]


@pytest.mark.parametrize(
    ("keep", "left"),
    [(None, [2, 9, 10]), (1, [10]), (2, [9, 10]), (3, [2, 9, 10]), (7, [2, 9, 10])],
)
def test_prune_keeps_the_newest(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    for step in (9, 10, 2):
        save(tmp_path, step)
    (tmp_path / "metrics.jsonl").write_text("")
    prune_checkpoints(tmp_path, keep, step=100)
    assert names(tmp_path) == {"metrics.jsonl", *(f"checkpoint-{step}" for step in left)}


def test_prune_leaves_later_checkpoints_to_a_run_that_went_back(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, 1, step=4)
    assert names(tmp_path) == {"checkpoint-4", "checkpoint-6"}


@pytest.mark.parametrize("folder", ["", "does/not/exist"])
def test_there_may_be_nothing_to_prune(tmp_path: Path, folder: str) -> None:
    prune_checkpoints(tmp_path / folder, 1, step=100)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize("kind", [*CONTENTS, "a bit"])
def test_damage_is_named(tmp_path: Path, name: str, kind: str) -> None:
    path = save(tmp_path, 2) / name
    if kind == "a bit":
        flip_bit(path, -3)
    else:
        path.write_bytes(CONTENTS[kind](path.read_bytes()))
    with pytest.raises(DamagedError, match=rf"checkpoint-2 is damaged: {name} is "):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 5)
    (folder / name).unlink()
    with pytest.raises(DamagedError, match=f"checkpoint-5 is damaged: {name} is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_damage_is_named_without_sums_too(tmp_path: Path, name: str, kind: str) -> None:
    """As former versions wrote checkpoints."""
    path = save(tmp_path, 2) / name
    (path.parent / "SHA256SUMS").unlink()
    (path.parent / "state.json").write_text('{"value": 0.0, "step": 2}')
    assert load_checkpoint(path.parent).facts == {"value": 0.0, "step": 2}
    path.write_bytes(CONTENTS[kind](path.read_bytes()))
    with pytest.raises(DamagedError, match=rf"checkpoint-2 is damaged: {name} is "):
        load_checkpoint(path.parent)


def test_the_sums_are_those_that_other_programs_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 2)
    words = ["sha256sum", "--check", "SHA256SUMS"]
    assert subprocess.run(words, cwd=folder, capture_output=True, check=False).returncode == 0


def test_no_pickles_are_written(tmp_path: Path) -> None:
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, True)
    train(parameters, optimizer, range(2))
    tensors, groups = flatten_optimizer(optimizer)
    save_checkpoint(tmp_path, 2, RunState(tensors, {"groups": groups}))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ""}
