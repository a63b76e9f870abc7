"""Files that are no file of flags: one line that names the file, and the line in it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from lcm.config.command_line import parse_config
from lcm.config.run import TrainConfig, to_yaml
from lcm.config.yaml_file import LARGEST, read_yaml
from tests.support.configs import BASE, parse, write_yaml

BAD = {
    "a key twice": ("seed: 1\n\nseed: 2\n", "line 3: seed is set in line 1 already"),
    "a key and its alias": ("lr: 1\nlearning_rate: 2\n", "line 2: learning_rate is set in line 1"),
    "a key with dashes": ("train-batch-size: 1\ntrain_batch_size: 2\n", "is set in line 1"),
    "null in a list": ("validation_prompts: [a, null]\n", "line 1: validation_prompts has null"),
    "nothing in a list": ("validation_prompts:\n  - a\n  -\n", "validation_prompts has null"),
    "a list in a list": ("validation_prompts: [[a]]\n", "validation_prompts takes plain values"),
    "a mapping in a list": ("validation_prompts: [{a: b}]\n", "takes plain values"),
    "a list for one": ("seed:\n  - 1\n", "line 1: seed takes one value"),
    "deep lists": ("seed: " + "[" * 5000 + "]" * 5000, "nested too deep"),
    "open lists": ("[" * 50_000, "nested too deep"),
    "aliases of aliases": (
        "validation_prompts: [&a [x, x], &b [*a, *a], &c [*b, *b]]\n",
        "takes plain values",
    ),
    "a list in itself": ("validation_prompts: &a [*a]\n", "takes plain values"),
    "an alias of nothing": ("seed: *a\n", "line 1: found undefined alias"),
    "an object": ("seed: !!python/name:os.system x\n", "seed is marked as '.*os.system'"),
    "a call": ("seed: !!python/object/apply:os.system ['id']\n", "seed is marked as"),
    "an object of all": ("!!python/object:a.b {seed: 1}\n", "must hold `name: value` lines"),
    "a tuple": ("validation_prompts: !!python/tuple [a]\n", "is marked as"),
    "bytes": ("output_dir: !!binary aGk=\n", "is marked as"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "line 2: but found another document"),
    "a merge": ("<<: {seed: 1}\n", "unknown key in .*line 1: '<<'"),
    "a list as a key": ("? [a]\n: 1\n", "line 1: a list or mapping is no name of a flag"),
    "an open quote": ("seed: 'a\n\n\nlr: 1\n", "not valid YAML"),
    "a control character": ("seed: \x1b[2J\n", "not valid YAML"),
    "a spelled one": ('output_dir: "a\\0b"\n', "line 1: output_dir has a NUL"),
    "half a character": ('validation_prompts: ["\\ud800"]\n', "validation_prompts is not UTF-8"),
    "a number too large": ("# a\nlora_rank: 5000\n", "line 2: lora_rank must be positive and at"),
    "a fraction": ("seed: 1.0\n", "line 1: seed must be a whole number; got '1.0'"),
    "a name that is none": ("seed: 1\nsede: 2\n", "line 2: 'sede'. Did you mean 'seed'"),
    "a name of others": ("network_dim: 4\n", "line 1: 'network_dim': use lora_rank"),
    "a choice that is none": ("mixed_precision: fp61\n", "line 1: mixed_precision must be one of"),
    "a large file": ("#" + "x" * LARGEST, "too much to be one"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line(tmp_path: Path, what: str) -> None:
    text, message = BAD[what]
    with pytest.raises(ValueError, match=message) as error:
        parse(*write_yaml(tmp_path, text))
    assert "run.yaml" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "run.yaml").write_bytes("variant: café\n".encode(encoding))
    with pytest.raises(ValueError, match=r"run\.yaml is not UTF-8; save it as UTF-8"):
        parse("--config", str(tmp_path / "run.yaml"))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in (
        (tmp_path / "pipe", "is no file"),
        (tmp_path, "is no file"),
        (Path("/dev/zero"), "is no file"),
        (tmp_path / "loop", "there is no file"),
        (tmp_path / "run.yaml" / "x", "there is no file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            parse("--config", str(path))


def test_what_is_plain_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte order mark, an alias of a word, marks of plain kinds, a home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "\ufeffoutput_dir: &a ~/out\nlogging_dir: *a\nseed: !!int 3\nvalidation_prompts: [*a]\n"
    (flag, path) = write_yaml(tmp_path, text)
    assert read_yaml(Path(path)) == {
        "output_dir": f"{tmp_path}/out",
        "logging_dir": f"{tmp_path}/out",
        "seed": 3,
        "validation_prompts": ["~/out"],
    }
    assert parse(flag, "~/run.yaml").loop.seed == 3


def test_an_infinite_number_is_written_and_read(tmp_path: Path) -> None:
    config = TrainConfig.of(**BASE, max_grad_norm=math.inf)
    assert parse_config(write_yaml(tmp_path, to_yaml(config.flat()))) == config
