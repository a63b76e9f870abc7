"""Weights are read from safetensors alone: no call of a loader leaves that to its default, and none
opens a pickle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

LOADERS = ("from_pretrained", "load_lora_weights", "lora_state_dict", "load_lora_adapter")
"""Functions of the libraries that read weights, and open pickles where nothing forbids it."""
NO_WEIGHTS = ("CLIPTokenizer", "CLIPTextConfig")
"""Classes whose files are words and numbers in JSON."""
UNSAFE = {
    *("torch.load", "pickle.load", "pickle.loads", "joblib.load", "numpy.load", "np.load"),
    *("load_ip_adapter", "load_textual_inversion", "load_state_dict_from_url"),
}
WEIGHTS_ALONE = {
    "examples/shapes/train_teacher.py",  # the state of its own interrupted run
    "lcm/evaluation/weights.py",  # networks that are published as nothing else
}
"""Read files of torch by its loader of weights alone, which runs no code."""
SINGLE_FILES = "lcm/models/single_file.py"
"""Calls `from_single_file`, after `check_file`."""
THROUGH = {
    *("lcm/adapter/model_folder.py", "lcm/models/base_model.py"),
    "lcm/libraries/transformers.py",  # for base_model alone, after its look
}
"""Through which all of `lcm` loads models: they look through the folder first."""
FOLDERS = ("lcm", "pipelines", "examples", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls in a file, by the name of what is called, with and without its module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            whole = ast.unparse(node.func)
            yield whole, node
            if "." in whole:
                yield whole.rpartition(".")[2], node


def says(call: ast.Call, name: str) -> bool:
    """Whether the call passes `name=True`, as it stands."""
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in call.keywords
    )


def whole_name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def faults(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    for called, call in calls(path):
        where = f"{name}:{call.lineno} {called}"
        if whole_name(call).startswith(NO_WEIGHTS):
            continue
        if called in LOADERS and not says(call, "use_safetensors"):
            yield f"{where} lacks use_safetensors=True"
        if called == "from_pretrained" and name.startswith("lcm/") and name not in THROUGH:
            yield f"{where} goes past load_model and load_base"
        if called in UNSAFE and not (name in WEIGHTS_ALONE and says(call, "weights_only")):
            yield f"{where} may open a pickle"
        if called == "from_single_file" and name != SINGLE_FILES:
            yield f"{where} goes past check_file"
        if any(word.arg == "trust_remote_code" for word in call.keywords):
            yield f"{where} runs code that comes with a model"


def test_every_loader_is_told_to_read_safetensors_alone() -> None:
    assert [fault for path in FILES for fault in faults(path)] == []
    assert len(FILES) > 200


@pytest.mark.parametrize(
    "line",
    [
        "UNet2DConditionModel.from_pretrained(folder)",
        "type(like).from_pretrained(folder, use_safetensors=None)",
        "pipe.load_lora_weights(path)",
        "torch.load(path)",
        "StableDiffusionPipeline.from_single_file(path)",
        "AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=True)",
    ],
)
def test_a_call_that_is_not_is_found(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_safe_loading.ROOT", tmp_path)
    (tmp_path / "x.py").write_text(line)
    assert list(faults(tmp_path / "x.py"))
