"""Every snippet and command of the documentation works as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from examples.shapes.tables import filled
from lcm.config import DROPPED_FLAGS, FREE_TO_CHANGE, TrainConfig, parse_config, read_yaml
from tests.conftest import ROOT

DOCUMENTS = (
    *("README.md", "docs/training.md", "docs/methods.md", "benchmarks/README.md"),
    *("examples/shapes/README.md", "examples/shapes/community/README.md", "examples/accelerate/README.md"),
)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def test_python_snippets_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    snippets = blocks("README.md", "python")
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    for name in ("star", "ring", "ring_2_steps"):
        assert Image.open(tmp_path / f"{name}.png").size == (64, 64)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_training_commands_parse(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [line for block in blocks(document, "bash") for line in block.replace("\\\n", " ").splitlines() if ".py " in line]
    for command in commands:
        if "train_lcm_lora.py" not in command or "..." in command:
            continue
        words = shlex.split(command.split("train_lcm_lora.py")[1], comments=True)
        if "run.yaml" in words:
            (tmp_path / "run.yaml").write_text(blocks("docs/training.md", "yaml")[0])
            words[words.index("run.yaml")] = str(tmp_path / "run.yaml")
        assert isinstance(parse_config(words), TrainConfig)


def test_yaml_of_the_guide_has_a_float_learning_rate(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(blocks("docs/training.md", "yaml")[0])
    assert parse_config(["--config", str(tmp_path / "run.yaml")]).learning_rate == 2e-5


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_and_links_in_the_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    fields = set(TrainConfig.__dataclass_fields__)
    own = {"config", "help"} | set(DROPPED_FLAGS)
    of_others = {
        *("num_processes", "multi_gpu", "num_machines", "machine_rank", "main_process_ip", "main_process_port"),
        *("config_file", "nproc_per_node"),
    }
    of_examples = {
        "refine",
        "seeds",
        "teachers",
        "teacher",
        "adapter",
        "num_steps",
        "num_images",
        "guidance_scales",
        "output",
        "vae",
        "init_from",
        "state",
        "prediction_type",
        "config",
        "only",
        "plan",
        "results_dir",
        "style",
        "model",
    }
    for flag in re.findall(r"--([a-z][a-z0-9_]+)", text):
        assert flag in fields | own | of_others | of_examples, flag
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / document).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "shapes").rglob("*.yaml")), ids=lambda path: path.name)
def test_example_configurations_parse(path: Path) -> None:
    assert read_yaml(path)
    data = [] if "prompts_file" in read_yaml(path) else ["--train_data_dir", "x"]
    assert isinstance(parse_config(["--config", str(path), *data]), TrainConfig)
    assert yaml.safe_load(path.read_text()).keys() <= set(TrainConfig.__dataclass_fields__)


def test_every_flag_has_help_and_the_guide_names_the_defaults() -> None:
    for name, spec in TrainConfig.__dataclass_fields__.items():
        assert len(spec.metadata["help"]) > 4, name
    assert set(TrainConfig.__dataclass_fields__) >= FREE_TO_CHANGE
    guide = (ROOT / "docs" / "training.md").read_text()
    defaults = parse_config(["--pretrained_teacher_model", "x", "--train_data_dir", "y"])  # those of lcm, the default method
    for name in ("guidance_scale", "num_ddim_timesteps", "lora_rank", "train_batch_size", "checkpointing_steps"):
        assert re.search(rf"`--{name}`.*\| {getattr(defaults, name)}[ ,|]", guide), name


def test_tables_are_what_the_raw_results_say() -> None:
    text = (ROOT / "examples" / "shapes" / "README.md").read_text()
    assert filled(text) == text
