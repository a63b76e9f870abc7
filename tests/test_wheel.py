"""The built wheel works away from the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support import ROOT
from tests.support.runs import flags


def test_a_wheel_installs_imports_and_trains_elsewhere(
    tmp_path: Path, sd_folder: Path, images: Path
) -> None:
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:  # a pure-Python wheel is its own installation
        archive.extractall(site)
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert (site / "lcm" / "py.typed").is_file()
    assert top == {"lcm", "train_lcm_lora.py"}
    # with the grid of a user who asks for none
    grid = dict.fromkeys(("validation_prompts", "validation_num_steps"))
    argv = flags(sd_folder, images, tmp_path / "out", max_train_steps=1, **grid)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r}); "
        f"import lcm, lcm.pipelines, train_lcm_lora; "
        f"assert all(m.__file__.startswith({str(site)!r}) for m in (lcm, lcm.pipelines, "
        f"train_lcm_lora)); sys.exit(train_lcm_lora.main({argv!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=240)
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    for page in ("report.html", "README.md"):  # their templates are in the wheel
        assert (tmp_path / "out" / page).is_file()
