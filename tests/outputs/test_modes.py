"""What is written is as readable for others as the umask says, whoever writes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcm.cli.main import main
from lcm.system.atomic import replacing
from tests.support.runs import run

UMASKS = (0o022, 0o027, 0o002, 0o077)


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        f"{path.relative_to(folder)}{'/' * path.is_dir()}": stat.S_IMODE(path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def unlike(folder: Path, umask: int) -> dict[str, str]:
    """The files and folders with other permissions than the umask leaves them."""
    return {
        name: oct(mode)
        for name, mode in modes(folder).items()
        if mode != (0o777 if name.endswith("/") else 0o666) & ~umask
    }


@pytest.mark.parametrize("umask", UMASKS, indirect=True)
def test_files_and_folders_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    with replacing(tmp_path / "file") as partial:
        save_file({"x": torch.zeros(1)}, partial)
        partial.chmod(0o600)  # as safetensors 0.8 makes it
    with replacing(tmp_path / "new" / "folder") as partial:
        partial.mkdir()
        save_file({"x": torch.zeros(1)}, partial / "file")
        (partial / "text").write_text("x")
        (partial / "link").symlink_to(tmp_path / "file")
    (tmp_path / "new" / "folder" / "link").unlink()
    assert len(modes(tmp_path)) == 5
    assert unlike(tmp_path, umask) == {}


@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_so_have_all_files_of_a_run_its_caches_and_what_verbs_make_of_it(
    sd_folder: Path, images: Path, tmp_path: Path, umask: int
) -> None:
    options = {"cache_latents": True, "latent_cache_dir": tmp_path / "cache"}
    trained = {"max_train_steps": 1, "validation_num_steps": 1, "report_to": "tensorboard"}
    output, base = tmp_path / "out", str(sd_folder)
    assert run(sd_folder, images, output, validation_prompts="a", **options, **trained) == 0
    adapter = str(output)
    made = tmp_path / "made"
    lines = [  # repair, resize and merge without a base write as convert does
        *(["convert", adapter, str(made / to), "--to", to] for to in ("diffusers", "peft")),
        ["merge", adapter, "--base", base, "--output", str(made / "base")],
        ["generate", "--base", base, "--prompt", "a", "--steps", "1", "--output", str(made / "b")],
    ]
    for line in lines:
        assert main(line) == 0, line
    found = modes(tmp_path)
    assert sum(name.endswith(".safetensors") for name in found) > 7
    assert unlike(tmp_path, umask) == {}
