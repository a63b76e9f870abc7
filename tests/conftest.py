"""Shared folders: tiny teachers and images, written once for the whole run."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every test works without a network
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

import diffusers
import pytest
import torch
import transformers

from tests.support import adapters, worlds
from tests.support.launches import forget_launch

torch.set_num_threads(1)  # these networks are too small to share out
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Accelerate keeps its state for the life of a process; every test is a launch of its own."""
    forget_launch()


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    worlds.build_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd_v")
    worlds.build_sd("v_prediction", zero_snr=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    worlds.build_sdxl().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LCM-LoRA of `build_sd`, which nobody writes to, of as many layers as tests need that
    attach it: to load one costs as much as it has layers.
    """
    folder = tmp_path_factory.mktemp("adapter")
    recipe = adapters.make_recipe()
    return adapters.write_adapter(folder, worlds.build_sd, recipe, targets=adapters.OF_EVERY_KIND)


@pytest.fixture(scope="session")
def sdxl_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LCM-LoRA of `build_sdxl`, which nobody writes to."""
    folder = tmp_path_factory.mktemp("adapter")
    recipe = adapters.make_recipe("sdxl", 32)
    return adapters.write_adapter(folder, worlds.build_sdxl, recipe, targets=adapters.OF_EVERY_KIND)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.write_images(tmp_path_factory.mktemp("images"))


SLOWEST_LAST = (
    "test_launch",
    "test_exactness",
    "test_memory_runs_out",
    "test_resumed_runs",
    "test_losses",
    "test_rehearse",
    "test_interruption",
    "test_whole_runs",
    "test_cached_runs",
    "test_play",
    "test_docs",
    "test_serving",
    "test_disk_room",
    "test_streamed_runs",
    "test_trajectories",
    "test_shapes",
    "test_step",
    "test_counts",
    "test_wheel",
)
"""Files that take longest, longest first. They come after all others, which find most mistakes in a
minute; among themselves they begin with the longest, so that no process is left alone with it at
the end.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(SLOWEST_LAST, start=1)}
    items.sort(key=lambda item: ranks.get(item.path.stem, 0))
