"""Whole runs on a cache, and the command that builds, inspects and verifies one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcm.cli import main as cli
from tests.support.damage import data_start, flip_bit
from tests.support.outputs import losses
from tests.support.runs import FROM_TRAJECTORIES, flags, run
from tests.support.worlds import write_images


@pytest.mark.parametrize(("world", "buckets"), [("sd_folder", False), ("sdxl_folder", True)])
def test_a_run_with_the_cache_learns_the_same_and_a_second_one_makes_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    world: str,
    buckets: bool,
) -> None:
    images = write_images(tmp_path / "images", 4, size=(32, 16))
    write_images(tmp_path / "images" / "tall", 3, size=(17, 30))
    shared = {
        "center_crop": True,
        "aspect_ratio_buckets": buckets,
        "validation_steps": 4,
        "resolution": 32,
    }
    cached = {
        **shared,
        "cache_latents": True,
        "latent_cache_dir": tmp_path / "cache",
        "dataloader_num_workers": 1,
    }
    teacher, found = request.getfixturevalue(world), {}
    for name, changes in (("live", shared), ("first", cached), ("second", cached)):
        assert run(teacher, images, tmp_path / name, **changes) == 0
        found[name] = losses(tmp_path / name)
        said = capsys.readouterr().err
        if name == "first":
            assert "latents in" in said and "0 reused, 7 made" in said
    np.testing.assert_allclose(found["first"], found["live"], rtol=1e-4)
    assert found["second"] == found["first"]
    assert "7 reused, 0 made" in said


def test_a_dry_run_leaves_no_cache(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert (
        run(
            sd_folder,
            images,
            tmp_path / "out",
            cache_latents=True,
            latent_cache_dir=folder,
            dry_run=True,
        )
        == 0
    )
    assert not folder.exists() and not (tmp_path / "out").exists()


def test_the_command_builds_inspects_and_verifies(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert cli.main(["cache", "inspect", str(cache)]) == 1
    assert "lcm cache build makes one" in capsys.readouterr().err
    build = ["cache", "build", *flags(sd_folder, images, tmp_path / "out", latent_cache_dir=cache)]
    assert cli.main(build) == 0 and not (tmp_path / "out").exists()
    capsys.readouterr()
    assert cli.main(["cache", "inspect", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "latents" in said and "prompts" in said and "6 rows in 1 files" in said
    assert cli.main(["cache", "verify", str(cache)]) == 0
    (path,) = next(cache.glob("latents-*")).glob("*.safetensors")
    flip_bit(path, data_start(path))
    capsys.readouterr()
    assert cli.main(["cache", "verify", str(cache)]) == 1
    assert f"{path.name}: rows 0" in capsys.readouterr().out
    assert cli.main(build) == 0
    assert cli.main(["cache", "verify", str(cache)]) == 0


def test_the_command_inspects_and_verifies_trajectories(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, prompts = tmp_path / "trajectories", tmp_path / "prompts.txt"
    prompts.write_text("a red ball\na blue star\na hat\n")
    changes = {**FROM_TRAJECTORIES, "prompts_file": prompts, "trajectory_dir": directory}
    assert run(sd_folder, None, tmp_path / "out", max_train_steps=1, **changes) == 0
    capsys.readouterr()
    assert cli.main(["cache", "inspect", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "trajectories; family sd, num_steps 4, solver ddim" in said
    assert "3 rows in 1 files" in said
    assert cli.main(["cache", "verify", str(directory)]) == 0
    assert "3 rows, sound" in capsys.readouterr().out
    (path,) = directory.glob("*/*.safetensors")
    flip_bit(path, data_start(path))
    assert cli.main(["cache", "verify", str(directory)]) == 1
    out, err = capsys.readouterr()
    assert "1 rows damaged, 0 files not readable" in out and f"{path.name}: rows 0" in out
    assert "cache build" not in err
    assert run(sd_folder, None, tmp_path / "out2", max_train_steps=1, **changes) == 0
    assert "2 reused, 1 made, 1 damaged ones among them" in capsys.readouterr().err
    assert cli.main(["cache", "verify", str(directory)]) == 0


def test_a_cache_that_cannot_be_written_is_refused_by_name(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    # nothing is closed to the superuser
    folders = {
        tmp_path / "file" / "x": f"{tmp_path / 'file'} is no folder",
        **({closed: f"{closed} cannot be written"} if os.geteuid() else {}),
    }
    for folder, reason in folders.items():
        assert (
            run(sd_folder, images, tmp_path / "out", cache_latents=True, latent_cache_dir=folder)
            == 2
        )
        assert f"latent_cache_dir: {reason}" in capsys.readouterr().err
