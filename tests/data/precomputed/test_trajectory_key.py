"""What makes another folder of trajectories, and what does not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.data.precomputed.trajectories import trajectory_key
from lcm.data.records import Record
from lcm.diffusion.schedule import NoiseSchedule
from lcm.models.families import Family, load_family
from tests.support.trajectories import SPEC, records_of, spec
from tests.support.worlds import build_sdxl


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 10},
        {"solver": "heun"},
        {"solver_steps": 2},
        {"guidance_range": (3.0, 4.0)},
        {"seed": 8},
        {"resolution": 32},
        {"keep": "ends"},
        {"keep": "clean"},
    ],
    ids=str,
)
def test_another_setting_is_another_folder(family: Family, change: dict[str, Any]) -> None:
    assert trajectory_key(family, records_of(2), spec(**change)) != trajectory_key(
        family, records_of(2), SPEC
    )


def test_other_prompts_are_another_folder(family: Family) -> None:
    keys = {
        trajectory_key(family, records, SPEC)
        for records in (
            records_of(2),
            records_of(3),
            records_of(2)[::-1],
            [records_of(2)[0], Record("000002#0", ("another",))],
            [records_of(2)[0], Record("000009#0", records_of(2)[1].captions)],
        )
    }
    assert len(keys) == 5


def test_another_teacher_is_another_folder(
    sd_folder: Path, sdxl_folder: Path, family: Family
) -> None:
    key = trajectory_key(family, records_of(2), SPEC)
    for part in ("unet", "text_encoder"):
        other = load_family(str(sd_folder))
        last = list(getattr(other.pipe, part).parameters())[-1]
        with torch.no_grad():
            last.view(-1)[-1] += 1e-3
        assert trajectory_key(other, records_of(2), SPEC) != key
    other = load_family(str(sd_folder))
    other.schedule = dataclasses.replace(other.schedule, prediction_type="v_prediction")
    assert trajectory_key(other, records_of(2), SPEC) != key
    other.schedule = NoiseSchedule(
        family.schedule.alphas * 0.999, family.schedule.sigmas, "epsilon"
    )
    assert trajectory_key(other, records_of(2), SPEC) != key
    xl = load_family(str(sdxl_folder))
    key = trajectory_key(xl, records_of(2), SPEC)
    with torch.no_grad():
        next(xl.pipe.text_encoder_2.parameters()).view(-1)[0] += 1e-3
    assert trajectory_key(xl, records_of(2), SPEC) != key


def test_whether_sdxl_zeroes_the_empty_prompt_belongs_to_the_teacher(
    tmp_path: Path, sdxl_folder: Path
) -> None:
    build_sdxl(force_zeros=False).save_pretrained(tmp_path)
    keys = {
        trajectory_key(load_family(str(path)), records_of(1), SPEC)
        for path in (tmp_path, sdxl_folder)
    }
    assert len(keys) == 2


def test_the_same_teacher_elsewhere_is_the_same_folder(
    tmp_path: Path, sd_folder: Path, family: Family
) -> None:
    key = trajectory_key(family, records_of(2), SPEC)
    shutil.copytree(sd_folder, tmp_path / "copy")
    assert trajectory_key(load_family(str(tmp_path / "copy")), records_of(2), SPEC) == key
    family.encode_prompts(["x"], [])
    assert trajectory_key(family, records_of(2), SPEC) == key
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")
