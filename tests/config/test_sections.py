"""What the fields of the sections say of themselves."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers.optimization import SchedulerType

from lcm.config.command_line import parse_config
from lcm.config.run import FIELDS, SECTIONS, TrainConfig
from lcm.config.sections import LR_SCHEDULERS
from lcm.system.flags import Flag, default_of, kind_of
from tests.support.configs import BASE, COMPANIONS
from tests.support.runs import words


def flag_of(name: str) -> Flag:
    flag: Flag = FIELDS[name].metadata["flag"]
    return flag


def test_a_flag_is_in_one_section() -> None:
    assert sum(len(section.__dataclass_fields__) for section in SECTIONS.values()) == len(FIELDS)


def test_learning_rates_follow_every_schedule_of_diffusers_that_needs_no_arguments() -> None:
    assert set(LR_SCHEDULERS) == {kind.value for kind in SchedulerType} - {"piecewise_constant"}


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_within_its_own_limits(name: str) -> None:
    flag_of(name).check(name, default_of(FIELDS[name]))


@pytest.mark.parametrize("name", FIELDS)
def test_every_number_has_limits(name: str) -> None:
    """Below and above. Guidance has its lower limit from the method, which knows of ranges."""
    flag, (kind, _) = flag_of(name), kind_of(FIELDS[name])
    is_number = kind in ("int", "float")
    assert (flag.at_most is not None or flag.below is not None) is (
        is_number and not flag.may_be_infinite
    )
    has_lower = flag.above is not None or flag.at_least is not None
    assert has_lower is (is_number and not name.startswith("guidance"))


BARE = [name for name in FIELDS if flag_of(name).bare is not None]


@pytest.mark.parametrize("name", BARE)
def test_a_flag_may_stand_bare(name: str) -> None:
    config = parse_config(
        [*words({**BASE, **COMPANIONS.get(name, {})}), f"--{name}", "--seed", "3"]
    )
    assert config.flat()[name] == flag_of(name).bare
    assert config.loop.seed == 3


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        *((word, "full") for word in ("full", "true", "yes", "t", "y", "1", "True", True)),
        *((word, "no") for word in ("no", "false", "f", "n", "0", "False", False)),
        ("selective", "selective"),
    ],
)
def test_gradient_checkpointing_may_be_spelt_as_a_switch(word: Any, mode: str) -> None:
    """As it is in other scripts."""
    config = parse_config(words({**BASE, "gradient_checkpointing": word}))
    assert config.loop.gradient_checkpointing == mode


def test_what_is_written_down_on_demand_changes_nothing_where_it_was_not_given() -> None:
    optional = {name for name in FIELDS if flag_of(name).is_optional}
    config = TrainConfig.of(**BASE)
    assert optional
    assert optional.isdisjoint(config.flat())
    assert config.changes() == BASE
