"""What `lcm.attach` does not take is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

import lcm
from tests.support.adapters import build_of, everything, make_recipe
from tests.support.pipelines import FEW
from tests.support.worlds import build_sd, build_sdxl


def test_fused_and_switched_off_adapters_are_refused(adapter: Path, style: Path) -> None:
    pipe = build_of(style)
    pipe.disable_lora()
    with pytest.raises(ValueError, match="enable_lora"):
        lcm.attach(pipe, adapter)
    pipe.enable_lora()
    lcm.attach(pipe, adapter)
    pipe.fuse_lora(components=["unet"])
    for call in (lambda: lcm.detach(pipe), lambda: lcm.attach(pipe, {"lcm": 0.5})):
        with pytest.raises(ValueError, match="unfuse_lora"):
            call()
    pipe.unfuse_lora(components=["unet"])
    lcm.detach(pipe)


def test_weights_stand_in_one_place(adapter: Path) -> None:
    with pytest.raises(ValueError, match="inside the mapping"):
        lcm.attach(build_sd(), {adapter: 1.0}, 0.5)


def test_a_name_that_is_not_loaded_is_told_those_that_are(adapter: Path) -> None:
    pipe = build_sd()
    for adapters in ("lmc", {"lmc": 0.5}):
        with pytest.raises(FileNotFoundError, match=r"no such file or folder; [^;]*$"):
            lcm.attach(pipe, adapters)
    lcm.attach(pipe, adapter)
    with pytest.raises(FileNotFoundError, match=r"adapters loaded: lcm$"):
        lcm.attach(pipe, {"lmc": 0.5})


@pytest.mark.parametrize(
    ("adapters", "options", "message"),
    [
        (["A"], {}, "a mapping from several of them to weights; got \\["),
        (None, {}, "a mapping from several of them to weights; got None"),
        ({}, {}, "the mapping is empty"),
        ("", {}, "the adapter's path is empty"),
        ({"A": 1.0, " ": 0.5}, {}, "the adapter's path is empty"),
        ({"A": 1e30}, {}, "the weight of A must be a finite number of at most 1000"),
        (
            {"A": float("nan")},
            {},
            "the weight of A must be a finite number of at most 1000, got nan",
        ),
        (
            {"A": {"unet": 0.5}},
            {},
            "the weight of A must be a finite number .*pipe.set_adapters afterwards",
        ),
        ({"A": 1.0, "./A": 0.5}, {"recipe": make_recipe()}, "./A is named twice"),
        ("A", {"adapter_name": "v1.5"}, "adapter_name='v1.5' cannot name an adapter"),
        ("A", {"recipe": "lcm"}, "recipe must be a lcm.Recipe"),
    ],
)
def test_what_attach_does_not_take_is_named(
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapters: Any,
    options: dict[str, Any],
    message: str,
) -> None:
    (adapter.parent / "A").unlink(missing_ok=True)
    (adapter.parent / "A").symlink_to(adapter)
    monkeypatch.chdir(adapter.parent)
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=message):
        lcm.attach(pipe, adapters, **options)
    assert everything(pipe) == before


def test_a_part_of_the_steps_that_holds_none_is_named_by_its_argument(sdxl_adapter: Path) -> None:
    pipe = StableDiffusionXLImg2ImgPipeline(**build_sdxl().components, add_watermarker=False)
    lcm.attach(pipe, sdxl_adapter)
    with pytest.raises(ValueError, match=r"2 steps from denoising_start=0\.99 on make no step"):
        pipe("a", image=torch.zeros(1, 4, 8, 8), denoising_start=0.99, **FEW)


@pytest.mark.parametrize(
    "path",
    ["out/", "./out", "~/out", "../out/a", "a/b/c", "out", "a/b/", "-a/b", "a/b.safetensors"],
)
def test_a_path_that_is_not_there_is_no_question_to_the_hub(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delattr("lcm.adapter.locate.hf_hub_download")
    with pytest.raises(FileNotFoundError, match=f"no adapter at {path}: there is no such file or"):
        lcm.attach(build_sd(), path)


@pytest.mark.parametrize("path", ["out/adapter", "out/a.b/c.safetensors"])
def test_what_may_be_both_is_first_told_as_the_path_it_is_not(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("lcm.adapter.locate.hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"^there is no file or folder out/a"):
        lcm.attach(build_sd(), path)
