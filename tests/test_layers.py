"""The import arrows between modules point down only, and the numerical core needs torch alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

LAYERS = (
    *(
        "system",
        "libraries",
        "diffusion",
        "adapter",
        "formats",
        "models",
        "methods",
        "data",
        "inference",
    ),
    *("pipelines", "config", "outputs", "publish", "evaluation", "training", "dry_run"),
    *("play", "cli"),
)
"""The folders of `lcm/`: an import points to the left, or stays in its folder."""
TORCH_ALONE = ("diffusion",)
"""Folders that need torch and the standard library alone."""
FRONT = ("lcm", "pipelines", "train_lcm_lora")
"""The front doors: `lcm` is what users import, which leads to `inference` on demand, and as a
program to `cli`.
"""
MAY_BE_FLAT = 3


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [
    *sorted((ROOT / "lcm").rglob("*.py")),
    *sorted((ROOT / "pipelines").rglob("*.py")),
    ROOT / "train_lcm_lora.py",
]
SOURCES = {module_name(path): path.read_text() for path in FILES}
PACKAGES = {module_name(path) for path in FILES if path.name == "__init__.py"}


def folder_of(module: str) -> str | None:
    """The folder of `lcm/` that a module is in; None for the front doors and for other packages.

    Raises KeyError for a folder without a layer.
    """
    top, *inside = module.split(".")
    if top != "lcm" or not inside or inside == ["__main__"]:
        return None
    if inside[0] not in LAYERS:
        raise KeyError(f"{module} has no layer; add {inside[0]} to LAYERS")
    return inside[0]


def targets(node: ast.AST, module: str) -> Iterator[str]:
    """The modules an import statement names.

    `from lcm import inference` names lcm.inference, `from lcm import attach` names lcm.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (
            f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base
            for alias in node.names
        )


def all_imports(source: str, module: str) -> set[str]:
    """The imports of the whole file, those of functions and of `if TYPE_CHECKING` too."""
    return {name for node in ast.walk(ast.parse(source)) for name in targets(node, module)}


def names_imported(node: ast.AST) -> set[str]:
    """Every part of the paths that an import statement names, and the names it takes from there."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return set()
    base = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    paths = [base, *(alias.name for alias in node.names)]
    return {part for path in paths for part in path.split(".")}


def violations(source: str, module: str) -> list[str]:
    """What a file imports against the rules of its folder."""
    mine, wrong = folder_of(module), []
    for name in sorted(all_imports(source, module)):
        top, theirs = name.partition(".")[0], folder_of(name)
        is_front = top in FRONT and theirs is None
        if mine is not None and (is_front or top in ("examples", "tests")):
            wrong.append(f"{module} imports {name}, which stands above it")
        if mine is not None and theirs is not None and LAYERS.index(theirs) > LAYERS.index(mine):
            wrong.append(f"{module} imports {name}: {theirs} lies above {mine}")
        is_own = theirs in TORCH_ALONE or theirs == "system"
        if mine in TORCH_ALONE and not is_own and top not in {"torch", *sys.stdlib_module_names}:
            wrong.append(f"{module} imports {name}, neither torch nor the standard library")
    return wrong


@pytest.mark.parametrize("module", SOURCES)
def test_arrows_point_down_only(module: str) -> None:
    assert violations(SOURCES[module], module) == []


def test_modules_import_each_other_without_circles() -> None:
    """Imports in functions and for type checkers count, since a circle of those is one too."""
    graph = {
        name: {other for other in all_imports(text, name) & set(SOURCES) if other != name}
        for name, text in SOURCES.items()
        if folder_of(name) is not None
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_few_modules_lie_flat_and_every_folder_has_a_layer() -> None:
    assert len([path for path in FILES if path.parent == ROOT / "lcm"]) <= MAY_BE_FLAT
    assert {folder_of(name) for name in SOURCES} == {None, *LAYERS}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lcm.diffusion.schedule", "import diffusers"),
        ("lcm.diffusion.schedule", "def f() -> None:\n    from transformers import AutoModel"),
        ("lcm.diffusion.losses", "from lcm.training.loop import Trainer"),
        ("lcm.diffusion.solvers.ddim", "from lcm.adapter import lora"),
        ("lcm.diffusion.solvers.ddim", "from ...adapter.lora import add_lora"),
        ("lcm.adapter.recipe", "import lcm"),
        ("lcm.models.families.sd", "from lcm.methods.objective import Roles"),
        ("lcm.methods.lcm", "import lcm.config"),
        ("lcm.data.records", "if TYPE_CHECKING:\n    from lcm.config import TrainConfig"),
        ("lcm.training.loop", "from pipelines import FewStepStableDiffusionPipeline"),
        ("lcm.inference.attach", "from lcm.pipelines.few_step import FewStepMixin"),
        ("lcm.training.loop", "import examples.shapes"),
    ],
)
def test_an_arrow_upwards_is_found(module: str, source: str) -> None:
    assert violations(source, module)


def test_no_test_file_is_imported_by_another() -> None:
    """What several of them need has a module of its own in tests/support."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {part}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        for part in names_imported(node)
        if part.startswith("test_") or part == "conftest"
    ]
    assert wrong == []


def test_a_folder_without_a_layer_is_refused() -> None:
    with pytest.raises(KeyError, match="add brand_new to LAYERS"):
        folder_of("lcm.brand_new.part")


def test_the_numerical_core_and_workers_load_without_the_model_libraries() -> None:
    """A worker process that is not forked begins in a quarter of the time."""
    code = (
        "import sys, lcm.diffusion.schedule, lcm.diffusion.solvers, lcm.diffusion.sampling, "
        "lcm.diffusion.losses, lcm.data.sampler, lcm.data.batch, lcm.data.precomputed.latents, "
        "lcm.data.sources.folder, lcm.data.sources.webdataset, lcm.system.signals;"
        "print(sorted({'diffusers', 'transformers', 'peft', 'accelerate', 'datasets'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
