"""Setting up a run, step by step: each can be made alone, and tells of nothing but its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.outputs.checkpoint import RunState
from lcm.system.processes import ALONE, Team
from lcm.training.inputs import load_inputs
from lcm.training.launch import make_machine
from lcm.training.result import LoraResult, UNetResult, kind_of
from lcm.training.setup import make_facts, make_state, open_workspace
from lcm.training.workspace import RunWorkspace, TemporaryWorkspace, Workspace
from tests.support.outputs import snapshot
from tests.support.runs import FROM_TRAJECTORIES, flags, same, trainer_of, update
from tests.support.teams import teams


def refuse(*_: Any) -> Any:
    raise AssertionError("there is nobody to ask")


# --- the workspace --------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, Any]:
    """A run that computes all that can be kept, and the folders for it."""
    (tmp_path / "prompts").write_text("\n".join("abcdef"))
    return {
        **FROM_TRAJECTORIES,
        "prompts_file": tmp_path / "prompts",
        "cache_latents": True,
        "latent_cache_dir": tmp_path / "kept" / "cache",
        "trajectory_dir": tmp_path / "kept" / "trajectories",
    }


def config_in(folder: Path, **changes: Any) -> TrainConfig:
    return parse_config(flags(folder / "teacher", folder / "images", folder / "out", **changes))


def workspace_of(config: TrainConfig, team: Team = ALONE) -> Workspace:
    return open_workspace(config.loop, config.cache, config.output, team)


def test_a_run_works_in_the_folders_that_its_flags_name(
    tmp_path: Path, kept: dict[str, Any]
) -> None:
    team = teams(1)[0]
    workspace = workspace_of(config_in(tmp_path, **kept), team)
    assert isinstance(workspace, RunWorkspace)
    assert (workspace.limit, workspace.is_kept, workspace.team) == (None, True, team)
    assert workspace.cache == kept["latent_cache_dir"]
    assert kept["latent_cache_dir"].is_dir()
    first, other = (workspace.open_trajectories() for _ in range(2))
    assert first == other and first[0] == kept["trajectory_dir"] and first[0].is_dir()
    elsewhere = config_in(tmp_path, **kept, output_dir=tmp_path / "elsewhere")
    folder, owner = workspace_of(elsewhere).open_trajectories()
    assert folder == first[0] and owner != first[1]


def test_without_flags_a_run_keeps_no_cache_and_trajectories_beside_its_result(
    tmp_path: Path,
) -> None:
    workspace = workspace_of(config_in(tmp_path))
    assert workspace.cache is None
    assert not (tmp_path / "out").exists()
    assert workspace.open_trajectories()[0] == tmp_path / "out" / "trajectories"


@pytest.mark.parametrize("name", ["latent_cache_dir", "trajectory_dir"])
def test_a_folder_that_cannot_be_made_is_named_by_its_flag(
    tmp_path: Path, kept: dict[str, Any], name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    config = config_in(tmp_path, **{**kept, name: tmp_path / "file" / "below"})
    with pytest.raises(ValueError, match=rf"{name}: .*file is no folder; choose another folder"):
        workspace_of(config).open_trajectories()


def test_a_dry_run_shares_with_nobody_and_leaves_nothing_behind(
    tmp_path: Path, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders are gone with the process, which is played here."""
    ends: list[Callable[[], Any]] = []
    monkeypatch.setattr(
        "lcm.training.workspace.atexit.register",
        lambda function, *args, **options: ends.append(lambda: function(*args, **options)),
    )
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    others = Team(rank=1, size=2, gather=refuse, wait=refuse)
    workspace = workspace_of(config_in(tmp_path, **kept, dry_run=True), others)
    assert isinstance(workspace, TemporaryWorkspace)
    assert (workspace.limit, workspace.is_kept, workspace.team) == (2, False, ALONE)
    folders = [workspace.cache, *(workspace.open_trajectories()[0] for _ in range(2))]
    assert len(set(folders)) == 3
    for folder in folders:
        assert folder is not None and folder.parent == tmp_path / "tmp"
        (folder / "row").write_text("made")
    assert workspace.open_trajectories()[1] is None
    for end in ends:
        end()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"prompts", "tmp"}


def test_a_dry_run_without_a_cache_has_none(tmp_path: Path) -> None:
    assert workspace_of(config_in(tmp_path, dry_run=True)).cache is None


def test_a_dry_run_makes_a_batch_of_what_is_made_once(
    sd_folder: Path, images: Path, tmp_path: Path, kept: dict[str, Any]
) -> None:
    """A batch of rows of the cache, of trajectories; all the data are known for what follows."""
    before = snapshot(tmp_path)
    for changes in (kept, {"cache_latents": True}):
        run = trainer_of(flags(sd_folder, images, tmp_path / "out", dry_run=True, **changes)).run
        assert (len(run.loaded.records), len(run.inputs.data.records)) == (6, 2)
        assert len(next(run.inputs.batches(range(1))).keys) == 2
    assert snapshot(tmp_path) == before


# --- the facts ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Processes:
    """A machine, as far as the facts ask for it."""

    process: tuple[int, int]


@pytest.mark.parametrize(
    ("processes", "updates"), [(1, 5), (2, 3), (9, 1)]
)  # 3 epochs of 6 images, 4 an update of one process
def test_facts_fill_in_what_the_flags_leave_open(
    sd_folder: Path, images: Path, tmp_path: Path, processes: int, updates: int
) -> None:
    options: dict[str, Any] = {"num_train_epochs": 3, "gradient_accumulation_steps": 2}
    options["validation_prompts"] = None
    config = parse_config(flags(sd_folder, images, tmp_path, resolution=None, **options))
    machine = make_machine(config.loop, config.output, config.optimizer)
    families, loaded = load_inputs(config, machine, workspace_of(config))
    before = config.flat()
    several: Any = Processes((0, processes))
    styles = [["a", 0.5]]
    facts = make_facts(config, several, families[0], loaded, styles)
    assert config.flat() == before
    assert (before["resolution"], before["num_train_epochs"]) == (None, 3)
    assert (facts.resolution, facts.num_updates) == (16, updates)
    assert facts.samples_per_step == 4 * processes
    filled = {"resolution": 16, "max_train_steps": updates, "num_train_epochs": None}
    assert facts.settings == {**before, **filled}
    assert set(facts.prompts) <= {record.captions[0] for record in loaded.records}
    assert facts.record() == {
        "config": facts.settings,
        "data": facts.fingerprint,
        "teacher_loras": styles,
        "samples_per_step": facts.samples_per_step,
    }


def test_facts_leave_alone_what_the_flags_say(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    options = {"resolution": 24, "max_train_steps": 7, "validation_prompts": ["mine"]}
    config = parse_config(flags(sd_folder, images, tmp_path, **options))
    machine = make_machine(config.loop, config.output, config.optimizer)
    families, loaded = load_inputs(config, machine, workspace_of(config))
    facts = make_facts(config, machine, families[0], loaded, [])
    assert (facts.resolution, facts.num_updates, facts.prompts) == (24, 7, ["mine"])
    assert facts.settings == config.flat()


@pytest.mark.parametrize("wrong", ["teacher", "data"])
def test_what_is_wrong_is_found_before_what_takes_long(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Every picture is looked at for a teacher that can be distilled, which is loaded for data that
    are there.
    """

    def unfit(*_: Any) -> Any:
        raise ValueError("no teacher")

    monkeypatch.setattr("lcm.training.inputs.load_teachers", refuse if wrong == "data" else unfit)
    monkeypatch.setattr("lcm.data.load.survey", refuse)
    where = images if wrong == "teacher" else tmp_path / "nowhere"
    config = parse_config(flags(tmp_path, where, tmp_path / "out"))
    machine = make_machine(config.loop, config.output, config.optimizer)
    with pytest.raises((ValueError, OSError), match=r"no teacher|nowhere is not a folder"):
        load_inputs(config, machine, workspace_of(config))


# --- the state ------------------------------------------------------------------------------------


def test_a_state_begins_or_goes_on(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    """The learning rate falls to zero over the updates that the epochs come to."""
    options = {
        "num_train_epochs": 1,
        "lr_scheduler": "linear",
        "target": "ema",
        "export_ema_decay": 0.9,
    }
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", **options))
    run, state = trainer.run, trainer.state
    assert (state.step, state.skipped, run.facts.num_updates) == (0, 0, 3)
    rates, batches = [], run.inputs.batches(range(3))
    for _ in range(3):
        rates += state.lr_scheduler.get_last_lr()
        update(trainer, batches)
    assert rates == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert state.lr_scheduler.get_last_lr() == [0.0]
    record = trainer.record()
    tensors = {name: tensor.detach().clone() for name, tensor in record.tensors.items()}
    saved = RunState(tensors, {**record.facts, "step": 3})
    other = trainer_of(flags(sd_folder, images, tmp_path / "out", **options))
    fresh = other.run
    again = make_state(fresh, other.state.student, saved)
    assert (again.step, again.lr_scheduler.get_last_lr()) == (3, [0.0])
    found = again.record(fresh.facts.record())
    assert same(found.tensors, tensors)
    assert found.facts == record.facts
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


# --- the result -----------------------------------------------------------------------------------


def test_what_is_trained_is_chosen_once(tmp_path: Path) -> None:
    whole = config_in(tmp_path, full_finetune=True, lora_rank=None)
    kinds = [kind_of(config.adapter) for config in (config_in(tmp_path), whole)]
    assert kinds == [LoraResult, UNetResult]
