"""How processes find each other: what accelerate's launcher leaves in the environment, and what is
refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed import destroy_process_group
from torch.distributed.distributed_c10d import _get_default_group

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig
from lcm.outputs.resume import check_same_command
from lcm.system.processes import Team
from lcm.training.launch import make_accelerator
from tests.support import ROOT
from tests.support.ranks import free_port
from tests.support.runs import words
from tests.support.teams import at_once

FILES = ROOT / "examples" / "accelerate"


def config_of(**changes: Any) -> TrainConfig:
    values = {"pretrained_teacher_model": "x", "train_data_dir": "y", **changes}
    return parse_config(words(values))


def launched() -> Accelerator:
    """The processes of the plainest run."""
    config = config_of()
    return make_accelerator(config.loop, config.output, config.optimizer)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a machine without a GPU, where nobody was told of other processes."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    yield monkeypatch
    if torch.distributed.is_initialized():
        destroy_process_group()


def as_accelerate_launches(*words: str) -> dict[str, str]:
    """The environment of the one process that `accelerate launch` without --multi_gpu starts."""
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args([*words, "train_lcm_lora.py"])
    )
    assert not args.multi_gpu
    _, environment = prepare_simple_launcher_cmd_env(args)
    return environment


@pytest.mark.parametrize(
    "words",
    [
        ("--num_processes", "2"),
        ("--num_processes", "2", "--cpu"),
        (
            "--num_processes",
            "2",
            "--num_machines",
            "2",
            "--main_process_ip",
            "10.0.0.1",
            "--main_process_port",
            "29500",
        ),
    ],
    ids=" ".join,
)
def test_a_launch_of_several_that_starts_one_is_refused(
    environment: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name, value in as_accelerate_launches(*words).items():
        environment.setenv(name, value)
    with pytest.raises(
        ValueError,
        match=r"started a single one; launch with accelerate launch --multi_gpu --num_processes N",
    ):
        launched()


def test_a_configuration_file_of_several_that_starts_one_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpus.yaml").write_text(
        "distributed_type: MULTI_CPU\nnum_machines: 1\nnum_processes: 2\nuse_cpu: true\n"
    )
    for name, value in as_accelerate_launches("--config_file", str(tmp_path / "cpus.yaml")).items():
        environment.setenv(name, value)
    with pytest.raises(ValueError, match="started a single one"):
        launched()


def test_a_launch_of_one_says_that_it_is_one(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in as_accelerate_launches("--config_file", str(FILES / "one_gpu.yaml")).items():
        environment.setenv(name, value)
    environment.delenv("MASTER_ADDR", raising=False)
    with caplog.at_level(logging.INFO):
        assert launched().num_processes == 1
    assert "1 process, cpu" in caplog.messages


@pytest.mark.parametrize(
    ("given", "missing"),
    [((), "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"), (("RANK",), "LOCAL_RANK")],
)
def test_a_number_of_processes_without_a_launcher_is_refused(
    environment: pytest.MonkeyPatch, given: tuple[str, ...], missing: str
) -> None:
    for name in ("WORLD_SIZE", *given):
        environment.setenv(name, "2")
    with pytest.raises(
        ValueError,
        match=f"WORLD_SIZE is 2, but {missing}.* not set; launch with accelerate launch "
        "--multi_gpu",
    ):
        launched()


def join(environment: pytest.MonkeyPatch, count: int) -> None:
    """As process 0 of so many."""
    group = {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    for name, value in group.items():
        environment.setenv(name, str(value))


def test_a_process_whose_mates_do_not_come_says_where_it_waited(
    environment: pytest.MonkeyPatch,
) -> None:
    join(environment, 2)
    environment.setattr("lcm.training.launch.MEETING", timedelta(seconds=1))
    with pytest.raises(
        ValueError,
        match=r"the 2 processes did not meet at 127\.0\.0\.1:\d+.*launch the same command on every",
    ):
        launched()


def test_processes_that_have_met_wait_half_a_day_for_each_other(
    environment: pytest.MonkeyPatch,
) -> None:
    """Processes by themselves would wait 30 minutes with gloo. test_exactness.py sees that a
    barrier keeps to what is set.
    """
    environment.setenv("ACCELERATE_USE_CPU", "true")
    join(environment, 1)
    launched()
    backend = _get_default_group()._get_backend(torch.device("cpu"))
    assert backend.options._timeout == timedelta(hours=12)


@pytest.mark.parametrize(
    ("name", "kind", "processes", "machines"),
    [
        ("one_gpu", DistributedType.NO, 1, 1),
        ("several_gpus", DistributedType.MULTI_GPU, 8, 1),
        ("two_machines", DistributedType.MULTI_GPU, 16, 2),
        ("two_processes_without_gpus", DistributedType.MULTI_GPU, 2, 1),
    ],
)
def test_the_configuration_files_are_what_they_are_called(
    name: str, kind: DistributedType, processes: int, machines: int
) -> None:
    config = load_config_from_file(str(FILES / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (
        kind,
        processes,
        machines,
    )
    assert config.mixed_precision is None


def test_all_configuration_files_are_known_here() -> None:
    assert len(list(FILES.glob("*.yaml"))) == 4


# --- one command ----------------------------------------------------------------------------------


def together(work: Any, count: int = 2) -> list[Any]:
    """What `work` returns, or the text of the ValueError it raises, in each of so many
    processes.
    """

    def done(team: Team) -> Any:
        try:
            return work(team)
        except ValueError as error:
            return str(error)

    return at_once(done, count)


def test_other_flags_on_another_machine_are_refused_on_all() -> None:
    configs = [config_of(learning_rate=1e-4), config_of(learning_rate=1e-3)]
    first, second = together(lambda team: check_same_command(configs[team.rank].flat(), team))
    assert first == second
    assert (
        "process 1 (learning_rate: 0.0001 -> 0.001) was launched with other flags than process 0"
        in first
    )


def test_files_may_lie_elsewhere_on_another_machine() -> None:
    configs = [
        config_of(output_dir="a"),
        config_of(output_dir="b", train_data_dir="z", pretrained_teacher_model="w"),
    ]
    assert together(lambda team: check_same_command(configs[team.rank].flat(), team)) == [
        None,
        None,
    ]


def test_what_one_process_raises_all_raise() -> None:
    def work(team: Team) -> str:
        if team.rank == 1:
            raise FileNotFoundError("there is no teacher")
        return "fine"

    def met(team: Team) -> str:
        try:
            return team.together(lambda: work(team))
        except FileNotFoundError as error:
            return f"itself: {error}"

    assert together(met, 3) == [
        "there is no teacher (on process 1 of 3)",
        "itself: there is no teacher",
        "there is no teacher (on process 1 of 3)",
    ]


def test_the_main_process_decides_for_all() -> None:
    assert (
        together(lambda team: team.from_main(lambda: f"as {team.rank} sees it"), 3)
        == ["as 0 sees it"] * 3
    )


def test_a_folder_is_shared_or_refused_on_all(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    assert together(lambda team: team.check_shared(tmp_path, "trajectory_dir")) == [None, None]
    said = together(lambda team: team.check_shared(tmp_path / str(team.rank), "trajectory_dir"))
    assert all(
        "give all machines the same --trajectory_dir, on a disk that they share" in text
        for text in said
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
