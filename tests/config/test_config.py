"""The configuration: every field from flags and from YAML, and an error that names the fix for
everything else.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import train_lcm_lora
from lcm.config.flags import DROPPED_FLAGS, parse_config, spellings
from lcm.config.run import FREE_TO_CHANGE, TrainConfig
from lcm.methods import METHODS
from lcm.system.console import error_exit
from tests.support.configs import BASE, VALUES, read_by, write_yaml
from tests.support.runs import words

FIELDS = [f.name for f in fields(TrainConfig)]
PROMPTS = {"train_data_dir": None, "prompts_file": "prompts.txt"}
COMPANIONS: dict[str, dict[str, Any]] = {
    "dataset_name": {"train_data_dir": None},
    "parquet_files": {"train_data_dir": None},
    "webdataset": {"train_data_dir": None},
    "prompts_file": {"train_data_dir": None},
    "cache_variants": {"cache_latents": True},
    "latent_cache_dir": {"cache_latents": True},
    "streaming": {
        "train_data_dir": None,
        "dataset_name": "someone/pictures",
        "cache_latents": True,
    },
    "trajectories_per_prompt": PROMPTS,
    "trajectory_dir": PROMPTS,
    "guidance_scale_min": {"guidance_scale_max": 15.0},
    "guidance_scale_max": {"guidance_scale_min": 2.0},
    "guidance_per_phase": {"objective": "pcm", "phases": 2},
    "preserve_cfg": {"proportion_empty_prompts": 0.1},
    "coupling": {"objective": "flow_map", "as_control": True},
    "phases": {"objective": "pcm"},
    "segments": {"objective": "tscd"},
    "landing_steps": {"objective": "tcd"},
    "landing_jitter": {"objective": "tcd"},
    "eta": {"objective": "tcd"},
    "discretization": {"objective": "ct"},
    "first_ddim_timesteps": {"objective": "ct"},
    "tangent_mode": {"objective": "scm"},
    "tangent_step": {"objective": "scm"},
    "tangent_warmup": {"objective": "scm"},
    "tangent_normalization": {"objective": "scm"},
    "injection": {"objective": "stochastic_flow"},
    "w_embedding": {"full_finetune": True},
    "lr_warmup_steps": {"lr_scheduler": "cosine"},
    "ema_decay": {"target": "ema"},
    "snr_gamma": {"weighting": "min_snr"},
    "hub_model_id": {"push_to_hub": True},
    "hub_private": {"push_to_hub": True},
}
"""What a value needs beside it to make sense."""
CONSEQUENCES: dict[str, dict[str, Any]] = {
    "guidance_scale_min": {"guidance_scale": None},
    "guidance_per_phase": {"guidance_scale": None},
    "coupling": {"solver": None, "solver_steps": None},
    "loss_type": {"huber_c": None},
    "weighting": {"snr_gamma": 5.0},
    "target": {"ema_decay": 0.95},
    "discretization": {"first_ddim_timesteps": None},
}
"""What a value of VALUES makes of the method's defaults: those without effect beside it are None,
others come to have one.
"""


def parse(*line: str) -> TrainConfig:
    return parse_config([*words(BASE), *line])


def everything(name: str) -> dict[str, Any]:
    return {**BASE, **COMPANIONS.get(name, {}), name: VALUES[name]}


def resolved(values: dict[str, Any]) -> dict[str, Any]:
    """All fields: these values over the defaults of the method among them."""
    method = {name: value for name, value in values.items() if name == "objective"}
    consequences = {
        name: value for cause in values for name, value in CONSEQUENCES.get(cause, {}).items()
    }
    return {**asdict(TrainConfig.of(**BASE, **method)), **consequences, **values}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_set_by_a_flag(name: str) -> None:
    values = everything(name)
    assert asdict(parse_config(words(values))) == resolved(values)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_set_by_yaml(tmp_path: Path, name: str) -> None:
    values = everything(name)
    config = parse_config(write_yaml(tmp_path, yaml.safe_dump(values)))
    assert asdict(config) == resolved(values)
    assert type(getattr(config, name)) is type(VALUES[name])


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
        other = VALUES[name] * 2 if name not in ("ema_decay", "export_ema_decay") else 0.9
    else:
        other = {**resolved(COMPANIONS.get(name, {})), **others}[name]
    line = [
        *write_yaml(tmp_path, yaml.safe_dump({**values, name: other})),
        *words({name: VALUES[name]}),
    ]
    assert getattr(parse_config(line), name) == VALUES[name]
    assert getattr(parse_config([*line[2:], *line[:2]]), name) == VALUES[name]


def test_yaml_sets_what_flags_leave_open(tmp_path: Path) -> None:
    config = parse(
        *write_yaml(tmp_path, "seed: 3\nresolution: 64\nlora_rank: 8\n"), "--resolution", "128"
    )
    assert (config.seed, config.resolution, config.lora_rank) == (3, 128, 8)


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
    assert parse(*line).report_to == trackers


@pytest.mark.parametrize(
    "text", ["report_to: wandb", "report_to: [wandb]", "report_to: null", "report_to: []"]
)
def test_no_tracker_takes_those_of_a_file_away(tmp_path: Path, text: str) -> None:
    path = write_yaml(tmp_path, f"{text}\n")
    assert parse(*path).report_to == (["wandb"] if "wandb" in text else [])
    assert parse(*path, "--report_to", "none").report_to == []


@pytest.mark.parametrize("text", ["2e-5", "2.0e-5", "2.0e-05", "0.00002", "'2e-5'", "2E-5"])
def test_learning_rates_in_yaml_are_floats_however_spelled(tmp_path: Path, text: str) -> None:
    config = parse(*write_yaml(tmp_path, f"lr: {text}\n"))
    assert config.learning_rate == 2e-5
    assert isinstance(config.learning_rate, float)


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("pretrained_model_name_or_path", "pretrained_teacher_model", "someone/sd"),
        ("revision", "teacher_revision", "main"),
        ("lr", "learning_rate", 3e-4),
    ],
)
def test_aliases(tmp_path: Path, alias: str, name: str, value: Any) -> None:
    assert getattr(parse(f"--{alias}", str(value)), name) == value
    assert getattr(parse(f"--{alias}={value}"), name) == value
    images = "train_data_dir: images\npretrained_teacher_model: x\n"
    config = write_yaml(tmp_path, f"{images}{alias}: {value}\n")
    assert getattr(parse_config(config), name) == value
    other = write_yaml(
        tmp_path, f"{images}{name}: {'0.5' if name == 'learning_rate' else 'other'}\n", "other.yaml"
    )
    assert getattr(parse_config([*other, f"--{alias}", str(value)]), name) == value


def test_hyphens_are_underscores(tmp_path: Path) -> None:
    assert parse("--train-batch-size", "5").train_batch_size == 5
    assert parse(*write_yaml(tmp_path, "train-batch-size: 5\n")).train_batch_size == 5


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
    assert getattr(parse_config([*beside, f"--{name}", *spelled, "--seed", "3"]), name) is value
    assert getattr(parse(), name) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("yes", True), ("'true'", True), ("false", False), ("no", False)],
)
def test_booleans_in_yaml(tmp_path: Path, text: str, value: bool) -> None:
    assert parse(*write_yaml(tmp_path, f"random_flip: {text}\n")).random_flip is value


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
    assert (config.validation_num_steps, config.validation_prompts) == ([4], ["a red ball"])


def test_numbers_in_quotes_in_a_yaml_list_are_numbers(tmp_path: Path) -> None:
    assert parse(
        *write_yaml(tmp_path, "validation_num_steps: ['1', 4]\n")
    ).validation_num_steps == [1, 4]


def test_prompts_in_a_yaml_list_are_text(tmp_path: Path) -> None:
    assert parse(
        *write_yaml(tmp_path, "validation_prompts: [2024, a ball]\n")
    ).validation_prompts == ["2024", "a ball"]


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
    assert getattr(parse(f"--{name}", text), name) == text
    assert getattr(parse(*write_yaml(tmp_path, f"{name}: {text}\n")), name) == text


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
    assert f"use {DROPPED_FLAGS[name]}" in str(error.value), line


@pytest.mark.parametrize("name", DROPPED_FLAGS)
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
    for name in DROPPED_FLAGS:
        assert_says_what_to_use(write_yaml(tmp_path, f"{name.replace('_', '-')}: 3\n"), name)


def test_the_other_scripts_flags_name_fields_that_exist() -> None:
    assert not set(DROPPED_FLAGS) & set(spellings())
    for name, field_name in {
        "w_min": "guidance_scale_min",
        "w_max": "guidance_scale_max",
        "validation_prompt": "validation_prompts",
        "num_validation_images": "validation_num_steps",
        "cast_teacher_unet": "mixed_precision",
    }.items():
        assert field_name in DROPPED_FLAGS[name]
        assert field_name in FIELDS


DEFAULTS: dict[str, dict[str, Any]] = {
    "lcm": {
        "num_ddim_timesteps": 50,
        "solver": "ddim",
        "loss_type": "huber",
        "huber_c": 0.001,
        "timestep_scaling_factor": 10.0,
    },
    "cd": {
        "num_ddim_timesteps": 50,
        "solver": "heun",
        "loss_type": "l2",
        "huber_c": None,
        "target": "ema",
        "ema_decay": 0.95,
    },
    "ct": {
        "num_ddim_timesteps": 1000,
        "first_ddim_timesteps": 10,
        "solver": None,
        "guidance_scale": None,
        "preserve_cfg": None,
    },
    "pcm": {
        "num_ddim_timesteps": 40,
        "phases": 4,
        "timestep_scaling_factor": None,
        "guidance_per_phase": None,
    },
    "tcd": {
        "landing_steps": [4, 5, 6, 7, 8],
        "landing_jitter": 0.3,
        "eta": 0.3,
        "loss_type": "huber",
    },
    "tscd": {"num_ddim_timesteps": 40, "segments": [8, 4, 2, 1], "loss_type": "l2", "eta": 0.0},
    "scm": {
        "num_ddim_timesteps": None,
        "weighting": "velocity",
        "tangent_mode": "fd",
        "tangent_warmup": 0.1,
    },
    "flow_map": {
        "num_ddim_timesteps": None,
        "phases": 4,
        "solver_steps": 8,
        "coupling": "solver",
        "target": None,
    },
    "stochastic_flow": {"loss_type": "energy", "coupling": "sde", "solver": None, "injection": 0.5},
    "endpoint": {
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
        "target": None,
        "ema_decay": None,
        "guidance_scale": 7.5,
    },
    "reflow": {
        "num_ddim_timesteps": 40,
        "loss_type": "l2",
        "target": None,
        "ema_decay": None,
        "guidance_scale": 7.5,
    },
}
FROM_TRAJECTORIES = [name for name, method in METHODS.items() if method.from_trajectories]


@pytest.mark.parametrize("objective", METHODS)
def test_a_flag_left_out_is_the_methods_own(objective: str) -> None:
    source = PROMPTS if objective in FROM_TRAJECTORIES else {}
    config = parse_config(words({**BASE, **source, "objective": objective}))
    expected = DEFAULTS[objective]
    assert {name: getattr(config, name) for name in expected} == expected
    if objective != "ct":
        assert (config.guidance_scale, config.preserve_cfg, config.guidance_range) == (
            7.5,
            False,
            (7.5, 7.5),
        )
    assert (
        config.guidance_per_phase is config.guidance_scale_min is config.guidance_scale_max is None
    )


@pytest.mark.parametrize(
    ("loss_type", "c"),
    [
        ("huber", 0.001),
        ("cauchy", 0.1),
        ("huber_norm", None),
        ("l2", None),
        ("l1", None),
        ("lpips", None),
    ],
)
def test_every_loss_has_a_c_of_its_own(loss_type: str, c: float | None) -> None:
    """The c of huber_norm depends on the latents."""
    assert TrainConfig.of(**BASE, loss_type=loss_type).huber_c == c
    if loss_type in ("huber", "huber_norm", "cauchy"):
        assert TrainConfig.of(**BASE, loss_type=loss_type, huber_c=0.3).huber_c == 0.3


IGNORED = [
    ("lcm", "phases", 4),
    ("lcm", "eta", 0.3),
    ("lcm", "coupling", "solver"),
    ("cd", "segments", [1]),
    ("ct", "guidance_scale", 7.5),
    ("ct", "preserve_cfg", True),
    ("ct", "solver", "ddim"),
    ("pcm", "timestep_scaling_factor", 10.0),
    ("tcd", "phases", 4),
    ("tscd", "landing_steps", [4]),
    ("scm", "num_ddim_timesteps", 50),
    ("flow_map", "target", "ema"),
    ("flow_map", "ema_decay", 0.95),
    ("stochastic_flow", "tangent_step", 5),
]


@pytest.mark.parametrize(("objective", "name", "value"), IGNORED)
def test_a_flag_that_the_method_ignores_is_refused(
    tmp_path: Path, objective: str, name: str, value: Any
) -> None:
    values = {**BASE, "objective": objective, name: value}
    message = f"{name} has no effect with objective {objective}"
    with pytest.raises(ValueError, match=message):
        parse_config(words(values))
    with pytest.raises(ValueError, match=message):
        parse_config(write_yaml(tmp_path, yaml.safe_dump(values)))


WITHOUT_EFFECT: list[tuple[str, Any, dict[str, Any], str, dict[str, Any]]] = [
    (
        "guidance_scale",
        3.0,
        {"guidance_scale_min": 2.0, "guidance_scale_max": 9.0},
        "leave those out",
        {},
    ),
    (
        "guidance_scale",
        3.0,
        {"objective": "pcm", "guidance_per_phase": [5.0] * 4},
        "leave those out",
        {"objective": "pcm"},
    ),
    *(
        (
            name,
            value,
            {"objective": objective, **coupling},
            "--coupling solver",
            {"objective": objective, "coupling": "solver"},
        )
        for name, value in (("solver", "heun"), ("solver_steps", 3))
        for objective, coupling in (
            ("stochastic_flow", {}),
            ("stochastic_flow", {"coupling": "same_noise"}),
            ("flow_map", {"coupling": "same_noise", "as_control": True}),
        )
    ),
    ("ema_decay", 0.9, {}, "--target ema", {"target": "ema"}),
    (
        "ema_decay",
        0.9,
        {"objective": "cd", "target": "online"},
        "--target ema",
        {"objective": "cd"},
    ),
    *(
        ("snr_gamma", 3.0, {"weighting": name}, "--weighting min_snr", {"weighting": "min_snr"})
        for name in ("uniform", "snr", "velocity", "inverse_dt")
    ),
    *(
        ("huber_c", 0.1, {"loss_type": name}, "huber, huber_norm, cauchy", {"loss_type": "cauchy"})
        for name in ("l2", "l1", "lpips")
    ),
    (
        "huber_c",
        0.1,
        {"objective": "stochastic_flow"},
        "huber, huber_norm, cauchy",
        {"loss_type": "huber_norm"},
    ),
    *(
        (
            "first_ddim_timesteps",
            5,
            {"objective": "ct", "discretization": name},
            "--discretization refined",
            {"objective": "ct"},
        )
        for name in ("fixed", "ect")
    ),
    (
        "num_ddim_timesteps",
        40,
        {"objective": "ct", "discretization": "ect"},
        "--discretization refined",
        {"objective": "ct", "validation_num_steps": [4]},
    ),
    (
        "landing_jitter",
        0.1,
        {"objective": "tcd", "landing_steps": []},
        "pass some",
        {"objective": "tcd", "landing_steps": [4]},
    ),
]


@pytest.mark.parametrize(("name", "value", "beside", "says", "instead"), WITHOUT_EFFECT, ids=str)
def test_a_flag_without_effect_beside_others_is_refused_with_the_way_out(
    tmp_path: Path,
    name: str,
    value: Any,
    beside: dict[str, Any],
    says: str,
    instead: dict[str, Any],
) -> None:
    for source in (
        words({**BASE, **beside, name: value}),
        write_yaml(tmp_path, yaml.safe_dump({**BASE, **beside, name: value})),
    ):
        if [] not in beside.values() or source[0] == "--config":  # flags know no empty list
            with pytest.raises(
                ValueError,
                match=rf"^{name} has no effect (with|beside) .*; leave it out or .*{says}",
            ):
                parse_config(source)
    assert getattr(TrainConfig.of(**{**BASE, **beside}), name) is None
    assert getattr(TrainConfig.of(**{**BASE, **instead, name: value}), name) == value


def test_a_misspelled_choice_is_named_before_the_flags_that_depend_on_it() -> None:
    with pytest.raises(ValueError, match="unknown loss_type 'hubr'"):
        parse("--loss_type", "hubr", "--huber_c", "0.1")


def test_trajectories_are_drawn_with_the_solver_whatever_the_coupling() -> None:
    values = {**BASE, **PROMPTS, "objective": "stochastic_flow"}
    assert TrainConfig.of(**values).solver == "ddim"
    assert TrainConfig.of(**values, solver="heun").solver == "heun"
    with pytest.raises(ValueError, match="solver_steps has no effect with coupling sde"):
        TrainConfig.of(**values, solver_steps=3)


@pytest.mark.parametrize("objective", METHODS)
def test_resolving_twice_changes_nothing(objective: str) -> None:
    config = TrainConfig.of(
        **{**BASE, **(PROMPTS if objective in FROM_TRAJECTORIES else {}), "objective": objective}
    )
    assert TrainConfig.of(**asdict(config)) == config


NOT_POSITIVE = [
    (name, value)
    for name in [
        "lora_rank",
        "train_batch_size",
        "gradient_accumulation_steps",
        "max_train_steps",
        "checkpointing_steps",
        "validation_steps",
        "logging_steps",
        "resolution",
        "num_train_epochs",
        "checkpoints_total_limit",
        "max_train_samples",
        "solver_steps",
        "trajectories_per_prompt",
    ]
    for value in (0, -1)
] + [
    (name, value)
    for name in (
        "learning_rate",
        "max_grad_norm",
        "lora_alpha",
        "huber_c",
        "timestep_scaling_factor",
        "snr_gamma",
    )
    for value in (0.0, -0.5)
]
NONSENSE: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: value}) for name, value in NOT_POSITIVE),
    ("pretrained_teacher_model", {"pretrained_teacher_model": None}),
    ("pretrained_teacher_model", {"pretrained_teacher_model": ""}),
    ("train_data_dir", {"train_data_dir": None}),
    *((name, {name: "another source"}) for name in ("dataset_name", "parquet_files", "webdataset")),
    ("dataset_name", {"streaming": True}),
    ("dataset_name", {"streaming": True, "cache_latents": True}),
    (
        "cache_latents",
        {"streaming": True, "dataset_name": "someone/pictures", "train_data_dir": None},
    ),
    ("objective", {"objective": "magic"}),
    ("solver", {"solver": "euler"}),
    ("loss_type", {"loss_type": "l3"}),
    ("target", {"target": "offline"}),
    ("mixed_precision", {"mixed_precision": "fp8"}),
    ("lr_scheduler", {"lr_scheduler": "cosin"}),
    ("lr_scheduler", {"lr_scheduler": "piecewise_constant"}),
    (
        "report_to must be some of tensorboard, wandb, trackio",
        {"report_to": ["tensorboard", "nobody"]},
    ),
    ("report_to must be some of tensorboard, wandb, trackio", {"report_to": ["none", "wandb"]}),
    ("report_to: all is not offered", {"report_to": ["all"]}),
    *(
        ("tracker_project_name", {"tracker_project_name": name})
        for name in ("", "..", "a/b", "a b", "a#b")
    ),
    ("interpolation_type", {"interpolation_type": "cubist"}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": -0.1}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": 1.1}),
    ("proportion_empty_prompts", {"proportion_empty_prompts": math.nan}),
    ("guidance_scale", {"guidance_scale": 0.5}),
    ("guidance_scale", {"guidance_scale": math.nan}),
    ("guidance_scale_max", {"guidance_scale_min": 2.0}),
    ("guidance_scale_min", {"guidance_scale_max": 9.0}),
    ("guidance_scale", {"guidance_scale_min": 0.5, "guidance_scale_max": 9.0}),
    ("lr_warmup_steps", {"lr_warmup_steps": 5}),
    ("learning_rate", {"learning_rate": float("inf")}),
    ("lora_alpha", {"lora_alpha": float("nan")}),
    ("adam_epsilon", {"adam_epsilon": 0.0}),
    ("guidance_scale", {"guidance_scale_min": 9.0, "guidance_scale_max": 2.0}),
    ("learning_rate", {"learning_rate": math.nan}),
    ("lr_warmup_steps", {"lr_warmup_steps": -1}),
    ("dataloader_num_workers", {"dataloader_num_workers": -1}),
    ("seed", {"seed": -1}),
    ("ema_decay must lie in", {"target": "ema", "ema_decay": 1.0}),
    ("ema_decay must lie in", {"target": "ema", "ema_decay": -0.1}),
    ("validation_num_steps", {"validation_num_steps": [0]}),
    ("validation_num_steps", {"validation_num_steps": [4, 51]}),
    ("validation_num_steps", {"validation_num_steps": [4, 8], "num_ddim_timesteps": 7}),
    ("weighting", {"weighting": "heavy"}),
    ("coupling", {"objective": "flow_map", "coupling": "loose"}),
    ("coupling", {"objective": "flow_map", "coupling": "same_noise"}),
    ("coupling", {"objective": "flow_map", "coupling": "sde"}),
    ("loss_type", {"objective": "stochastic_flow", "loss_type": "l2"}),
    ("objective", {"loss_type": "energy"}),
    ("discretization", {"objective": "ct", "discretization": "coarse"}),
    ("tangent_mode", {"objective": "scm", "tangent_mode": "exact"}),
    (
        "first_ddim_timesteps",
        {"objective": "ct", "first_ddim_timesteps": 60, "num_ddim_timesteps": 50},
    ),
    ("phases", {"objective": "pcm", "phases": 3}),
    ("phases", {"objective": "pcm", "phases": 4, "num_ddim_timesteps": 50}),
    ("phases", {"objective": "flow_map", "phases": 3}),
    ("landing_steps", {"objective": "tcd", "landing_steps": [4, 0]}),
    ("landing_jitter", {"objective": "tcd", "landing_jitter": 1.5}),
    ("eta", {"objective": "tcd", "eta": -0.1}),
    ("eta", {"objective": "tcd", "eta": 1.5}),
    ("tangent_warmup", {"objective": "scm", "tangent_warmup": 2.0}),
    ("tangent_step", {"objective": "scm", "tangent_step": 0}),
    ("injection", {"objective": "stochastic_flow", "injection": 0.0}),
    ("guidance_per_phase", {"objective": "pcm", "guidance_per_phase": [5.0, 4.0, 3.0]}),
    ("guidance_scale", {"objective": "pcm", "guidance_per_phase": [5.0, 4.0, 3.0, 0.5]}),
    (
        "guidance_per_phase",
        {
            "objective": "pcm",
            "guidance_per_phase": [5.0] * 4,
            "guidance_scale_min": 2.0,
            "guidance_scale_max": 9.0,
        },
    ),
    ("preserve_cfg", {"preserve_cfg": True}),
    (
        "preserve_cfg",
        {
            "preserve_cfg": True,
            "proportion_empty_prompts": 0.1,
            "guidance_scale_min": 2.0,
            "guidance_scale_max": 9.0,
        },
    ),
    ("preserve_cfg", {**PROMPTS, "preserve_cfg": True}),
    ("train_data_dir", {"prompts_file": "prompts.txt"}),
    ("dataset_name", {**PROMPTS, "dataset_name": "someone/pictures"}),
    ("trajectories_per_prompt", {"trajectories_per_prompt": 2}),
    ("trajectory_dir", {"trajectory_dir": "somewhere"}),
    ("random_flip", {**PROMPTS, "random_flip": True}),
    ("center_crop", {**PROMPTS, "center_crop": True}),
    ("proportion_empty_prompts", {**PROMPTS, "proportion_empty_prompts": 0.1}),
    ("prompts_file", {"objective": "endpoint"}),
    ("ct", {**PROMPTS, "objective": "ct"}),
    ("lpips", {"objective": "pcm", "loss_type": "lpips"}),
    ("export_ema_decay", {"export_ema_decay": 1.0}),
    ("lora_dropout", {"lora_dropout": 1.0}),
    ("lora_dropout", {"lora_dropout": -0.1}),
    ("w_embedding", {"w_embedding": True}),
    ("w_embedding", {"w_embedding": True, "full_finetune": True, "objective": "ct"}),
    (
        "w_embedding",
        {**PROMPTS, "w_embedding": True, "full_finetune": True, "objective": "endpoint"},
    ),
    *(
        (name, {"full_finetune": True, name: value})
        for name, value in {
            "lora_rank": 8,
            "lora_alpha": 4.0,
            "lora_dropout": 0.1,
            "lora_target_modules": ["to_q"],
            "init_adapter": "someone/adapter",
        }.items()
    ),
]


@pytest.mark.parametrize(
    ("name", "change"), NONSENSE, ids=lambda value: value if isinstance(value, str) else str(value)
)
def test_nonsense_is_a_value_error_that_names_the_flag(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        TrainConfig.of(**{**BASE, **change})
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        parse_config(words({**BASE, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale_min": 1.0, "guidance_scale_max": 1.0},
        {"target": "ema", "ema_decay": 0.0},
        {"export_ema_decay": 0.0},
        {"lora_dropout": 0.0},
        {"objective": "tcd", "eta": 0.0, "landing_jitter": 0.0},
        {"objective": "tcd", "eta": 1.0, "landing_jitter": 1.0},
        {"objective": "scm", "tangent_warmup": 0.0},
        {"objective": "pcm", "guidance_per_phase": [8.0, 4.0, 2.0, 1.0]},
        {"objective": "flow_map", "coupling": "same_noise", "as_control": True},
        {"loss_type": "lpips"},
        {"proportion_empty_prompts": 0.0},
        {"proportion_empty_prompts": 1.0},
        {"validation_num_steps": [1, 50]},
        {"lr_warmup_steps": 0},
        {"max_grad_norm": math.inf},
        {"max_train_samples": 1},
        *({"interpolation_type": name} for name in ("nearest", "bilinear", "bicubic", "lanczos")),
        *(
            {"lr_scheduler": name}
            for name in (
                "linear",
                "cosine_with_restarts",
                "polynomial",
                "constant",
                "constant_with_warmup",
            )
        ),
        *({"mixed_precision": name} for name in ("no", "fp16", "bf16")),
    ],
    ids=str,
)
def test_the_ends_of_every_range_are_allowed(change: dict[str, Any]) -> None:
    config = parse_config(words({**BASE, **change}))
    assert {name: getattr(config, name) for name in change} == change


@pytest.mark.parametrize(
    ("name", "value"),
    [("resolution", "big"), ("learning_rate", "fast"), ("random_flip", "perhaps")],
)
def test_a_value_of_the_wrong_type_ends_with_the_flag_in_the_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    for line in ([f"--{name}", value], write_yaml(tmp_path, f"{name}: {value}\n")):
        with pytest.raises(SystemExit) as stop:
            parse(*line)
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert f"--{name}" in message.splitlines()[-1]
        assert value in message.splitlines()[-1] or "Truthy" in message


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


AWKWARD: dict[str, Any] = {
    "validation_prompts": [
        "a: b",
        "# no comment",
        "yes",
        "null",
        "2024",
        "1e3",
        "- x",
        "Größe 貓",
        "two\nlines",
        "'q\"",
        " edge ",
        "",
    ],
    "teacher_revision": "1e5",
    "variant": "null",
    "output_dir": "a: b #c",
    "learning_rate": 1 / 3 * 1e-4,
    "adam_epsilon": 1e-12,
    "lora_alpha": 1e22,
}


@pytest.mark.parametrize(
    "values",
    [
        BASE,
        *({**BASE, "objective": name} for name in METHODS if name not in FROM_TRAJECTORIES),
        *({**BASE, **read_by(name)} for name in METHODS if name not in FROM_TRAJECTORIES),
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
    line = write_yaml(tmp_path, config.to_yaml())
    again = parse_config(line)
    assert again == config
    assert again.to_yaml() == config.to_yaml()
    assert set(yaml.safe_load(config.to_yaml())) == set(FIELDS)


def test_defaults_are_not_shared_between_configurations() -> None:
    first = TrainConfig.of(**BASE)
    for name in ("validation_num_steps", "validation_prompts", "lora_target_modules"):
        getattr(first, name).append("x")
        assert "x" not in getattr(TrainConfig.of(**BASE), name)


@pytest.mark.parametrize("values", [BASE, {**BASE, **AWKWARD}], ids=["defaults", "awkward"])
def test_a_configuration_does_not_differ_from_its_own_json(values: dict[str, Any]) -> None:
    config = TrainConfig.of(**values)
    assert config.differences(json.loads(json.dumps(asdict(config)))) == []


@pytest.mark.parametrize("name", FIELDS)
def test_differences_reports_what_is_not_free_to_change(name: str) -> None:
    config = TrainConfig.of(**BASE, lr_scheduler="cosine")
    found = config.differences({**asdict(config), name: "something else"})
    if name in FREE_TO_CHANGE | {
        "ema_decay",
        "snr_gamma",
        "first_ddim_timesteps",
        "landing_jitter",
    }:  # no effect here
        assert found == []
    else:
        assert found == [f"{name}: something else -> {getattr(config, name)}"]


def test_a_field_that_the_earlier_version_did_not_have_counts_as_its_default() -> None:
    config, other = TrainConfig.of(**BASE), TrainConfig.of(**BASE, lora_rank=8)
    earlier = asdict(config)
    del earlier["lora_rank"], earlier["logging_steps"], earlier["lora_target_modules"]
    assert config.differences(earlier) == []
    assert other.differences(earlier) == ["lora_rank: 64 -> 8"]


def test_a_flag_without_effect_makes_no_other_run() -> None:
    """Whatever a checkpoint says of it, while what makes it so is compared."""
    online, average = TrainConfig.of(**BASE), TrainConfig.of(**BASE, target="ema")
    assert online.differences({**asdict(online), "ema_decay": 0.95}) == []
    assert average.differences({**asdict(average), "ema_decay": 0.9}) == ["ema_decay: 0.9 -> 0.95"]
    assert online.differences(asdict(average)) == ["target: ema -> online"]


def test_several_differences_come_one_by_one() -> None:
    config = TrainConfig.of(**BASE)
    found = config.differences(
        {**asdict(config), "seed": 5, "learning_rate": 1.0, "output_dir": "elsewhere"}
    )
    assert found == ["learning_rate: 1.0 -> 0.0001", "seed: 5 -> 0"]


@pytest.mark.parametrize(
    ("schedule", "is_free"), [("constant", True), ("constant_with_warmup", True), ("cosine", False)]
)
@pytest.mark.parametrize("name", ["max_train_steps", "num_train_epochs"])
def test_a_run_may_be_lengthened_where_that_leaves_its_learning_rates_alone(
    name: str, schedule: str, is_free: bool
) -> None:
    config = TrainConfig.of(**BASE, lr_scheduler=schedule)
    assert (config.differences({**asdict(config), name: 7}) == []) is is_free


@pytest.mark.parametrize(
    ("method", "is_free"),
    [
        ({"objective": "pcm"}, True),
        ({"objective": "ct"}, False),
        ({"objective": "ct", "discretization": "ect"}, False),
        ({"objective": "ct", "discretization": "fixed"}, True),
        ({"objective": "scm"}, False),
        ({"objective": "scm", "tangent_warmup": 0.0}, True),
        ({"objective": "tscd"}, False),
    ],
)
def test_a_run_whose_objective_follows_its_progress_may_not_be_lengthened(
    method: dict[str, Any], is_free: bool
) -> None:
    config = TrainConfig.of(**{**BASE, **method})
    assert (config.differences({**asdict(config), "max_train_steps": 7}) == []) is is_free


def test_free_to_change_names_only_existing_fields() -> None:
    assert set(FIELDS) >= FREE_TO_CHANGE


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "learning_rate",
        "lr_scheduler",
        "lr_warmup_steps",
        "adam_beta1",
        "adam_beta2",
        "adam_weight_decay",
        "adam_epsilon",
        "max_grad_norm",
        "lora_rank",
        "lora_alpha",
        "lora_target_modules",
        "target",
        "ema_decay",
        "objective",
        "num_ddim_timesteps",
        "solver",
        "solver_steps",
        "loss_type",
        "weighting",
        "phases",
        "lora_dropout",
        "full_finetune",
        "init_adapter",
        "export_ema_decay",
        "preserve_cfg",
        "trajectories_per_prompt",
        "huber_c",
        "guidance_scale",
        "guidance_scale_min",
        "guidance_scale_max",
        "timestep_scaling_factor",
        "resolution",
        "center_crop",
        "random_flip",
        "interpolation_type",
        "proportion_empty_prompts",
        "pretrained_teacher_model",
        "teacher_revision",
        "mixed_precision",
    ],
)
def test_what_shapes_the_training_is_not_free_to_change(name: str) -> None:
    assert name in FIELDS
    assert name not in FREE_TO_CHANGE


def test_a_users_mistake_is_one_line_and_a_status_of_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert error_exit(ValueError("100% wrong: --seed")) == 2
    assert capsys.readouterr() == ("", "error: 100% wrong: --seed\n")


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
    assert parse(*write_yaml(tmp_path, "objective: tcd\nlanding_steps: []\n")).landing_steps == []


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
