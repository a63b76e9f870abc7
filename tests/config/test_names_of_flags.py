"""Flags that do not exist: what to use instead, or what is spelt like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcm.config.names import spellings
from lcm.config.other_scripts import FOREIGN_FLAGS, PUBLIC_SCRIPTS
from tests.support.configs import (
    FIELDS,
    parse,
    write_yaml,
)

MISSPELLED = [
    ("learning_rat", "learning_rate"),
    ("trian_batch_size", "train_batch_size"),
    ("resolutions", "resolution"),
    ("pretrained_model_name", "pretrained_model_name_or_path"),
    ("checkpoint_steps", "checkpointing_steps"),
]


@pytest.mark.parametrize(("wrong", "right"), MISSPELLED)
def test_unknown_flags_name_the_closest(wrong: str, right: str) -> None:
    for line in (
        (f"--{wrong}", "5"),
        (f"--{wrong}=5",),
        (f"--{wrong.replace('_', '-')}", "5"),
        ("--seed", "1", f"--{wrong}"),
    ):
        with pytest.raises(ValueError, match=f"{wrong}.*Did you mean '{right}'"):
            parse(*line)


@pytest.mark.parametrize(("wrong", "right"), MISSPELLED)
def test_unknown_yaml_keys_name_the_closest_and_the_file(
    tmp_path: Path, wrong: str, right: str
) -> None:
    with pytest.raises(ValueError, match=rf"run\.yaml.*{wrong}.*Did you mean '{right}'"):
        parse(*write_yaml(tmp_path, f"{wrong}: 5\n"))


def test_a_name_near_to_nothing_gets_no_guess() -> None:
    with pytest.raises(ValueError, match="qqqq") as error:
        parse("--qqqq", "1")
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "line", [("stray",), ("--seed", "1", "stray"), ("--random_flip", "true", "stray")]
)
def test_words_without_a_flag_are_refused(line: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="stray"):
        parse(*line)


@pytest.mark.parametrize(
    "flag", ["resol", "max_train", "learning", "pretrained_teacher", "validation_prom", "conf"]
)
def test_abbreviations_are_not_accepted(flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        parse(f"--{flag}", "5")


def assert_says_what_to_use(line: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=name.replace("_", "[-_]")) as error:
        parse(*line)
    assert f"use {FOREIGN_FLAGS[name]}" in str(error.value), line


@pytest.mark.parametrize("name", PUBLIC_SCRIPTS)
def test_flags_of_other_scripts_say_what_to_use(tmp_path: Path, name: str) -> None:
    for line in (
        [f"--{name}", "3"],
        [f"--{name}=3"],
        [f"--{name}"],
        [f"--{name.replace('_', '-')}", "3"],
    ):
        assert_says_what_to_use(line, name)
    assert_says_what_to_use(write_yaml(tmp_path, f"{name}: 3\n"), name)


def test_hyphenated_yaml_keys_of_other_scripts_say_what_to_use(tmp_path: Path) -> None:
    for name in PUBLIC_SCRIPTS:
        assert_says_what_to_use(write_yaml(tmp_path, f"{name.replace('_', '-')}: 3\n"), name)


def test_the_other_scripts_flags_name_fields_that_exist() -> None:
    assert not set(FOREIGN_FLAGS) & set(spellings())
    for name, field_name in {
        "w_min": "guidance_scale_min",
        "w_max": "guidance_scale_max",
        "validation_prompt": "validation_prompts",
        "num_validation_images": "validation_num_steps",
        "cast_teacher_unet": "mixed_precision",
    }.items():
        assert field_name in FOREIGN_FLAGS[name]
        assert field_name in FIELDS


FIRST_GUESSES = {
    "teacher": "pretrained_teacher_model",
    "steps": "max_train_steps",
    "batch_size": "train_batch_size",
    "rank": "lora_rank",
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "train_data": "train_data_dir",
    "output": "output_dir",
    "epochs": "num_train_epochs",
    "workers": "dataloader_num_workers",
}
"""What people type who have used other programs, and what they mean."""


@pytest.mark.parametrize(("name", "meant"), FIRST_GUESSES.items())
def test_first_guesses_are_answered_with_the_flag(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"unknown flag '{name}': use {meant}$"):
        parse(f"--{name}", "4")


@pytest.mark.parametrize("name", FOREIGN_FLAGS)
def test_an_answer_is_a_flag_a_command_or_that_nothing_is_needed(name: str) -> None:
    first = FOREIGN_FLAGS[name].replace(",", " ").replace(":", " ").split()[0]
    assert first in FIELDS or first == "nothing" or first.startswith("`"), name
    assert name not in spellings()


@pytest.mark.parametrize("word", ["-seed", "---seed", "--Seed", "--SEED"])
def test_a_flag_in_another_hand_is_named(word: str) -> None:
    with pytest.raises(ValueError, match=f"unknown flag '{word}'; write --seed"):
        parse(word, "1")


@pytest.mark.parametrize(("word", "meant"), [("--versoin", "version"), ("--hlep", "help")])
def test_flags_of_the_command_are_near_too(word: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        parse(word)


@pytest.mark.parametrize("number", ["-1e-3", "-.5", "-inf"])
def test_a_negative_number_is_a_value(number: str) -> None:
    with pytest.raises(ValueError, match=r"^learning_rate must be"):
        parse("--learning_rate", number)
