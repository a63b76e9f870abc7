"""A loss on pictures, forward mode, and prompts in the place of images."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import train_lcm_lora
from lcm.data.batch import Trajectory
from lcm.methods.perceptual import make_lpips
from lcm.models.families import load_family
from tests.support.options import (
    PROMPTS,
    W_EMBEDDING,
    Arguments,
    Done,
    refused,
)
from tests.support.outputs import lines_of_updates, weights_at
from tests.support.runs import encoded, trainer_of, update
from tests.support.worlds import build_sd

# --- loss_type lpips ------------------------------------------------------------------------------


class LPIPS(nn.Module):
    """Stands for the package's network: a distance between pictures with one number for every
    pair.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert a.shape[1:] == b.shape[1:] == (3, 16, 16)
        return self.scale * (a - b).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def with_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lpips")
    module.__spec__ = ModuleSpec("lpips", None)
    module.LPIPS = LPIPS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)


def test_lpips_without_its_package_is_one_clear_error(
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    refused(
        capsys,
        arguments("plain", tmp_path / "out", loss_type="lpips"),
        "loss_type lpips",
        "pip install lpips",
    )


@pytest.mark.usefixtures("with_lpips")
def test_lpips_compares_decoded_pictures_and_trains(arguments: Arguments, tmp_path: Path) -> None:
    assert (
        train_lcm_lora.main(
            arguments("plain", tmp_path / "out", loss_type="lpips", max_train_steps=2)
        )
        == 0
    )
    rows = lines_of_updates(tmp_path / "out")
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)
    first, second = (weights_at(tmp_path / "out", step) for step in (1, 2))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("with_lpips")
def test_lpips_is_the_distance_of_the_pictures_that_the_vae_decodes(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    torch.manual_seed(0)
    prediction = torch.randn(2, 4, 8, 8, requires_grad=True)
    target = torch.randn(2, 4, 8, 8, requires_grad=True)
    loss = make_lpips(family.pixels, "cpu")(prediction, target, 0.001)
    vae = build_sd().vae.eval()
    a, b = (vae.decode(latents / 0.5).sample for latents in (prediction, target.detach()))
    expected = 3.0 * (a - b).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad((expected * torch.tensor([1.0, 2.0])).sum(), prediction)
    (loss * torch.tensor([1.0, 2.0])).sum().backward()
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad, gradient, rtol=1e-3, atol=1e-6)
    assert target.grad is None


@pytest.mark.usefixtures("with_lpips")
def test_lpips_holds_no_more_than_the_activations_of_one_picture() -> None:
    """The stand-in decoder keeps 192 times what it is given."""
    kept = []

    def decode(latents: Tensor) -> Tensor:
        assert len(latents) == 1
        return torch.stack([(latents * i).exp() for i in range(192)]).mean(0)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    prediction, target = torch.randn(4, 3, 16, 16, requires_grad=True), torch.randn(4, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = make_lpips(decode, "cpu")(prediction, target, 0.001)
    assert sum(kept) < 10 * prediction.numel()
    loss.sum().backward()
    assert prediction.grad is not None


@pytest.mark.usefixtures("with_lpips")
def test_lpips_decodes_in_float32_whatever_the_run(arguments: Arguments, tmp_path: Path) -> None:
    pipe = build_sd()
    pipe.vae.register_to_config(force_upcast=False)
    pipe.save_pretrained(tmp_path / "teacher")
    changes = {"pretrained_teacher_model": tmp_path / "teacher", "mixed_precision": "bf16"}
    dtypes = {}
    for loss_type in ("huber", "lpips"):
        trainer = trainer_of(arguments("plain", tmp_path / "out", loss_type=loss_type, **changes))
        dtypes[loss_type] = trainer.run.family.pipe.vae.dtype
        step = update(trainer, trainer.run.inputs.batches(range(1)))
        assert 0 < float(step.loss.mean()) < float("inf")
        assert 0 < float(step.grad_norm) < float("inf")
    assert dtypes == {"huber": torch.bfloat16, "lpips": torch.float32}


def test_lpips_of_noisy_landing_points_is_refused(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(
        capsys,
        arguments("pcm", tmp_path / "out", loss_type="lpips"),
        "loss_type lpips",
        "use huber",
    )


# --- tangent_mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_dropout": 0.5, "gradient_checkpointing": True, "target": "ema"}, W_EMBEDDING],
    ids=["adapter", "dropout", "w_embedding"],
)
def test_forward_mode_trains_on_the_latents_of_images(
    changes: dict[str, Any], arguments: Arguments, tmp_path: Path
) -> None:
    scm = {
        "objective": "scm",
        "tangent_mode": "jvp",
        "tangent_warmup": 0.0,
        "lora_alpha": None,
        "guidance_scale": None,
    }
    trainer = trainer_of(arguments("plain", tmp_path, **{**scm, **changes}))
    step = update(trainer, trainer.run.inputs.batches(range(1)))
    assert 0 < float(step.loss.mean()) < float("inf")
    assert 0 < float(step.grad_norm) < float("inf")


# --- prompts_file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "points"), [("prompts lcm", 1), ("prompts endpoint", 41)])
def test_prompts_take_the_place_of_images(
    name: str, points: int, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    """`endpoint` needs whole trajectories; others learn from the latents that the teacher ends in,
    and these alone are kept.
    """
    output = done(name)
    first, last = weights_at(output, 1), weights_at(output, 3)
    assert any(not torch.equal(a, b) for a, b in zip(first, last, strict=True))
    trainer = trainer_of(
        arguments(name, tmp_path / "again", trajectory_dir=output / "trajectories")
    )
    batch = next(trainer.run.inputs.batches(range(1)))
    assert set(batch.prompts) <= set(PROMPTS)
    assert isinstance(batch.content, Trajectory)
    assert batch.content.tensor.shape[1] == points
    latents = encoded(trainer, batch)
    assert latents.trajectory is not None
    assert torch.equal(latents.x0, batch.content.tensor[:, 0])
    assert not (tmp_path / "again" / "trajectories").exists()  # those of the first run were found


@pytest.mark.parametrize("name", ["prompts lcm", "prompts endpoint"])
def test_a_dry_run_with_prompts_leaves_nothing_behind(
    name: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, at_exit = tmp_path / "scratch", []
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(
        atexit,
        "register",
        lambda function, *args, **kwargs: at_exit.append((function, args, kwargs)),
    )
    line = arguments(name, tmp_path / "out", dry_run=True, trajectory_dir=tmp_path / "kept")
    assert train_lcm_lora.main(line) == 0
    for function, args, kwargs in at_exit:
        if function is shutil.rmtree:
            function(*args, **kwargs)
    assert [path for path in tmp_path.rglob("*") if path != scratch] == []


def test_a_dry_run_of_a_whole_unet_leaves_nothing_behind(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert train_lcm_lora.main(arguments("w_embedding", tmp_path / "out", dry_run=True)) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "plain",
            {"objective": "endpoint", "lora_alpha": None, "target": None},
            "pass --prompts_file instead of images",
        ),
        (
            "prompts lcm",
            {"objective": "ct"},
            "has no teacher to draw trajectories with; pass images",
        ),
        ("prompts lcm", {"prompts_file": "nowhere"}, "there is no file"),
    ],
)
def test_methods_and_data_that_do_not_go_together_are_refused(
    name: str,
    changes: dict[str, Any],
    message: str,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(capsys, arguments(name, tmp_path / "out", **changes), message)
