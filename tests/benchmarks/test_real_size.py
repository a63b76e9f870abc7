"""The benchmark at real size, rehearsed with the same blocks a few channels wide; and what it calls
a fault.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel

import train_lcm_lora
from benchmarks import real_size, real_size_parts
from benchmarks.published import MODELS
from benchmarks.real_size import CASES, faults, foreseen, real_size_table
from benchmarks.true_models import WORDS, unet_config
from examples.shapes import render
from lcm.cli import main as cli
from tests.support.launches import forget_launch

PEAK = 3 * 10**8


def in_this_process(command: Sequence[str]) -> dict[str, Any]:
    """Stands in for `measured`, without five imports of all libraries."""
    words = list(command)
    if any(word.endswith("train_lcm_lora.py") for word in words):
        at = next(i for i, word in enumerate(words) if word.endswith("train_lcm_lora.py"))
        called, words = train_lcm_lora.main, words[at + 1 :]
        forget_launch()
    else:
        modules = {"benchmarks.real_size_parts": real_size_parts.main, "lcm": cli.main}
        called, words = modules.get(words[1], render.main), words[2:]
    start, said = time.time(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr("sys.argv", ["it", *words])
        status = called(words) if called in (cli.main, train_lcm_lora.main) else called()
    return {
        "status": status or 0,
        "started": start,
        "seconds": time.time() - start,
        "cpu_seconds": 0.0,
        "peak_bytes": PEAK,
        "said": said.getvalue().splitlines(),
    }


@pytest.fixture(scope="module", params=["sdxl"])
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The raw results of one model, as they are written."""
    folder = tmp_path_factory.mktemp("real_size")
    line = ["--models", request.param, "--folder", str(folder / "work"), "--tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_size, "measured", in_this_process)
        assert real_size.main([*line, "--results_dir", str(folder)]) == 0
    found: dict[str, Any] = json.loads((folder / real_size.NAME).read_text())
    assert not (folder / "work" / request.param).exists()
    return found


def test_every_part_is_made_and_measured(results: dict[str, Any]) -> None:
    (found,) = results["models"].values()
    assert list(found["parts"]) == ["build", "data", "dry run", "train", "lcm verify", "draw"]
    assert set(found["foreseen"]) == {
        *("memory", "memory with libraries", "seconds an update", "time after loading"),
        *("disk", "verdict"),
    }
    assert list(found["timeline"]) == [
        *("loading", "first pictures", "updates and state", "adapter, proven", "result"),
        "last pictures",
    ]
    # kernels stamp names a few milliseconds coarsely
    assert all(seconds >= 0 for seconds in found["timeline"].values())
    last = f"checkpoint-{found['updates']}"
    assert set(found["sizes"]) == {
        *(f"{last}/pytorch_lora_weights.safetensors", f"{last}/state.safetensors"),
        "pytorch_lora_weights.safetensors",
    }
    assert "sound" in found["parts"]["lcm verify"]["said"][-1]


def test_its_table_has_a_line_for_each_and_the_forecast(results: dict[str, Any]) -> None:
    (found,) = results["models"].values()
    lines = real_size_table(results).splitlines()
    assert sum(line.startswith(f"| {found['title']}") for line in lines) == 6 + 6 + 4
    assert all("None" not in line for line in lines)


@pytest.mark.parametrize(
    ("change", "count"), [({}, 0), ({"status": 2}, 1), ({"peak_bytes": 9e9}, 1)]
)
def test_what_fails_or_takes_too_much_is_a_fault(change: dict[str, Any], count: int) -> None:
    part = {"status": 0, "peak_bytes": 7e9, **change}
    found = {"title": "it", "limit_bytes": CASES["sd15"].limit, "parts": {"train": part}}
    assert len(faults(found)) == count


def test_a_dry_run_that_said_nothing_foresaw_nothing() -> None:
    assert foreseen(["error: no"]) == {}


@pytest.mark.parametrize("name", list(CASES))
def test_a_tiny_model_has_the_blocks_of_the_true_one(name: str) -> None:
    published = json.loads(
        (Path(real_size.__file__).parent / "models" / MODELS[name].config).read_text()
    )
    assert unet_config(name, is_tiny=False) == published
    tiny = UNet2DConditionModel.from_config(unet_config(name, is_tiny=True)).config
    for entry in ("down_block_types", "up_block_types", "addition_embed_type"):
        assert tiny[entry] == (published.get(entry) or tiny[entry])
    assert WORDS == 49408
