"""Worker processes that begin with nothing, as on Windows, on macOS and from Python 3.14 on: what
they get was pickled.
"""

from __future__ import annotations

import pickle
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lcm.config.plugins import load_plugins
from lcm.data.precomputed import latents
from lcm.system.signals import outlive_signals
from lcm.training import inputs
from tests.support.runs import FROM_TRAJECTORIES, flags, trainer_of


class Spawning(DataLoader[Any]):
    """Gets its batches from what a new process would have after unpickling."""

    arrived = 0

    def __init__(self, dataset: Any, *, num_workers: int, **options: Any) -> None:
        options.pop("persistent_workers", None)
        begin = options.pop("worker_init_fn", outlive_signals)
        sent = pickle.dumps((dataset, options.pop("collate_fn", None), begin))
        dataset, collate, begin = pickle.loads(sent)
        assert num_workers == 1 and begin is outlive_signals
        type(self).arrived += 1
        super().__init__(dataset, collate_fn=collate, **options)


@pytest.mark.parametrize(
    ("options", "loaders"),
    [({}, 1), ({"cache_latents": True}, 2), ({"center_crop": True, "random_flip": True}, 1)],
    ids=str,
)
def test_what_workers_get_can_be_pickled(
    options: dict[str, Any],
    loaders: int,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(monkeypatch, flags(sd_folder, images, tmp_path / "out", **cached(options, tmp_path)))
    assert Spawning.arrived == loaders


def test_trajectories_can_be_pickled(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\n", encoding="utf-8")
    options = {**FROM_TRAJECTORIES, "prompts_file": prompts, "dataloader_num_workers": 1}
    check(monkeypatch, flags(sd_folder, images, tmp_path / "out", **options))


def cached(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """These options, with a worker, and a cache of their own where they ask for one."""
    place = {"latent_cache_dir": folder / "cache"} if "cache_latents" in options else {}
    return {**options, **place, "dataloader_num_workers": 1}


def check(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    """A first batch made by a worker that has unpickled all is that which a forked one makes."""
    monkeypatch.setattr(Spawning, "arrived", 0)
    for module in (inputs, latents):
        monkeypatch.setattr(module, "DataLoader", Spawning)
    run = trainer_of(line).run
    batch, samples = next(run.inputs.batches(range(1))), run.inputs.dataset()
    alone = {sample.key: sample for sample in (samples[0, i] for i in range(len(samples)))}
    expected = alone[batch.keys[0]]
    assert torch.equal(batch.noise[0], expected.noise)
    assert torch.equal(batch.content.tensor[0], expected.content.tensor)


def test_a_plugin_is_found_by_workers(tmp_path: Path) -> None:
    """They look for modules where their reader does."""
    path = tmp_path / "of_a_worker.py"
    path.write_text("", encoding="utf-8")
    before = list(sys.path)
    try:
        load_plugins([str(path)])
        spec = PathFinder.find_spec("of_a_worker", sys.path)
        assert spec is not None and spec.origin == str(path)
        assert sys.path[: len(before)] == before  # it takes no other module's place
    finally:
        sys.path[:] = before
        sys.modules.pop("of_a_worker", None)
