"""What a base model predicts: its scheduler says it, a single file of itself, or the user; and its
U-Net shows it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import save_file
from torch import Tensor

from lcm.config.sections import TeacherConfig
from lcm.models.base_model import load_base
from lcm.models.families import load_family
from lcm.models.noise import Noise, set_noise
from lcm.training.prediction import check_predictions, what_it_predicts
from tests.support import ROOT
from tests.support.schedules import SD_BETAS
from tests.support.single_file import BUILDERS, write_single_file

EMPTY = torch.tensor([])
V, HEADER = {"v_pred": EMPTY}, {"modelspec.prediction_type": "v"}
ZERO_SNR = {**V, "ztsnr": EMPTY}


def facts(pipe: Any) -> tuple[str, bool]:
    config = pipe.scheduler.config
    return config.prediction_type, config.get("rescale_betas_zero_snr", False)


@pytest.fixture(scope="module")
def pipe(world: Path) -> Any:
    """An epsilon model, as the configuration is that diffusers takes from the hub."""
    return load_base(world / "sdxl")


@pytest.mark.parametrize("stock", [EulerDiscreteScheduler, DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize(
    ("marks", "header", "said", "expected"),
    [
        ({}, {}, (None, False), ("epsilon", False)),
        (V, {}, (None, False), ("v_prediction", False)),
        ({}, HEADER, (None, False), ("v_prediction", False)),
        (ZERO_SNR, {}, (None, False), ("v_prediction", True)),
        # what the user says holds, whatever the file does
        ({}, {}, ("v_prediction", False), ("v_prediction", False)),
        ({}, {}, ("v_prediction", True), ("v_prediction", True)),
        (V, {}, (None, True), ("v_prediction", True)),
        (ZERO_SNR, {}, ("epsilon", False), ("epsilon", False)),
        ({"ztsnr": EMPTY}, {}, (None, False), ("epsilon", False)),
    ],
)
def test_a_model_is_what_its_file_or_its_user_says(
    pipe: Any,
    tmp_path: Path,
    stock: Any,
    marks: dict[str, Tensor],
    header: dict[str, str],
    said: tuple[str | None, bool],
    expected: tuple[str, bool],
) -> None:
    """With any scheduler: PNDM, of Stable Diffusion 1.5, knows no zero terminal SNR."""
    save_file({"x": torch.zeros(1), **marks}, tmp_path / "m.safetensors", metadata=header)
    pipe.register_modules(scheduler=stock(**SD_BETAS))
    set_noise(pipe, Noise.said_by(tmp_path / "m.safetensors"))
    set_noise(pipe, Noise(*said))
    assert facts(pipe) == expected
    assert pipe.scheduler.config.beta_end == SD_BETAS["beta_end"]
    if expected[1]:  # and it is played from the timestep that has it
        pipe.scheduler.set_timesteps(4)
        assert float(pipe.scheduler.timesteps[0]) == 999
        assert float(pipe.scheduler.alphas_cumprod[-1]) < 1e-6
        assert stock is DDIMScheduler or not pipe.scheduler.config.get("clip_sample", False)


@pytest.mark.parametrize("says", [None, "epsilon"])
def test_an_epsilon_model_has_no_zero_terminal_snr(pipe: Any, says: str | None) -> None:
    before = EulerDiscreteScheduler(**SD_BETAS)
    pipe.register_modules(scheduler=before)
    with pytest.raises(ValueError, match=r"^zero_terminal_snr: this is an epsilon model"):
        set_noise(pipe, Noise(says, True))
    assert pipe.scheduler is before


def test_a_single_file_of_sdxl_is_a_v_model_by_its_path_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own scheduler of the hub, which knows SDXL, is an epsilon model's; a configuration of
    a v model needs no mark.
    """
    single = write_single_file(BUILDERS["sdxl"](), tmp_path / "m.safetensors", **ZERO_SNR)
    asked = []

    def of_the_hub(name: str, files: Any) -> Path:
        asked.append(name)
        return world / "sdxl-config"

    monkeypatch.setattr("lcm.models.base_model.fetch", of_the_hub)
    family = load_family(str(single))
    assert len(asked) == 1 and facts(family.pipe) == ("v_prediction", True)
    assert family.schedule.prediction_type == "v_prediction"
    assert family.schedule.has_zero_terminal_snr and family.zero_terminal_snr
    unmarked = load_base(world / "v.safetensors", base_config=world / "v-config")
    assert facts(unmarked) == ("v_prediction", True)


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_mean"])
def test_other_noise_is_refused(world: Path, tmp_path: Path, mark: str) -> None:
    single = write_single_file(
        BUILDERS["sd"](), tmp_path / "m.safetensors", **{mark: torch.ones(1)}
    )
    with pytest.raises(ValueError, match=r"^path: .*continuous noise levels"):
        load_base(single, base_config=world / "sd-config")


# --- what a U-Net shows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "predicts"), [("teacher", "epsilon"), ("teacher_v", "v_prediction")]
)
def test_a_trained_network_shows_what_it_predicts(name: str, predicts: str) -> None:
    """Whatever it is taken for; and a file that says nothing is then refused with what helps."""
    right = load_family(str(ROOT / "examples" / "shapes" / name))
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[predicts]
    wrong = load_family(str(ROOT / "examples" / "shapes" / name))
    wrong.schedule = type(right.schedule)(right.schedule.alphas, right.schedule.sigmas, other)
    assert what_it_predicts(right) == what_it_predicts(wrong) == predicts

    config = TeacherConfig(pretrained_teacher_model="model.safetensors")
    check_predictions(config, [right])
    with pytest.raises(ValueError, match=r"^pretrained_teacher_model: model") as caught:
        check_predictions(config, [wrong])
    found = re.search(r"pass --prediction_type (\w+)", str(caught.value))
    assert found is not None and found[1] == predicts and f"predicts {other}" in str(caught.value)
    for said in (predicts, other):  # the user knows better
        said_so = TeacherConfig(pretrained_teacher_model="m.safetensors", prediction_type=said)
        check_predictions(said_so, [wrong])


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_untrained_network_shows_nothing(world: Path, kind: str) -> None:
    assert what_it_predicts(load_family(str(world / kind))) is None
