"""Every field of the configuration from a flag and from YAML, in all its spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import train_lcm_lora
from lcm.config import run
from lcm.config.command_line import parse_config
from lcm.system.console import error_exit
from tests.support.configs import (
    BASE,
    COMPANIONS,
    FIELDS,
    VALUES,
    everything,
    parse,
    resolved,
    write_yaml,
)
from tests.support.runs import words


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_set_by_a_flag(name: str) -> None:
    values = everything(name)
    assert parse_config(words(values)).flat() == resolved(values)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_set_by_yaml(tmp_path: Path, name: str) -> None:
    values = everything(name)
    config = parse_config(write_yaml(tmp_path, yaml.safe_dump(values)))
    assert config.flat() == resolved(values)
    assert type(config.flat()[name]) is type(VALUES[name])


@pytest.mark.parametrize("name", FIELDS)
def test_flags_win_over_yaml(tmp_path: Path, name: str) -> None:
    others = {
        "mixed_precision": "fp16",
        "resume_from_checkpoint": "x",
        "lr_scheduler": "linear",
        "report_to": ["tensorboard"],
        "prompts_file": "others.txt",
        "trajectory_dir": "elsewhere",
        "guidance_per_phase": [2.0, 2.0],
        "init_adapter": "another/adapter",
    }
    values = everything(name)
    if isinstance(VALUES[name], bool):
        other: Any = not VALUES[name]
    elif isinstance(VALUES[name], int | float):
        is_share = run.FIELDS[name].metadata["flag"].below == 1
        other = 0.9 if is_share else VALUES[name] * 2
    else:
        other = {**resolved(COMPANIONS.get(name, {})), **others}[name]
    line = [
        *write_yaml(tmp_path, yaml.safe_dump({**values, name: other})),
        *words({name: VALUES[name]}),
    ]
    assert parse_config(line).flat()[name] == VALUES[name]
    assert parse_config([*line[2:], *line[:2]]).flat()[name] == VALUES[name]


@pytest.mark.parametrize(
    ("line", "trackers"),
    [
        (["--report_to=wandb"], ["wandb"]),
        (["--report_to", "tensorboard", "trackio"], ["tensorboard", "trackio"]),
        (["--report_to", "none"], []),
        ([], []),
    ],
)
def test_trackers_are_named_one_by_one(line: list[str], trackers: list[str]) -> None:
    assert parse(*line).output.report_to == trackers


@pytest.mark.parametrize(
    "text", ["report_to: wandb", "report_to: [wandb]", "report_to: null", "report_to: []"]
)
def test_no_tracker_takes_those_of_a_file_away(tmp_path: Path, text: str) -> None:
    path = write_yaml(tmp_path, f"{text}\n")
    assert parse(*path).output.report_to == (["wandb"] if "wandb" in text else [])
    assert parse(*path, "--report_to", "none").output.report_to == []


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("pretrained_model_name_or_path", "pretrained_teacher_model", "someone/sd"),
        ("revision", "teacher_revision", "main"),
        ("lr", "learning_rate", 3e-4),
    ],
)
def test_aliases(tmp_path: Path, alias: str, name: str, value: Any) -> None:
    assert parse(f"--{alias}", str(value)).flat()[name] == value
    assert parse(f"--{alias}={value}").flat()[name] == value
    images = "train_data_dir: images\n"
    if name != "pretrained_teacher_model":
        images += "pretrained_teacher_model: x\n"
    config = write_yaml(tmp_path, f"{images}{alias}: {value}\n")
    assert parse_config(config).flat()[name] == value
    other = write_yaml(
        tmp_path, f"{images}{name}: {'0.5' if name == 'learning_rate' else 'other'}\n", "other.yaml"
    )
    assert parse_config([*other, f"--{alias}", str(value)]).flat()[name] == value


def test_hyphens_are_underscores(tmp_path: Path) -> None:
    assert parse("--train-batch-size", "5").loop.train_batch_size == 5
    assert parse(*write_yaml(tmp_path, "train-batch-size: 5\n")).loop.train_batch_size == 5


BOOLEANS = [name for name, value in VALUES.items() if isinstance(value, bool)]


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        ((), True),
        (("true",), True),
        (("1",), True),
        (("yes",), True),
        (("false",), False),
        (("no",), False),
    ],
)
def test_booleans_stand_bare_or_take_a_value(
    name: str, spelled: tuple[str, ...], value: bool
) -> None:
    beside = words({**BASE, **COMPANIONS.get(name, {})})
    assert parse_config([*beside, f"--{name}", *spelled, "--seed", "3"]).flat()[name] is value
    assert parse_config(beside).flat()[name] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("resolution", "big"), ("learning_rate", "fast"), ("random_flip", "perhaps")],
)
def test_a_value_of_the_wrong_type_is_named_with_its_flag_and_its_line(
    tmp_path: Path, name: str, value: str
) -> None:
    for line, where in (
        ([f"--{name}", value], "^"),
        (write_yaml(tmp_path, f"# one\n{name}: {value}\n"), r"run\.yaml, line 2: "),
    ):
        with pytest.raises(ValueError, match=f"{where}{name} must be .*; got '{value}'$"):
            parse(*line)


def test_a_users_mistake_is_one_line_and_a_status_of_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert error_exit(ValueError("100% wrong: --seed")) == 2
    assert capsys.readouterr() == ("", "error: 100% wrong: --seed\n")


def test_help_lists_the_flags_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_lcm_lora.main(["--help"])
    said = capsys.readouterr().out
    for flag in (
        "--pretrained_teacher_model",
        "--guidance_scale",
        "--resume_from_checkpoint",
        "--dry_run",
        "--config",
    ):
        assert flag in said
