"""Code in cards and reports runs, from any folder, for every way to name a teacher."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lcm.adapter.full_unet import export_unet
from lcm.adapter.names import WEIGHTS_NAME
from lcm.config.run import TrainConfig
from lcm.publish.card import Card, make_card
from tests.support.adapters import make_recipe, write_adapter
from tests.support.single_file import BUILDERS, write_single_file
from tests.support.worlds import build_unet

ODD = 'say "hi", it\'s `x`, été'
PATHS: dict[str, dict[str, str]] = {
    "relative": {"pretrained_teacher_model": "models/sd"},
    "upwards": {"pretrained_teacher_model": "../place/models/sd"},
    "here": {"pretrained_teacher_model": ".", "from": "models/sd"},
    "above": {"pretrained_teacher_model": "..", "from": "models/sd/unet"},
    "a link": {"pretrained_teacher_model": "link"},
    "home": {"pretrained_teacher_model": "~/models/sd"},
    "odd": {"pretrained_teacher_model": f"models/{ODD}"},
    "absolute": {"pretrained_teacher_model": "{place}/models/sd"},
}
"""Names of one teacher, and the folder that training was started in."""
KINDS: dict[str, dict[str, Any]] = {
    **{name: PATHS[name] for name in ("here", "odd")},
    "one file": {
        "pretrained_teacher_model": "models/sd.safetensors",
        "base_config": "models/sd",
    },
    "styles": {
        "pretrained_teacher_model": "models/sd",
        "teacher_lora": ["style.safetensors=0.5", "{place}/styled"],
    },
    "another VAE": {
        "pretrained_teacher_model": "models/sd",
        "pretrained_vae_model_name_or_path": "models/sd/vae",
    },
    "a whole U-Net": {"pretrained_teacher_model": "models/sd", "full_finetune": True},
}
"""What makes the code another."""


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, sd_folder: Path, adapter: Path
) -> Iterator[Path]:
    """Models below a folder, and two results."""
    place = tmp_path_factory.mktemp("somewhere") / "place"
    shutil.copytree(sd_folder, place / "models" / "sd")
    (place / "models" / ODD).symlink_to(place / "models" / "sd")
    (place / "link").symlink_to("models/sd")
    write_single_file(BUILDERS["sd"](), place / "models" / "sd.safetensors")
    for path in (place / "style.safetensors", place / "styled" / WEIGHTS_NAME):
        path.parent.mkdir(exist_ok=True)
        save_file(load_file(adapter / WEIGHTS_NAME), path)
    shutil.copytree(adapter, place / "runs" / "out")
    (place / "runs" / "out" / WEIGHTS_NAME).rename(place / "runs" / "out" / "mine.safetensors")
    export_unet(build_unet(), place / "runs" / "whole", make_recipe(), torch.float32)
    return place


def card_of(
    flags: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch, **of_recipe: Any
) -> Card:
    """The card that a run with these flags writes, from where it was started."""

    def there(value: Any) -> Any:
        if isinstance(value, list):
            return [there(item) for item in value]
        return value.replace("{place}", str(place)) if isinstance(value, str) else value

    values = {name: there(value) for name, value in flags.items()}
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place / values.pop("from", "."))
    result = values.pop("result", "whole" if "full_finetune" in values else "out")
    named = {} if "full_finetune" in values else {"output_name": "mine"}
    config = TrainConfig.of(
        **{"train_data_dir": "x", "output_dir": str(place / "runs" / result), **named, **values}
    )
    return make_card(make_recipe(**of_recipe), config, config.flat(), [f'a "star" {ODD}'])


@contextmanager
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        yield


def python(text: str) -> list[str]:
    """The blocks of Python in a page of Markdown."""
    return [block.split("\n```")[0] for block in text.split("```python\n")[1:]]


@pytest.mark.parametrize("case", PATHS)
def test_a_local_model_has_the_same_name_in_every_folder(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = card_of(PATHS[case], place, monkeypatch).made.models.teacher
    monkeypatch.chdir("/")
    assert Path(name.local).is_absolute() and Path(name.local).samefile(place / "models" / "sd")
    public = {"a link": "link", "odd": ODD}.get(case, "sd")
    assert (name.public, name.is_local) == (public, True)


@pytest.mark.parametrize("case", KINDS)
def test_the_code_of_a_card_runs_from_any_folder(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of(KINDS[case], place, monkeypatch)
    text = card.render_here()
    assert "from any folder" in text and "folder of this file" not in text
    stock, *others = python(text)
    attaching = [block for block in others if "lcm.attach" in block]
    output, adapters = Path(card.folder), {"styles": 3, "a whole U-Net": 0}.get(case, 1)
    assert len(attaching) == min(adapters, 1)
    if case == "styles":  # what a line of weights does not name is switched off
        assert '["lcm", "style_1", "style_2", "style"], [1.0, 0.5, 1.0, 0.8]' in text
    runs = [(output, stock), *((output.parent, block) for block in attaching)]
    if case == "here":
        runs.append((output.parent, stock))
    for folder, block in runs:
        once = block.replace("num_inference_steps=4", "num_inference_steps=1")
        with inside(folder, monkeypatch):
            names: dict[str, Any] = {}
            exec(compile(once, "README.md", "exec"), names)
            assert isinstance(names["image"], Image.Image)
            Path("image.png").unlink(missing_ok=True)
        assert len(names["pipe"].get_active_adapters()) == adapters


def test_the_code_for_a_v_model_in_one_file_says_what_stock_diffusers_does_not_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own configuration is that of an epsilon model, and a picture would be noise."""
    config = {**make_recipe().scheduler_config, "rescale_betas_zero_snr": True}
    v = {"prediction_type": "v_prediction", "zero_terminal_snr": True, "scheduler_config": config}
    folder = write_adapter(place / "runs" / "v", BUILDERS["sd"], make_recipe(**v))
    (folder / WEIGHTS_NAME).rename(folder / "mine.safetensors")
    card = card_of({**KINDS["one file"], "result": "v"}, place, monkeypatch, **v)
    stock, *others = python(card.render_here())
    for block in (stock, next(block for block in others if "lcm.attach" in block)):
        once = block.replace("num_inference_steps=4", "num_inference_steps=1")
        with inside(folder, monkeypatch):
            names: dict[str, Any] = {}
            exec(compile(once, "README.md", "exec"), names)
        played = names["pipe"].scheduler.config
        assert (played.prediction_type, played.rescale_betas_zero_snr) == ("v_prediction", True)


def test_code_for_others_names_what_they_know(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = {
        "pretrained_teacher_model": "someone/teacher",
        "teacher_lora": ["someone/styles/deep/ink.safetensors=0.5", "someone/oil"],
        "teacher_revision": "v2",
        "variant": "fp16",
    }
    card = card_of(hub, place, monkeypatch)
    code = card.made.snippet(card.view_of_others("me/few"))
    assert '.from_pretrained("someone/teacher", revision="v2", variant="fp16", torch_dtype=' in code
    assert 'load_lora_weights("me/few", weight_name="mine.safetensors", adapter_name="lcm")' in code
    assert '("someone/styles", weight_name="deep/ink.safetensors", adapter_name="style_1")' in code
    assert '("someone/oil", adapter_name="style_2")' in code
    assert 'set_adapters(["lcm", "style_1", "style_2"], [1.0, 0.5, 1.0])' in code
    assert "from the hub" in card.view_of_others("me/few").where
    local = card_of(KINDS["styles"], place, monkeypatch).view_of_others("me/few")
    assert "put the path of your copy" in local.where
