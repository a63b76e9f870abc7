"""`lcm merge` and `lcm resize`, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import WEIGHTS_NAME
from tests.support.adapters import adapted, make_recipe, output, stock_kohya, stock_without_metadata
from tests.support.verbs import deltas, equal, run
from tests.support.worlds import build_sd, build_unet


def test_merged_into_a_base_it_plays_as_attached(
    ours: Path, sd_folder: Path, tmp_path: Path
) -> None:
    assert (
        run("merge", ours, "--base", sd_folder, "--weights", 0.7, "--output", tmp_path / "model")
        == 0
    )
    merged = DiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    attached = build_sd()
    lcm.attach(attached, ours, weight=0.7)
    assert torch.allclose(output(merged.unet), output(attached.unet), atol=1e-5)
    assert isinstance(merged.scheduler, LCMScheduler)
    for name, value in attached.scheduler.config.items():
        assert name.startswith("_") or merged.scheduler.config[name] == value
    again = build_sd()
    assert lcm.attach(again, tmp_path / "model") == make_recipe()
    assert torch.equal(output(again.unet), output(merged.unet))


def test_two_adapters_become_their_weighted_sum(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock_without_metadata(adapted(build_unet()), tmp_path)
    state = {
        key: value.flip(0, 1).contiguous()
        for key, value in load_file(tmp_path / WEIGHTS_NAME).items()
    }
    save_file(state, other := tmp_path / "other.safetensors")
    weights = (0.5, -0.8)
    command = ("merge", ours, other, "--dtype", "float32", "--weights", *weights)
    assert run(*command, "--output", tmp_path / "sum") == 0
    assert "the sum is exact" in capsys.readouterr().out
    one, two = deltas(ours), deltas(other)
    expected = {name: weights[0] * one[name] + weights[1] * two[name] for name in one}
    assert equal(expected, deltas(tmp_path / "sum"), 1e-5)
    assert lcm.read_recipe(tmp_path / "sum") == make_recipe()
    assert run(*command, "--rank", 5, "--output", tmp_path / "cut") == 0
    printed = capsys.readouterr().out
    errors = []
    for name, delta in deltas(tmp_path / "cut").items():
        u, s, v = torch.linalg.svd(expected[name].flatten(1), full_matrices=False)
        best = (u[:, :5] * s[:5] @ v[:5]).reshape(delta.shape)
        assert torch.allclose(delta, best, atol=1e-4 * float(s[0])), name
        errors.append(float(s[5:].norm() / s.norm()))
    assert f"largest {max(errors):.2g}" in printed


def test_resize_keeps_the_largest_singular_values(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = deltas(ours)
    spectra = {name: torch.linalg.svdvals(delta.flatten(1)) for name, delta in before.items()}

    def error(rank: int) -> float:
        return max(float(s[rank:].norm() / s.norm()) for s in spectra.values())

    assert run("resize", ours, "--rank", 2, "--output", tmp_path / "two", "--dtype", "float32") == 0
    printed = capsys.readouterr().out
    after = deltas(tmp_path / "two")
    actual = max(
        float((after[name] - before[name]).norm() / before[name].norm()) for name in before
    )
    assert actual == pytest.approx(error(2), rel=1e-3)
    assert f"largest {error(2):.2g}" in printed
    between = (error(2) + error(3)) / 2
    assert run("resize", ours, "--error", between, "--output", tmp_path / "three") == 0
    assert "rank 3" in capsys.readouterr().out


def test_commands_that_make_no_sense_are_one_line(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", tmp_path / "out")
    for arguments, message in (
        (("merge", ours, *out), "one adapter alone"),
        (("merge", ours, ours, "--weights", 1, *out), "--weights: 1 for 2 adapters"),
        (("merge", ours, "--base", "x", "--rank", 2, *out), "--rank is of a merged adapter"),
        (("resize", ours, "--rank", 9, *out), "the adapter has rank 4"),
        (("resize", ours, "--error", 2, *out), "error must lie in 0..1, 1 excluded"),
        (("inspect", tmp_path / "nothing.safetensors"), "no adapter at"),
        (("inspect", ours, "--alpha", 2), "states alpha for all its 79 layers"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_force_replaces_what_it_writes_and_no_other_folder(
    ours: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("convert", ours, "--to", "kohya"), ("convert", ours, "--to", "peft")):
        theirs = tmp_path / command[-1] / "theirs.safetensors"
        theirs.mkdir(parents=True)
        (theirs / "picture.png").write_bytes(b"precious")
        assert run(*command[:2], theirs, *command[2:], "--force") == 2
        assert "would delete all that is in it" in capsys.readouterr().err
        assert (theirs / "picture.png").read_bytes() == b"precious"
    assert run("merge", ours, "--base", sd_folder, "--output", tmp_path / "peft", "--force") == 2
    assert "without model_index.json" in capsys.readouterr().err
    (tmp_path / "file").write_text("precious")
    assert run("convert", ours, tmp_path / "file", "--to", "peft", "--force") == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "precious"
    for _ in range(2):
        assert run("convert", ours, tmp_path / "ours", "--to", "peft", "--force") == 0


def test_numbers_that_are_none_are_mistakes(
    ours: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        (
            ("merge", ours, "--base", sd_folder, "--weights", "nan", "--output", tmp_path / "out"),
            "weights must be a finite number; got nan",
        ),
        (("repair", ours, tmp_path / "out", "--alpha", "0"), "alpha must not be 0"),
    ):
        assert run(*command) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_different_models_are_not_merged(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock_kohya(adapted(build_unet(cross_attention_dim=24)), tmp_path)
    assert run("merge", ours, tmp_path, "--output", tmp_path / "out") == 2
    assert "made for different models" in capsys.readouterr().err
