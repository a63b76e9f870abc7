"""How a run takes its prompts: what is too long is counted and said before training, and the layers
that are left out go all the way into the recipe, the cache and the grids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.config.command_line import parse_config
from lcm.data.load import load_data
from lcm.data.precomputed.prompts import encode_prompts
from lcm.data.precomputed.trajectories import trajectory_key
from lcm.data.report import JSON_NAME
from lcm.models.families import load_family
from lcm.outputs.validation import GridSpec, draw_row
from lcm.system.processes import ALONE
from lcm.training.prompts import measure_prompts
from tests.support.prompts import LONG, listen, skippable, words
from tests.support.runs import encoded, expect_refusal, flags, run, trainer_of
from tests.support.trajectories import SPEC, records_of
from tests.support.worlds import build_sd, write_images


def long_images(folder: Path) -> Path:
    """Six pictures, of which two have captions that are too long."""
    images = write_images(folder)
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    rows[1]["text"], rows[4]["text"] = LONG, words(76)
    rows[5]["text"] = words(75)
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return images


def test_long_captions_are_counted_and_said_once_before_training(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = long_images(tmp_path / "images"), tmp_path / "out"
    grid = {"validation_prompts": ["blue", f"{words(75)} Star"], "validation_num_steps": 1}
    rest: list[int] = []
    said = listen(
        lambda: rest.append(run(sd_folder, images, output, max_train_steps=1, **grid, clip_skip=1))
    )
    lines = capsys.readouterr().err.splitlines()
    captions = (
        "2 of 6 captions are longer than 77 tokens (75 of words); the rest of each is not "
        "learnt; --long_prompts chunks keeps it"
    )
    assert rest == [0] and said == []
    assert lines.count(captions) == 1
    (grid_line,) = [line for line in lines if "tokens" in line and line != captions]
    assert grid_line.startswith("validation_prompts: 1 of 2 prompts is longer than 77 tokens")
    assert "from 'Star' on" in grid_line
    report = json.loads((output / JSON_NAME).read_text())
    assert (report["captions_counted"], report["long_captions"]) == (6, 2)
    assert "captions that are too long" in (output / "report.html").read_text()
    card = (output / "README.md").read_text()
    assert "    clip_skip=1,\n" in card and "CLIP Set Last Layer with -2" in card


def test_prompts_files_and_captions_of_both_tokenizers_are_counted(
    sdxl_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text(f"blue\n{words(76)}\n{'Größe 貓 ' * 30}\n")
    where = {"train_data_dir": None, "prompts_file": tmp_path / "prompts.txt"}
    config = parse_config(flags(sdxl_folder, tmp_path, tmp_path / "out", **where))
    family = load_family(str(sdxl_folder))
    found = measure_prompts(config, [family], load_data(config.data))
    assert (found.texts, found.counted, found.long) == (3, 3, 2)
    family.pipe.tokenizer_2.model_max_length = 50  # as much as the other sees less
    assert measure_prompts(config, [family], load_data(config.data)).limit == 50


def test_layers_left_out_are_in_the_batch_the_recipe_and_the_grid(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", clip_skip=1))
    batch = next(trainer.run.inputs.batches(range(1)))
    pipe = skippable(build_sd())
    expected, nothing = pipe.encode_prompt(batch.prompts, "cpu", 1, True, clip_skip=1)
    latents = encoded(trainer, batch)
    torch.testing.assert_close(latents.cond.prompt_embeds, expected)
    torch.testing.assert_close(latents.uncond.prompt_embeds, nothing)
    recipe = trainer.run.publisher.recipe
    assert recipe.clip_skip == recipe.call_defaults().clip_skip == 1
    spec = GridSpec(["x"], [1], 3, 16, 1.0, clip_skip=recipe.clip_skip)
    family = load_family(str(sd_folder))
    drawn = draw_row(family, family.pipe, "x", spec)
    assert drawn is not None
    (row,) = drawn.pictures
    options: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 1}
    generator = torch.Generator("cpu").manual_seed(3)
    (right,) = pipe("x", guidance_scale=1.0, generator=generator, clip_skip=1, **options).images
    assert list(row.getdata()) == list(right.getdata())


def test_what_is_kept_of_prompts_belongs_to_the_layers(sd_folder: Path, tmp_path: Path) -> None:
    folders, keys, rows = set(), set(), []
    for clip_skip in (None, 1, 2):
        family = load_family(str(sd_folder), clip_skip=clip_skip)
        kept = encode_prompts(family, ["a star"], directory=tmp_path, team=ALONE)
        folders.add(kept.store.folder)
        keys.add(trajectory_key(family, records_of(1), SPEC))
        rows.append(kept.prompt("a star")["prompt_embeds"])
    assert len(folders) == len(keys) == 3
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_skip": 3}, "clip_skip: the text encoders of this model have 2 layers"),
        ({"clip_skip": -1}, "clip_skip must lie in 0..100; got -1"),
        ({"validation_prompts": ["a", "b \udcff"]}, "validation_prompts is not UTF-8, 'b \\udcff'"),
        ({"caption_column": "\udcff"}, "caption_column is not UTF-8, '\\udcff'"),
        ({"config": "run.yaml"}, "validation_prompts is not UTF-8, '\\ud800'"),
        ({"long_prompts": "all"}, "long_prompts must be one of truncate, chunks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_one_line(
    changes: dict[str, Any],
    message: str,
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text('validation_prompts: ["\\ud800"]\n')
    expect_refusal(capsys, flags(sd_folder, images, tmp_path / "out", **changes), message)
    assert not (tmp_path / "out").exists()


def test_leaving_out_no_layer_is_the_default(sd_folder: Path, tmp_path: Path) -> None:
    one, other = (
        parse_config(flags(sd_folder, tmp_path, tmp_path, clip_skip=n)) for n in (None, 0)
    )
    assert one == other
