"""A method, a loss and a solver that a user's own module adds to the tables after import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.adapter.recipe import Play, TeacherFacts
from lcm.config.command_line import make_parser, parse_config
from lcm.config.run import to_yaml
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.solvers.base import Predict
from lcm.diffusion.tables import LOSSES, SOLVERS
from lcm.diffusion.times import GridTimes, LandClean
from lcm.methods import METHODS
from lcm.methods.build import build_objective, make_recipe
from lcm.methods.config import MethodConfig, resolved, settings_of
from lcm.methods.method import Method, compose, follow_teacher, trailing_play
from lcm.methods.objective import Objective
from lcm.methods.settings import DistillationSettings
from lcm.system.registry import Table
from tests.support.closed_forms import GaussianRoles, make_batch, make_schedule

NEEDED = ["--pretrained_teacher_model", "teacher", "--train_data_dir", "images"]


@dataclass(frozen=True)
class OutsideSettings(DistillationSettings):
    """Flags of ours with other defaults, and fields of every type that are no flags."""

    num_ddim_timesteps: int = 20
    loss_type: str = "halved"
    strength: float = 0.5
    depth: int = 2
    label: str = "plain"
    is_odd: bool = False
    widths: tuple[int, ...] = (1, 2)
    limit: float | None = None


def build(settings: OutsideSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """`strength` times the loss of plain landing."""

    def scaled(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
        return settings.strength * loss(prediction, target, huber_c)

    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    times, coupling = GridTimes(grid, LandClean()), follow_teacher(settings)
    return compose(settings, schedule, scaled, times=times, coupling=coupling)


def play(settings: OutsideSettings) -> Play:
    """DDIM in as many steps as there are widths."""
    return trailing_play(settings.widths)


def halved(prediction: Tensor, target: Tensor, huber_c: float | None) -> Tensor:
    """Half of the mean squared difference."""
    return (prediction - target).square().flatten(1).mean(1) / 2


def still(predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Goes nowhere."""
    return x_t


@pytest.fixture(autouse=True)
def added() -> Iterator[None]:
    """The tables with our entries, which are gone afterwards."""
    entries: list[tuple[Table[Any], str, Any]] = [
        (METHODS, "outside", Method(OutsideSettings(), build, play)),
        (LOSSES, "halved", halved),
        (SOLVERS, "still", still),
    ]
    for table, name, entry in entries:
        table.add(name, entry)
    yield
    for table, name, _ in entries:
        del table._known[name]


def outside(**flags: Any) -> MethodConfig:
    return resolved(MethodConfig(objective="outside", **flags))


def test_what_is_added_is_built_played_and_told_in_a_recipe() -> None:
    schedule, batch = make_schedule(), make_batch()
    whole = build_objective(outside(method_args=["strength=1"]), schedule)
    half = build_objective(outside(solver="ddim"), schedule)
    nets = GaussianRoles(schedule)
    torch.testing.assert_close(whole(nets, batch).loss, 2 * half(nets, batch).loss)
    facts = TeacherFacts("sd", 16, "epsilon", False, "a teacher", 16)
    recipe = make_recipe(outside(method_args=["widths=1,3"]), facts)
    assert (recipe.objective, recipe.num_inference_steps) == ("outside", [1, 3])


def test_names_that_are_added_are_listed_and_accepted() -> None:
    for name, ours in (("objective", "outside"), ("solver", "still"), ("loss_type", "halved")):
        flags: dict[str, Any] = {name: "unheard of"}
        with pytest.raises(ValueError, match=f"unknown {name} .*{ours}"):
            resolved(MethodConfig(**flags))
    said = make_parser().format_help()
    assert all(name in said for name in ("outside", "still", "halved"))
    config = resolved(MethodConfig(solver="still", loss_type="halved"))
    assert (config.solver, config.loss_type, config.huber_c) == ("still", "halved", None)


def test_the_arguments_of_a_method_have_the_types_of_its_settings(tmp_path: Path) -> None:
    words = ["strength=2e-1", "depth=3", "label=a=b", "is_odd=yes", "widths=4,8", "limit=1"]
    settings = settings_of(outside(method_args=words))
    assert settings == OutsideSettings(
        strength=0.2, depth=3, label="a=b", is_odd=True, widths=(4, 8), limit=1.0
    )
    assert settings_of(outside(method_args=["limit="])) == OutsideSettings()


def test_they_are_written_out_and_read_again(tmp_path: Path) -> None:
    line = [*NEEDED, "--objective", "outside", "--method_args", "depth=3", "is_odd=true"]
    config = parse_config(line)
    assert config.flat()["method_args"] == [
        *("strength=0.5", "depth=3", "label=plain", "is_odd=true", "widths=1,2", "limit=")
    ]
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config.flat()))
    assert parse_config(["--config", str(path)]) == config
    assert config.changes()["method_args"] == config.method.method_args


def test_a_configuration_of_ours_does_not_mention_them() -> None:
    assert "method_args" not in parse_config(NEEDED).flat()


@pytest.mark.parametrize(
    ("objective", "word", "message"),
    [
        ("lcm", "strength=1", "method_args has no effect with objective lcm"),
        ("outside", "strength", "name=value; got 'strength'"),
        ("outside", "strenght=1", "unknown .*'strenght'.*Did you mean 'strength'"),
        ("outside", "solver=ddim", "solver is a flag of its own; pass --solver ddim"),
        ("outside", "depth=deep", "depth must be int; got 'deep'"),
        ("outside", "is_odd=perhaps", "is_odd must be bool; got 'perhaps'"),
        ("outside", "depth=", "depth must be int; got ''"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(objective: str, word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(MethodConfig(objective=objective, method_args=[word]))


def test_an_argument_is_given_once() -> None:
    with pytest.raises(ValueError, match="names depth twice"):
        outside(method_args=["depth=1", "depth=2"])


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="there is a objective 'lcm' already"):
        METHODS.add("lcm", METHODS["outside"])
