"""The scripts in examples/ do what they say, on the tiny world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples import distil, img2img, inpaint, mix, quickstart, serve, tools
from examples.shapes import card
from examples.shapes.render import BACKGROUNDS, COLORS, write_dataset
from lcm.adapter.names import WEIGHTS_NAME
from tests.support import ROOT
from tests.support.grids import cells


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the defaults are relative to it


def nearest(color: Any, colors: Mapping[str, tuple[int, int, int]]) -> str:
    return min(
        colors, key=lambda name: sum((a - b) ** 2 for a, b in zip(color, colors[name], strict=True))
    )


def backgrounds(image: Image.Image) -> set[str]:
    """The names of the colours in the corners."""
    return {
        nearest(image.getpixel(place), BACKGROUNDS)
        for place in ((0, 0), (63, 0), (0, 63), (63, 63))
    }


def test_the_quick_start_draws_what_was_asked_for(tmp_path: Path) -> None:
    for steps in ("1", "2"):
        quickstart.main(
            [
                "--prompt",
                "a red star on a navy background",
                "--steps",
                steps,
                "--output",
                str(tmp_path / f"{steps}.png"),
            ]
        )
    one, two = (Image.open(tmp_path / f"{steps}.png") for steps in ("1", "2"))
    assert one.size == two.size == (64, 64) and one.tobytes() != two.tobytes()
    assert backgrounds(one) == {"navy"}


def test_training_from_python_ends_with_a_picture(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shapes", num_images=4)
    flags = (
        "--lora_rank 2 --train_batch_size 2 --max_train_steps 1 --validation_num_steps 1 "
        "--validation_prompts star --validation_teacher_steps 0"
    )
    distil.main(
        [
            *flags.split(),
            "--train_data_dir",
            str(tmp_path / "shapes"),
            "--output_dir",
            str(tmp_path / "out"),
        ]
    )
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    assert Image.open(tmp_path / "out" / "image.png").size == (64, 64)


def test_a_style_beside_the_adapter_and_a_pipeline_that_is_as_it_was(tmp_path: Path) -> None:
    mix.main(["--weights", "0", "--output", str(tmp_path / "alone")])
    mix.main(["--weights", "1", "0", "--output", str(tmp_path)])
    alone, after, mixed = (
        Image.open(tmp_path / name) for name in ("alone/style-0.png", "style-0.png", "style-1.png")
    )
    assert alone.tobytes() == after.tobytes() != mixed.tobytes()


def test_a_picture_is_changed_and_a_part_of_one_filled(tmp_path: Path) -> None:
    img2img.main(["--output", str(tmp_path / "changed.png")])
    changed = Image.open(tmp_path / "changed.png")
    # where the white square was
    assert backgrounds(changed) == {"navy"} and nearest(changed.getpixel((24, 36)), COLORS) == "red"
    before = Image.new("RGB", (64, 64), "white")
    before.save(tmp_path / "white.png")
    inpaint.main(
        [
            "--image",
            str(tmp_path / "white.png"),
            "--steps",
            "1",
            "--output",
            str(tmp_path / "filled.png"),
        ]
    )
    filled = Image.open(tmp_path / "filled.png")
    right, left = (32, 0, 64, 64), (0, 0, 32, 64)
    assert (
        filled.crop(right).tobytes() == before.crop(right).tobytes()
        and filled.crop(left).tobytes() != before.crop(left).tobytes()
    )


def test_the_request_with_fewest_steps_is_served_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve.main(["--steps", "3", "1", "2", "--output", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == ["1: 1 steps", "2: 2 steps", "0: 3 steps"]
    assert all(backgrounds(Image.open(tmp_path / f"{i}.png")) == {"navy"} for i in range(3))


def test_the_tools_call_the_bundled_adapter_sound_and_shorten_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.main(["--rank", "8", "--output", str(tmp_path)])
    assert "\nsound\n" in capsys.readouterr().out
    small = tmp_path / "small" / WEIGHTS_NAME
    bundled = ROOT / "examples" / "shapes" / "lcm_lora" / WEIGHTS_NAME
    assert small.stat().st_size < bundled.stat().st_size / 3  # rank 8 of 32
    (picture,) = tmp_path.glob("0001-*.png")
    assert backgrounds(Image.open(picture)) == {"navy"}


def test_the_bundled_card_is_what_a_run_writes_and_its_code_runs_here(tmp_path: Path) -> None:
    written = (card.FOLDER / "README.md").read_text(encoding="utf-8")
    made = card.text()
    last = [text.rstrip().splitlines()[-1] for text in (written, made)]
    assert all(line.startswith("Made with torch ") for line in last)
    assert written.replace(last[0], "") == made.replace(last[1], "")
    _, workflow = card.bundled()
    path = card.FOLDER / "images" / "grid.png"
    with Image.open(path) as grid:
        assert {name: grid.text[name] for name in workflow} == workflow
    cell = cells(path)[0, "4 steps"]
    stock, with_style, attaching = [
        block.split("\n```")[0] for block in written.split("```python\n")[1:]
    ]
    assert "path/to" in with_style
    for code in (stock, attaching):
        names: dict[str, Any] = {}
        exec(
            compile(code.replace('"image.png"', repr(str(tmp_path / "x.png"))), "card", "exec"),
            names,
        )
        assert names["image"].size == (64, 64)
        if code is stock:
            assert np.abs(np.asarray(names["image"]).astype(int) - cell).max() <= 1
