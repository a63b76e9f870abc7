"""An adapter of another family is refused before the base model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lcm.adapter.files import AdapterFile
from lcm.formats.misfit import width_of_adapter, width_of_base
from tests.support.verbs import run

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def write(path: Path, width: int, prefix: str = "lora_unet_") -> Path:
    name = prefix + (LAYER.replace(".", "_") if prefix.endswith("_") else LAYER)
    down, up = torch.ones(2, width), torch.ones(4, 2)
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}
    if not prefix.endswith("_"):
        parts = {"lora_A.weight": down, "lora_B.weight": up}
    save_file({f"{name}.{part}": value for part, value in parts.items()}, path)
    return path


def folder(path: Path, width: Any) -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": width}))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "{file}"),
        ("repair", "{file}", "{out}"),
        ("merge", "{file}", "--output", "{out}"),
        (
            *("generate", "--adapter", "{file}", "--scheduler", "LCMScheduler"),
            *("--prompt", "x", "--output", "{out}"),
        ),
    ],
    ids=lambda command: command[0],
)
def test_no_verb_loads_the_base_of_another_family(
    command: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_base(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("lcm.models.base_model.load_base", load_base)
    file, base = write(tmp_path / "a.safetensors", 2048), folder(tmp_path / "base", 768)
    words = [word.format(file=file, out=tmp_path / "out") for word in command]
    assert run(*words, "--base", base) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(file) in error and str(base) in error
    assert "SDXL with text width 2048, and this one is SD 1.x with 768" in error
    assert not (tmp_path / "out").exists()


def test_every_kind_of_base_says_its_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert width_of_base(str(folder(tmp_path / "folder", 1024))) == 1024
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({"other": torch.ones(1), name: torch.ones(4, 768)}, tmp_path / "one.safetensors")
    assert width_of_base(str(tmp_path / "one.safetensors")) == 768
    cached = folder(tmp_path / "hub", 2048) / "unet" / "config.json"
    monkeypatch.setattr(
        "lcm.formats.misfit.try_to_load_from_cache",
        lambda repo, name: str(cached) if (repo, name) == ("a/b", "unet/config.json") else None,
    )
    assert width_of_base("a/b") == 2048


@pytest.mark.parametrize("width", [[768, 768], None, "768", True])
def test_what_does_not_tell_is_left_to_loading(width: Any, tmp_path: Path) -> None:
    assert width_of_base(str(folder(tmp_path / "base", width))) is None
    (tmp_path / "base" / "unet" / "config.json").write_text("[[")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    for base in ("base", "nothing", "broken.safetensors", "a/b/c", "a/b"):
        assert width_of_base(str(tmp_path / base)) is None


@pytest.mark.parametrize("prefix", ["lora_unet_", "unet.", "base_model.model."])
def test_every_layout_says_its_width(prefix: str, tmp_path: Path) -> None:
    file = AdapterFile.read(write(tmp_path / "a.safetensors", 1024, prefix))
    assert width_of_adapter(file) == 1024
