"""What a run wrote: its losses, its files but for times and places, its gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lcm.outputs.checkpoint import load_checkpoint

OF_THE_MACHINE = ("seconds_per_step", "samples_per_second", "peak_memory_gib")


def tensors(path: Path) -> Any:
    """What a safetensors file holds, in an order of its own: its header may have another."""
    with safe_open(path, framework="pt") as file:
        values = {
            name: file.get_tensor(name).contiguous().flatten().view(torch.uint8).tolist()
            for name in sorted(file.keys())
        }
        return sorted((file.metadata() or {}).items()), values


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines_of_updates(folder)]


def content(path: Path) -> Any:
    """What of a file must not depend on kills."""
    if path.suffix == ".safetensors":
        return tensors(path)
    reader = READERS.get(path.name)
    return path.read_bytes() if reader is None else reader(path)


def settings_without_places(path: Path) -> list[str]:
    return [
        line
        for line in path.read_text().splitlines()
        if not line.startswith(("output_dir:", "latent_cache_dir:"))
    ]


def facts_without_places(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    del facts["config"]["output_dir"], facts["config"]["latent_cache_dir"]
    return facts


def card_without_folder(path: Path) -> Any:
    """A card, whose code names its folder so that it runs from any other, or its data; without
    how long the run took.
    """
    card = json.loads((path.parent / "card.json").read_text())
    folder, facts = card.pop("folder"), card["texts"]["facts"]
    card["texts"]["facts"] = [[name, fact] for name, fact in facts if name != "took"]
    lines = path.read_text().replace(folder, "").splitlines()
    return (
        card if path.suffix == ".json" else [one for one in lines if not one.startswith("| took")]
    )


READERS: dict[str, Callable[[Path], Any]] = {
    "metrics.jsonl": lambda path: lines_but_for_the_machine(path.parent),
    # the one shows times and memory, the other has sums of what is compared by its content
    **dict.fromkeys(("report.html", "SHA256SUMS"), lambda path: None),
    "config.yaml": settings_without_places,
    **dict.fromkeys(("README.md", "card.json"), card_without_folder),
    "state.json": facts_without_places,
}


def differences(output: Path, whole: Path) -> list[str]:
    """Files of a run that are not those of the undisturbed one."""
    ours, theirs = (
        {str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()} for top in (output, whole)
    )
    unlike = [
        name for name in sorted(ours & theirs) if content(output / name) != content(whole / name)
    ]
    return [
        *(f"only in one: {name}" for name in sorted(ours ^ theirs)),
        *(f"differs: {name}" for name in unlike),
    ]


def tensors_at(output: Path, step: int) -> dict[str, Tensor]:
    """All that the checkpoint of that step holds."""
    return load_checkpoint(output / f"checkpoint-{step}").tensors


def weights_at(output: Path, step: int) -> list[Tensor]:
    """The trained tensors of a checkpoint, in the network's order."""
    tensors = tensors_at(output, step)
    return [
        tensors[f"trained.{i}"] for i in range(sum(name.startswith("trained.") for name in tensors))
    ]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines_of_updates(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without those of the grids."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def lines_of_grids(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are of grids."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" not in line]


def lines_but_for_the_machine(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, with what depends on the run alone."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in OF_THE_MACHINE}
        for line in lines
    ]


def adapted_layers(folder: Path) -> list[str]:
    """The layers in the adapter file."""
    return [
        key
        for key in load_file(folder / "pytorch_lora_weights.safetensors")
        if key.endswith("lora_down.weight")
    ]


def assert_same_gradients(folder: Path, other: Path) -> None:
    """Compares two checkpoints by AdamW's first moments, which are linear in the gradients.

    Its moves are not: where the gradients of a batch cancel, it divides what rounding left by its
    own size, and the weight moves at full speed either way.
    """
    first, second = (load_checkpoint(path).tensors for path in (folder, other))
    assert first.keys() == second.keys()
    moments = [key for key in first if key.endswith(".exp_avg")]
    trained, beside = (
        sum(key.startswith(kind) for key in first) for kind in ("trained.", "beside.")
    )
    assert trained == 2 * len(adapted_layers(folder))
    assert sum(key.startswith("optimizer.") for key in moments) == trained + beside
    critics = {key for key in moments if key.startswith("critics_optimizer.")}
    assert bool(critics) == ("critics.0" in first)
    for key in moments:
        scale = first[key].square().mean().sqrt().item()
        assert scale > 0 or key in critics  # a hinge may have no slope
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=1e-2 * scale)
