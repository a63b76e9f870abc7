"""What learns against the student: it is in the checkpoint and in no other file, learns the same
however an update is divided, and moves nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from lcm.outputs.checkpoint import RunState
from lcm.training.loop import Trainer
from tests.support.outputs import lines_of_updates, tensors_at
from tests.support.runs import expect_refusal, flags, run, same, trained, trainer_of, update
from tests.support.worlds import build_sd, vary

QUIET: dict[str, Any] = {"validation_prompts": ["none"], "validation_num_steps": None}
HYPER: dict[str, Any] = {"objective": "hyper", "dmd_start": 0.0, "critic_updates": 1, **QUIET}
DMD: dict[str, Any] = {
    "objective": "dmd",
    "terms": ["dmd", "adversarial=0.5"],
    "dmd_steps": [1, 2],
    **QUIET,
}


def of_critics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint has of them, their moments included."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith("critics")}


def sizes(tensors: Any) -> list[tuple[float, ...]]:
    """What tells tensors from each other, whatever their names, in the precision of files."""
    return sorted((float(t.numel()), t.half().double().sum().item()) for t in tensors)


def test_checkpoints_have_all_of_them_and_what_is_given_away_has_nothing(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    assert run(sd_folder, images, tmp_path, **DMD, max_train_steps=2) == 0
    saved = tensors_at(tmp_path, 2)
    trained_tensors = [t for name, t in saved.items() if name.startswith("trained.")]
    learnt = [saved[f"critics.{i}"] for i in range(sum(n.startswith("critics.") for n in saved))]
    assert len(learnt) > len(trained_tensors)  # the second network's, and the heads'
    moments = [saved[f"critics_optimizer.{i}.exp_avg"] for i in range(len(learnt))]
    assert [m.shape for m in moments] == [t.shape for t in learnt]
    # while the hinges bend nowhere, what is added to real and made pictures alike has no gradient
    assert sum(bool(m.any()) for m in moments) > 0.8 * len(learnt)
    files = [path for path in tmp_path.rglob("*.safetensors") if path.name != "state.safetensors"]
    assert {path.parent.name for path in files} == {tmp_path.name, "checkpoint-2"}
    for path in files:
        found = [t for t in load_file(path).values() if t.dim() > 0]
        assert sizes(found) == sizes(trained_tensors)
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.load_lora_weights(tmp_path)
    loaded = [p.detach() for name, p in pipe.unet.named_parameters() if ".lora_" in name]
    assert sizes(loaded) == sizes(trained_tensors)
    names = {name for name in lines_of_updates(tmp_path)[-1] if name.startswith("loss_")}
    assert {"loss_dmd", "loss_adversarial", "loss_heads", "loss_fake_score"} < names


def test_a_run_without_them_goes_on_with_none(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sd_folder, images, tmp_path, **QUIET, max_train_steps=2) == 0
    line = flags(sd_folder, images, tmp_path, **QUIET, terms="adversarial=0.2")
    expect_refusal(capsys, line, "terms: [] -> ['adversarial=0.2']", "new run in another")


@pytest.mark.parametrize("name", ["critics.0", "critics.40", "critics_groups"])
def test_those_of_another_network_do_not_fit(
    sd_folder: Path, images: Path, tmp_path: Path, name: str
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", **DMD))
    saved = trainer.record()
    others = [{n: t for n, t in saved.tensors.items() if n != name}]
    if name in saved.tensors:
        others.append({**saved.tensors, name: torch.zeros(3, 5)})
    facts = {n: fact for n, fact in saved.facts.items() if n != name}
    for tensors in others:
        with pytest.raises(ValueError, match=f"does not fit this run .*{name}"):
            trainer.state.restore(RunState(tensors, {**facts, "step": 0}), torch.device("cpu"))


KINDS: dict[str, dict[str, Any]] = {
    "averages": {**HYPER, "target": "ema", "export_ema_decay": 0.9},
    "whole": {**DMD, "full_finetune": True, "lora_rank": None},
}


def after_one(line: list[str]) -> dict[str, Tensor]:
    trainer = trainer_of(line)
    update(trainer, trainer.run.inputs.batches(range(1)))
    return trainer.record().tensors


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_two_batches_is_that_of_one(
    sd_folder: Path, images: Path, tmp_path: Path, kind: str
) -> None:
    """First moments, which are a share of the gradients."""
    changes = {**KINDS[kind], "critic_updates": 1}
    whole, parts = (
        after_one(
            flags(
                *(sd_folder, images, tmp_path / str(number)),
                **{**changes, "train_batch_size": size, "gradient_accumulation_steps": number},
            )
        )
        for size, number in ((4, 1), (2, 2))
    )
    moments = [name for name in of_critics(whole) if name.endswith(".exp_avg")]
    assert len(moments) > 8
    for name in moments:
        size = whole[name].abs().max().item()
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-4 * size + 1e-9)


def test_checkpointing_activations_changes_no_bit(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    """In half precision, whose copies of the adapter the second network has, too."""
    changes = {**HYPER, "mixed_precision": "bf16", "adversarial_real": "images"}
    plain, saving = (
        trained(
            trainer_of(
                flags(sd_folder, images, tmp_path / mode, gradient_checkpointing=mode, **changes)
            ),
            1,
        )
        for mode in ("no", "full")
    )
    assert same(plain, saving)


def test_a_batch_of_another_teacher_is_taught_on_its_weights(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    other = build_sd()
    vary(other.unet, 5)
    other.save_pretrained(tmp_path / "other")

    def made(teacher: Path, number: int, **changes: Any) -> tuple[Trainer, dict[str, Tensor]]:
        trainer = trainer_of(flags(teacher, images, tmp_path / f"out {number}", **DMD, **changes))
        batch = next(trainer.run.inputs.batches(range(1)))
        batch = dataclasses.replace(batch, teacher=number)
        update(trainer, itertools.repeat(batch))
        return trainer, trainer.record().tensors

    _, alone = made(tmp_path / "other", 0)
    mixed, together = made(sd_folder, 1, extra_teachers=str(tmp_path / "other"))
    assert same(alone, together)
    first = StableDiffusionPipeline.from_pretrained(sd_folder).unet.conv_out.weight
    assert torch.equal(mixed.run.families[0].unet.conv_out.weight, first)


def test_an_update_that_the_loss_scaler_skipped_for_critics_is_not_one_of_the_student(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path, **DMD, lr_scheduler="linear"))
    critics, scheduler = trainer.state.critics, trainer.state.lr_scheduler
    assert critics is not None
    vars(critics.optimizer)["_is_overflow"] = True  # as accelerate notes it
    assert trainer.run.machine.accelerator.optimizer_step_was_skipped
    update(trainer, trainer.run.inputs.batches(range(1)))
    assert trainer.state.skipped == 0 and scheduler.last_epoch == 1


# --- what terms take from outside -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"reward": "brightness"},
            "reward must be one of clip, pick_score, hpsv2, or module:function",
        ),
        ({"reward": "no_such_module:f"}, "No module named 'no_such_module'); pass its file with"),
        ({"reward": "math:nothing"}, "reward: math:nothing cannot be imported"),
        ({"reward": "math:pi"}, "reward: math:pi is no function"),
        ({"reward": "math:sin", "reward_vae": "no/such/folder"}, "is no AutoencoderTiny"),
    ],
)
def test_what_is_not_there_is_said_before_a_model_is_loaded(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: Any, says: str
) -> None:
    line = flags(tmp_path / "no teacher", images, tmp_path / "out", terms="reward", **changes)
    expect_refusal(capsys, line, says)
    assert not (tmp_path / "out").exists()


REWARDS = {
    "one for all": (lambda pictures, prompts: pictures.mean(), "one number for each picture"),
    "no gradient": (lambda pictures, prompts: pictures.detach().mean((1, 2, 3)), "no gradient"),
    "broken": (lambda pictures, prompts: pictures[:, 7], "failed on a picture .*IndexError"),
}


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_asked_about_a_picture_before_data_are_encoded(
    sd_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    function, says = REWARDS[name]
    module = ModuleType("my_rewards")
    vars(module)["brightness"] = function
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    monkeypatch.setattr("lcm.training.setup.make_inputs", lambda *_: pytest.fail("encoded"))
    line = flags(sd_folder, images, tmp_path, terms="reward", reward="my_rewards:brightness")
    with pytest.raises(ValueError, match=rf"^reward: .*{says}"):
        trainer_of(line)
