"""What is computed once is computed on the device, and read on purpose as it is kept: runs with a
cache and with trajectories are set up on the meta device, where anything else raises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.device_law.law import DeviceLaw
from benchmarks.device_law.runs import trainer_on
from lcm.methods import METHODS
from lcm.training.step import train_step
from tests.support.runs import FROM_TRAJECTORIES, flags
from tests.support.worlds import build_sd, build_sdxl

KEPT: dict[str, dict[str, Any]] = {
    "latents": {"cache_latents": True},
    **{
        objective: {**FROM_TRAJECTORIES, "objective": objective}
        for objective in ("lcm", *(n for n, method in METHODS.items() if method.from_trajectories))
    },
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_made_on_the_device(name: str, images: Path, tmp_path: Path) -> None:
    """The first step on it then sends a batch, and waits for nothing but its own read; with prompts
    alone their tokens are sent, too.
    """
    (tmp_path / "prompts.txt").write_text("a red star\na blue ring\na green disc\n")
    changes: dict[str, Any] = {**KEPT[name]}
    if "cache_latents" in changes:
        changes["latent_cache_dir"] = tmp_path / "cache"
    else:
        changes["prompts_file"] = tmp_path / "prompts.txt"
    line = flags(Path("teacher"), images, tmp_path / "out", **changes)
    with DeviceLaw() as law:
        trainer = trainer_on([(build_sdxl() if name == "latents" else build_sd()).to("meta")], line)
    # the text encoders and the VAE say what they were asked, and nothing else waits
    assert law.reads and not law.scalars
    with DeviceLaw() as law:
        train_step(trainer.run, trainer.state, trainer.run.inputs.batches(range(1)))
    assert law.reads.total() == 1
    assert all("encode_prompt" in place for place in law.waits)
    assert not (law.waits and name == "latents")
