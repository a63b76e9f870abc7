"""What comes from outside with --plugin is found, listed, checked and recorded as what is in the
tree, and a plugin that cannot be is one clear error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import train_lcm_lora
from lcm.config.command_line import make_parser, parse_config
from lcm.config.plugins import load_plugins
from lcm.config.run import TrainConfig
from lcm.data.load import load_data
from lcm.methods import METHODS
from tests.support.documents import as_before
from tests.support.outputs import lines_of_updates
from tests.support.runs import flags

MINE = """
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lcm.data.records import Record
from lcm.data.sources import SOURCES
from lcm.data.sources.base import Source
from lcm.diffusion.tables import LOSSES, SOLVERS
from lcm.methods import METHODS
from lcm.methods.context import Numbers
from lcm.methods.lcm import LcmSettings
from lcm.methods.terms import TERMS
from lcm.methods.terms.term import TermKind
from lcm.training.metrics import METRICS


@dataclass(frozen=True)
class MySettings(LcmSettings):
    num_ddim_timesteps: int = 10
    loss_type: str = "cubic"
    solver: str = "lazy"
    strength: float = 1.0

    @property
    def follows_progress(self) -> bool:
        return self.strength > 1


def read(where, config, dropped):
    for path in sorted(Path(where).glob("*.png")):
        yield Record(path.name, (f"picture {path.stem}",), partial(Path, path))


@dataclass(frozen=True)
class Bright:
    weight: float
    name: str = "bright"
    start: float = 0.0
    numbers: Numbers = Numbers(0, 1)
    critic: None = None

    def __call__(self, landed, draws):
        return draws.uniform() * landed.point.square().flatten(1).mean(1)


TERMS.add("bright", TermKind(lambda settings, schedule, weight, parts: Bright(weight), weight=2.0))
LOSSES.add("cubic", lambda a, b, c: (a - b).abs().pow(3).flatten(1).mean(1))
SOLVERS.add("lazy", lambda predict, schedule, x_t, t, s: schedule.jump(predict(x_t, t), s))
METHODS.add("mine", replace(METHODS["lcm"], settings=MySettings()))
METRICS.add("seen", lambda run, state, output: state.step * run.facts.samples_per_step)
SOURCES.add("pngs", Source(read))
"""
BASE = ["--pretrained_teacher_model", "a", "--train_data_dir", "b"]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    with as_before():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "mine_from_outside.py"
    path.write_text(MINE)
    return str(path)


def test_a_run_on_what_a_plugin_adds(
    plugin: str, sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    line = flags(sd_folder, images, output, train_data_dir=None, objective="mine", plugin=plugin)
    line += ["--other_source", f"pngs={images}", "--method_args", "strength=2"]
    line += ["--validation_num_steps", "1", "--terms", "bright=0.5"]
    assert train_lcm_lora.main(line) == 0
    last = lines_of_updates(output)[-1]
    assert last["seen"] == 8 and last["loss_bright"] > 0
    said = yaml.safe_load((output / "config.yaml").read_text())
    assert (said["objective"], said["loss_type"], said["solver"]) == ("mine", "cubic", "lazy")
    assert (said["plugin"], said["method_args"]) == ([plugin], ["strength=2.0"])
    assert json.loads((output / "data_report.json").read_text())["source"].startswith("--other")
    assert train_lcm_lora.main(line) == 0  # it knows the finished run again


def test_a_file_of_flags_names_a_plugin_too(plugin: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"plugin: {plugin}\nobjective: mine\nvalidation_num_steps: 1\n")
    config = parse_config(["--config", str(path), *BASE])
    assert config.method.num_ddim_timesteps == 10
    assert TrainConfig.of(**config.flat()) == config


def test_help_and_errors_name_what_a_plugin_adds(plugin: str) -> None:
    load_plugins([plugin])
    text = make_parser().format_help()
    assert "mine" in text and "cubic" in text and "lazy" in text
    with pytest.raises(ValueError, match=r"choose one of .*cubic.*Did you mean 'cubic'"):
        parse_config([*BASE, "--loss_type", "cubi"])
    with pytest.raises(ValueError, match=r"choose one of .*bright.*Did you mean 'bright'"):
        parse_config([*BASE, "--terms", "brigt=1"])


def test_a_method_says_whether_it_follows_the_progress_of_a_run(plugin: str) -> None:
    line = [*BASE, "--plugin", plugin, "--objective", "mine"]
    assert "max_train_steps" in parse_config(line).free_to_change()
    follows = parse_config([*line, "--method_args", "strength=2"])
    assert "max_train_steps" not in follows.free_to_change()


def test_a_plugin_is_imported_once(plugin: str) -> None:
    load_plugins([plugin, plugin])
    load_plugins([plugin])
    assert "mine" in METHODS


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("copy.py", "", "there is another module 'copy'; rename the file"),
        ("imaplib.py", "", "there is another module 'imaplib'; rename the file"),
        ("broken_plugin.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("taken.py", "from lcm.methods import METHODS as m; m.add('lcm', 1)", "register yours as"),
    ],
)
def test_a_plugin_that_cannot_be_is_an_error(
    name: str, text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    before = sys.modules.get(name.removesuffix(".py"))
    with pytest.raises(ValueError, match=f"plugin: .*{name} could not be imported.*{reason}"):
        load_plugins([str(tmp_path / name)])
    assert sys.modules.get(name.removesuffix(".py")) is before


def test_two_files_of_one_name_exclude_each_other(plugin: str, tmp_path: Path) -> None:
    other = tmp_path / "other" / Path(plugin).name
    other.parent.mkdir()
    other.write_text("")
    load_plugins([plugin])
    with pytest.raises(ValueError, match="rename the file"):
        load_plugins([str(other)])


def test_a_plugin_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"plugin: nowhere.py .*there is no file .*nowhere.py"):
        load_plugins(["nowhere.py"])
    with pytest.raises(ValueError, match=r"plugin: no_such_module .*No module named"):
        load_plugins(["no_such_module"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("pngs", "other_source takes NAME=WHERE"),
        ("pgns=x", "unknown source of data 'pgns'.*Did you mean 'pngs'"),
    ],
)
def test_a_source_from_outside_needs_its_name_and_a_place(
    value: str, reason: str, plugin: str
) -> None:
    load_plugins([plugin])
    config = TrainConfig.of(pretrained_teacher_model="a", other_source=value).data
    with pytest.raises(ValueError, match=reason):
        load_data(config)
