"""Which flags a resumed run may change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lcm.config.run import FREE_TO_CHANGE, TrainConfig
from lcm.methods.term_flags import TermFlags
from lcm.outputs import resume
from tests.support.configs import (
    AWKWARD,
    BASE,
    FIELDS,
)


def differences(config: TrainConfig, theirs: dict[str, Any]) -> list[str]:
    """What keeps a run from going on from a checkpoint with these flags."""
    return resume.differences(config.flat(), theirs, config.free_to_change())


@pytest.mark.parametrize("values", [BASE, {**BASE, **AWKWARD}], ids=["defaults", "awkward"])
def test_a_configuration_does_not_differ_from_its_own_json(values: dict[str, Any]) -> None:
    config = TrainConfig.of(**values)
    assert differences(config, json.loads(json.dumps(config.flat()))) == []


@pytest.mark.parametrize("name", FIELDS)
def test_differences_reports_what_is_not_free_to_change(name: str) -> None:
    config = TrainConfig.of(**BASE, lr_scheduler="cosine")
    found = differences(config, {**config.flat(), name: "something else"})
    if name in FREE_TO_CHANGE | config.method.without_effect().keys():
        assert found == []
    else:
        assert found == [f"{name}: something else -> {config.flat()[name]}"]


def test_a_field_that_the_earlier_version_did_not_have_counts_as_its_default() -> None:
    config, other = TrainConfig.of(**BASE), TrainConfig.of(**BASE, lora_rank=8)
    earlier = config.flat()
    del earlier["lora_rank"], earlier["logging_steps"], earlier["lora_target_modules"]
    assert differences(config, earlier) == []
    assert differences(other, earlier) == ["lora_rank: 64 -> 8"]


@pytest.mark.parametrize("objective", ["lcm", "tscd"])
def test_a_run_of_a_version_without_terms_had_none(objective: str) -> None:
    """Their flags have no default of their own, but that of the method."""
    earlier = TrainConfig.of(**{**BASE, "objective": objective}).flat()
    for flag in (f.name for f in dataclasses.fields(TermFlags)):
        del earlier[flag]
    assert differences(TrainConfig.of(**{**BASE, "objective": objective}), earlier) == []
    config = TrainConfig.of(**{**BASE, "objective": objective}, terms=["adversarial"])
    assert differences(config, earlier) == ["terms: [] -> ['adversarial=0.1']"]


def test_a_term_with_its_own_weight_is_that_term() -> None:
    """The configuration says the weight that counts, so that another default makes no other run."""
    given = {**BASE, "objective": "lcm"}
    named, weighted = (TrainConfig.of(**given, terms=[word]) for word in ("dmd", "dmd=1.0"))
    assert differences(named, weighted.flat()) == [] and named.method.terms == ["dmd=1.0"]


def test_a_flag_without_effect_makes_no_other_run() -> None:
    """Whatever a checkpoint says of it, while what makes it so is compared."""
    online, average = TrainConfig.of(**BASE, target="online"), TrainConfig.of(**BASE)
    assert differences(online, {**online.flat(), "ema_decay": 0.95}) == []
    assert differences(average, {**average.flat(), "ema_decay": 0.9}) == ["ema_decay: 0.9 -> 0.95"]
    assert differences(online, average.flat()) == ["target: ema -> online"]


def test_several_differences_come_one_by_one() -> None:
    config = TrainConfig.of(**BASE)
    found = differences(
        config, {**config.flat(), "seed": 5, "learning_rate": 1.0, "output_dir": "elsewhere"}
    )
    assert found == ["learning_rate: 1.0 -> None", "seed: 5 -> 0"]


@pytest.mark.parametrize(
    ("schedule", "is_free"), [("constant", True), ("constant_with_warmup", True), ("cosine", False)]
)
@pytest.mark.parametrize("name", ["max_train_steps", "num_train_epochs"])
def test_a_run_may_be_lengthened_where_that_leaves_its_learning_rates_alone(
    name: str, schedule: str, is_free: bool
) -> None:
    config = TrainConfig.of(**BASE, lr_scheduler=schedule)
    assert (differences(config, {**config.flat(), name: 7}) == []) is is_free


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
        ({"objective": "dmd"}, True),
        ({"objective": "hyper"}, False),
        ({"objective": "hyper", "segments": [1], "terms": ["dmd"]}, False),
        ({"terms": ["dmd"], "dmd_start": 0.5}, False),
    ],
)
def test_a_run_whose_objective_follows_its_progress_may_not_be_lengthened(
    method: dict[str, Any], is_free: bool
) -> None:
    config = TrainConfig.of(**{**BASE, **method})
    assert (differences(config, {**config.flat(), "max_train_steps": 7}) == []) is is_free


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
