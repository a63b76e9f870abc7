"""Lists of prompts without images."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from lcm.data.config import DataConfig
from lcm.data.load import load_records
from lcm.data.records import fingerprint


def write_prompts(folder: Path, content: str | bytes, name: str = "prompts.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_every_line_is_a_prompt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write_prompts(
        tmp_path, '\ufeffa red ball\n\n  größer, "貓" \u2028 \t\r\n   \na red ball'
    )
    records = load_records(DataConfig(prompts_file=path))
    assert [(r.key, r.captions) for r in records] == [
        ("000001#0", ("a red ball",)),
        ("000003#0", ('größer, "貓"',)),
        ("000005#0", ("a red ball",)),
    ]
    line = next(record.getMessage() for record in caplog.records if "kept" in record.getMessage())
    assert line == f"{path}: kept 3 samples; dropped: 2 blank lines"
    with pytest.raises(ValueError, match="000001#0 has no picture to open"):
        records[0].image()


def test_several_trajectories_a_prompt(tmp_path: Path) -> None:
    config = DataConfig(
        prompts_file=write_prompts(tmp_path, "one\ntwo\n"), trajectories_per_prompt=3
    )
    records = load_records(config)
    assert [r.key for r in records] == [
        "000001#0",
        "000001#1",
        "000001#2",
        "000002#0",
        "000002#1",
        "000002#2",
    ]
    assert [r.captions for r in records] == [("one",)] * 3 + [("two",)] * 3
    limited = load_records(dataclasses.replace(config, max_train_samples=4))
    assert [r.key for r in limited] == [r.key for r in records[:4]]
    assert len({fingerprint(records), fingerprint(limited), fingerprint(records[::-1])}) == 3


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, r"prompts_file: there is no file .*prompts\.txt"),
        ("folder", FileNotFoundError, r"prompts_file: there is no file .*prompts\.txt"),
        (b"", ValueError, r"prompts_file: .*prompts\.txt holds no prompt"),
        (b" \n\n\t\n", ValueError, r"prompts_file: .*prompts\.txt holds no prompt"),
        (
            "größer".encode("latin-1"),
            ValueError,
            r"prompts_file: .*prompts\.txt is not UTF-8.*save it as UTF-8",
        ),
    ],
)
def test_a_bad_prompts_file_is_one_clear_error(
    tmp_path: Path, content: Any, error: type[Exception], message: str
) -> None:
    if content == "folder":
        (tmp_path / "prompts.txt").mkdir()
    elif content is not None:
        write_prompts(tmp_path, content)
    with pytest.raises(error, match=message):
        load_records(DataConfig(prompts_file=str(tmp_path / "prompts.txt")))
