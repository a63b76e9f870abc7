"""Nothing in a model's folder makes a library import, download or unpickle anything: what could is
one line that names the file and the fix, before anything is imported, on every route.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcm.models import base_model
from lcm.models.base_model import load_base
from lcm.models.families import load_family
from lcm.models.model_index import schedulers
from lcm.pipelines import FewStepStableDiffusionPipeline
from tests.support.hostile import NOT_JSON, SPY, is_one_line, rewrite
from tests.support.verbs import run

pytestmark = pytest.mark.usefixtures("spies")

INDEX: dict[str, dict[str, Any]] = {
    "a module on the path": {"scheduler": [SPY, "Component"]},
    "of a component": {"unet": [SPY, "Component"]},
    "of the standard library": {"scheduler": ["antigravity", "x"]},
    "a dotted path": {"vae": ["package.inner", "Component"]},
    "os": {"scheduler": ["os", "system"]},
    "unknown": {"scheduler": ["x", "y"]},
    "an unknown component": {"evil": [SPY, "Component"]},
    "an object": {"evil": {"library": SPY}},
    "a part that is not loaded": {"safety_checker": [SPY, "Component"]},
    "a module of diffusers": {"scheduler": ["diffusers.schedulers", "DDIMScheduler"]},
    "another class": {"unet": ["diffusers", "AutoencoderKL"]},
    "a base class": {"scheduler": ["diffusers", "SchedulerMixin"]},
    "by itself": {"text_encoder": ["transformers", "AutoModel"]},
    "custom pipeline": {"_class_name": [SPY, "Component"]},
    "class an object": {"_class_name": {}},
    "no class": {"_class_name": None},
    "another pipeline": {"_class_name": "StableDiffusionUpscalePipeline"},
    "a pipeline of more parts": {"_class_name": "StableDiffusionXLPipeline"},
    "empty": {"unet": []},
    "one": {"unet": ["diffusers"]},
    "three": {"unet": ["diffusers", "UNet2DConditionModel", "x"]},
    "numbers": {"unet": [1, 2]},
    "null": {"unet": None},
    "nulls": {"unet": [None, None]},
    "half null": {"unet": [None, "UNet2DConditionModel"]},
    "text": {"unet": "diffusers"},
    "nested": {"unet": [["diffusers"], "UNet2DConditionModel"]},
    "an option": {"requires_safety_checker": [SPY]},
    "escape": {"\u001b[2J\n": ["a\u001b[2J\n", "b"]},
}
Route = Callable[[Path, Path], Any]

ROUTES: dict[str, Route] = {
    "folder": lambda folder, world: load_base(folder),
    "base_config": lambda folder, world: load_base(world / "sd.safetensors", base_config=folder),
    "teacher": lambda folder, world: load_family(str(folder)),
    "pipeline": lambda folder, world: FewStepStableDiffusionPipeline.from_pretrained_with_adapter(
        folder, folder
    ),
}
VERBS: dict[str, Callable[[Path, Path, Path], tuple[Any, ...]]] = {
    "generate": lambda folder, file, out: (
        *("generate", "--base", folder, "--adapter", file, "--prompt", "a", "--output", out),
    ),
    "verify": lambda folder, file, out: ("verify", file, "--base", folder),
    "merge": lambda folder, file, out: ("merge", file, "--base", folder, "--output", out),
    "repair": lambda folder, file, out: ("repair", file, out, "--base", folder),
}


def refused(route: Route, folder: Path, world: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        route(folder, world)
    assert is_one_line(caught.value), caught.value
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("change", INDEX.values(), ids=INDEX)
def test_an_index_names_what_its_pipeline_declares_and_nothing_else(
    folder: Path, world: Path, change: dict[str, Any]
) -> None:
    rewrite(folder / "model_index.json", **change)
    for route in ROUTES.values():
        refused(route, folder, world)


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_an_index_that_is_none_is_named(folder: Path, world: Path, content: bytes) -> None:
    (folder / "model_index.json").write_bytes(content)
    for route in ROUTES.values():
        assert "restore the file" in refused(route, folder, world)


def test_every_verb_holds_its_base_to_it(
    folder: Path, adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder / "model_index.json", scheduler=[SPY, "Component"])
    for words in VERBS.values():
        assert run(*words(folder, adapter, tmp_path / "out")) == 2
        error = capfd.readouterr().err
        assert f"{folder}/model_index.json: scheduler names {SPY}.Component" in error
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["sd", "v", "sdxl"])
def test_whatever_diffusers_writes_of_these_models_is_taken(world: Path, name: str) -> None:
    load_base(world / name)
    assert {"DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"} <= {*schedulers()}


def test_an_index_of_the_hub_is_read_before_anything_else_is_downloaded(
    folder: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository is what its folder in the cache is; the second call is that of --base_config."""
    fetched: list[str] = []
    monkeypatch.setattr(
        "lcm.models.hub_folder.hf_hub_download",
        lambda repo, name, **options: str(fetched.append(name) or folder / name),
    )
    monkeypatch.setattr(base_model, "fetch", lambda repo, names: folder)
    rewrite(folder / "model_index.json", scheduler=[SPY, "Component"])
    for call in (
        lambda: load_base("someone/model"),
        lambda: load_base(world / "sd.safetensors", base_config="someone/model"),
        lambda: load_base(world / "sd.safetensors"),
    ):
        with pytest.raises(ValueError, match=f"names {SPY}"):
            call()
    assert fetched == ["model_index.json"]


def test_a_model_of_the_hub_is_its_folder_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repo: str, **options: Any) -> str:
        asked.append((repo, options))
        return str(folder)

    monkeypatch.setattr(
        "lcm.models.hub_folder.hf_hub_download", lambda repo, name, **options: str(folder / name)
    )
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    pipe = load_base("someone/model", revision="v1")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert pipe.config["_name_or_path"] == "someone/model"
    ((repo, options),) = asked
    assert repo == "someone/model"
    assert options["use_safetensors"] is True
    assert options["revision"] == "v1"
