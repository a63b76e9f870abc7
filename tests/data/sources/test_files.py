"""The files that a flag names: folders, globs and brace patterns."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.data.sources.files import expand_braces, find_files
from tests.support.samples import captions_of
from tests.support.tars import load_tar, shard


@pytest.mark.skipif(shutil.which("bash") is None, reason="compares with bash")
@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "{0..3}.tar",
        "{000..012}.tar",
        "{8..11}",
        "{08..11}",
        "{3..1}",
        "x{a,b}y{1..2}",
        "x{,a}",
        "{abc}",
        "{a..c,d}",
    ],
)
def test_brace_patterns_are_those_of_the_shell(pattern: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
    )
    assert list(expand_braces(pattern)) == done.stdout.split("\n")[:-1]


def test_shards_are_found_by_folder_glob_and_braces_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        shard(tmp_path / f"0{i}.tar", 1)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "._00.tar").write_text("what a Mac leaves behind")
    keys = [f"0{i}.tar/0" for i in range(3)]
    for where in ("", "/", "/*.tar", "/0?.tar", "/{00..02}.tar", "/0{0,1,2}.tar"):
        assert list(captions_of(load_tar(f"{tmp_path}{where}").records)) == keys, where
    monkeypatch.chdir(tmp_path)
    for where in (".", "*.tar", "./{00..02}.tar", "{00..02}.tar"):
        assert list(captions_of(load_tar(where).records)) == keys, where
    assert list(captions_of(load_tar("01.tar").records)) == keys[1:2]
    assert list(captions_of(load_tar("{02,00,02}.tar").records)) == [keys[2], keys[0]]


def test_sub_folders_are_part_of_the_name(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "x.tar", 1)
    assert list(captions_of(load_tar(tmp_path).records)) == ["a/x.tar/0", "b/x.tar/0"]
    assert list(captions_of(load_tar(tmp_path / "{a,b}" / "x.tar").records)) == [
        "a/x.tar/0",
        "b/x.tar/0",
    ]


@pytest.mark.parametrize(
    "where", ["{00..03}.tar", "0[5-9].tar", "absent.tar", "absent/", "{a,00}.tar"]
)
def test_every_part_of_a_pattern_that_matches_nothing_is_named(tmp_path: Path, where: str) -> None:
    for i in range(3):
        shard(tmp_path / f"0{i}.tar", 1)
    with pytest.raises(
        FileNotFoundError,
        match=r"webdataset: there is no file .*(03|0\[5-9\]|absent|a\.tar).*pass a \.tar file",
    ):
        load_tar(f"{tmp_path}/{where}")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    shard(tmp_path / "x[1]{a,b}*.tar", 1)
    assert find_files("webdataset", str(tmp_path / "x[1]{a,b}*.tar"), ".tar") == (
        tmp_path,
        [tmp_path / "x[1]{a,b}*.tar"],
    )


@pytest.mark.parametrize(
    "pattern",
    [
        *("x{0..999999}.tar", "{0..999}x{0..999}.tar", "{a,b}{0..9999999999999999999999}.tar"),
        *("{,}" * 60 + "x.tar", "{0..99}" * 40),
    ],
)
def test_a_pattern_that_means_nothing_or_far_too_much_is_refused(
    tmp_path: Path, pattern: str
) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=r"there is no file|more than 1"):
        find_files("webdataset", f"{tmp_path}/{pattern}", ".tar")


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        *(("webdataset", "x.tar"), ("parquet_files", "x.parquet"), ("prompts_file", "x.txt")),
        *(("dataset_name", "x.parquet"), ("train_data_dir", "x")),
    ],
)
@pytest.mark.parametrize("where", ["itself", "its folder"])
def test_a_pipe_is_refused_and_not_opened(tmp_path: Path, flag: str, name: str, where: str) -> None:
    os.mkfifo(tmp_path / name)
    place = tmp_path if where == "its folder" else tmp_path / name
    with pytest.raises((FileNotFoundError, ValueError), match=f"{flag}: ") as error:
        load_records(DataConfig(**{flag: str(place)}))
    assert "\n" not in str(error.value)


def test_more_trajectories_than_can_be_drawn_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a prompt\n" * 1001)
    flags = {"prompts_file": str(tmp_path / "prompts.txt"), "trajectories_per_prompt": 10_000}
    with pytest.raises(ValueError, match=r"trajectories_per_prompt: .* pass fewer"):
        load_records(DataConfig(**flags))
    assert len(load_records(DataConfig(**flags, max_train_samples=3))) == 3


@pytest.mark.parametrize("pattern", ["***.tar", "a**/x.tar"])
def test_what_is_no_pattern_is_refused_by_name(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"webdataset: .*\*\*.* is no pattern"):
        load_tar(f"{tmp_path}/{pattern}")
