"""The configuration as a YAML file: what it may say, what is refused, and that it is written as it
is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig, to_yaml
from lcm.methods import METHODS
from tests.support.configs import (
    AWKWARD,
    BASE,
    FIELDS,
    NEEDS_PROMPTS,
    PROMPTS,
    parse,
    read_by,
    write_yaml,
)


def test_yaml_sets_what_flags_leave_open(tmp_path: Path) -> None:
    config = parse(
        *write_yaml(tmp_path, "seed: 3\nresolution: 64\nlora_rank: 8\n"), "--resolution", "128"
    )
    assert (config.loop.seed, config.samples.resolution, config.adapter.lora_rank) == (3, 128, 8)


@pytest.mark.parametrize("text", ["2e-5", "2.0e-5", "2.0e-05", "0.00002", "'2e-5'", "2E-5"])
def test_learning_rates_in_yaml_are_floats_however_spelled(tmp_path: Path, text: str) -> None:
    config = parse(*write_yaml(tmp_path, f"lr: {text}\n"))
    assert config.optimizer.learning_rate == 2e-5
    assert isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("yes", True), ("'true'", True), ("false", False), ("no", False)],
)
def test_booleans_in_yaml(tmp_path: Path, text: str, value: bool) -> None:
    assert parse(*write_yaml(tmp_path, f"random_flip: {text}\n")).samples.random_flip is value


def test_null_in_yaml_is_the_default(tmp_path: Path) -> None:
    config = parse(
        *write_yaml(tmp_path, "lora_alpha: null\nresolution:\nvalidation_num_steps: ~\n")
    )
    assert config == TrainConfig.of(**BASE)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "{}\n"])
def test_an_empty_yaml_changes_nothing(tmp_path: Path, text: str) -> None:
    assert parse(*write_yaml(tmp_path, text)) == TrainConfig.of(**BASE)


def test_one_value_in_yaml_is_a_list_of_one(tmp_path: Path) -> None:
    config = parse(
        *write_yaml(tmp_path, "validation_num_steps: 4\nvalidation_prompts: a red ball\n")
    )
    assert (config.validation.validation_num_steps, config.validation.validation_prompts) == (
        [4],
        ["a red ball"],
    )


def test_numbers_in_quotes_in_a_yaml_list_are_numbers(tmp_path: Path) -> None:
    assert parse(
        *write_yaml(tmp_path, "validation_num_steps: ['1', 4]\n")
    ).validation.validation_num_steps == [1, 4]


def test_prompts_in_a_yaml_list_are_text(tmp_path: Path) -> None:
    assert parse(
        *write_yaml(tmp_path, "validation_prompts: [2024, a ball]\n")
    ).validation.validation_prompts == ["2024", "a ball"]


def test_an_element_of_the_wrong_type_in_a_yaml_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation_num_steps"):
        parse(*write_yaml(tmp_path, "validation_num_steps: [4, many]\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mixed_precision", "no"),
        ("teacher_revision", "0123"),
        ("teacher_revision", "1_0"),
        ("variant", "on"),
    ],
)
def test_plain_words_in_yaml_mean_what_they_mean_as_flags(
    tmp_path: Path, name: str, text: str
) -> None:
    assert parse(f"--{name}", text).flat()[name] == text
    assert parse(*write_yaml(tmp_path, f"{name}: {text}\n")).flat()[name] == text


def test_a_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--config.*absent\.yaml"):
        parse("--config", str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("text", ["seed: [1, 2\n", "a: b: c\n", "\tseed: 1\n"])
def test_invalid_yaml_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"--config.*run\.yaml.*not valid YAML"):
        parse(*write_yaml(tmp_path, text))


@pytest.mark.parametrize("text", ["- seed: 1\n", "- 1\n- 2\n", "just words\n", "7\n"])
def test_yaml_without_names_at_the_top_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"--config.*run\.yaml.*name: value"):
        parse(*write_yaml(tmp_path, text))


@pytest.mark.parametrize("text", ["seed: [1, 2]\n", "seed: []\n", "learning_rate: {value: 1}\n"])
def test_several_values_for_a_scalar_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"run\.yaml.*{text.split(':', maxsplit=1)[0]}.*one value"
    ):
        parse(*write_yaml(tmp_path, text))


@pytest.mark.parametrize(
    "values",
    [
        BASE,
        *({**BASE, "objective": name} for name in METHODS if name not in NEEDS_PROMPTS),
        *({**BASE, **read_by(name)} for name in METHODS if name not in NEEDS_PROMPTS),
        {
            **BASE,
            **PROMPTS,
            "objective": "endpoint",
            "trajectories_per_prompt": 3,
            "trajectory_dir": "t",
        },
        {**BASE, **read_by("lcm"), "dataset_name": "someone/pictures", "train_data_dir": None},
        {**BASE, "full_finetune": True, "w_embedding": True, "proportion_empty_prompts": 0.5},
        {**BASE, "objective": "pcm", "phases": 2, "guidance_per_phase": [5.0, 1.5]},
        {**BASE, "objective": "tcd", "landing_steps": []},
        {**BASE, "preserve_cfg": True, "proportion_empty_prompts": 0.5},
        {**BASE, **AWKWARD},
    ],
    ids=lambda values: f"{values.get('objective', 'lcm')}-{len(values)}",
)
def test_the_written_yaml_parses_to_an_equal_configuration(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    config = TrainConfig.of(**values)
    line = write_yaml(tmp_path, to_yaml(config.flat()))
    again = parse_config(line)
    assert again == config
    assert to_yaml(again.flat()) == to_yaml(config.flat())
    assert set(yaml.safe_load(to_yaml(config.flat()))) == set(FIELDS)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("lora_target_modules", "lcm"),
        ("validation_num_steps", "lcm"),
        ("segments", "tscd"),
        ("guidance_per_phase", "pcm"),
    ],
)
def test_an_empty_list_in_yaml_is_named(tmp_path: Path, name: str, objective: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        parse(*write_yaml(tmp_path, f"objective: {objective}\n{name}: []\n"))


def test_no_landing_steps_in_yaml_means_anywhere(tmp_path: Path) -> None:
    assert (
        parse(*write_yaml(tmp_path, "objective: tcd\nlanding_steps: []\n")).method.landing_steps
        == []
    )
