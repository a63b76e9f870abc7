"""The import arrows between modules point down only, and the numerical core needs torch alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# `lcm` itself is the front door to playback; every name covers the modules below it
LAYERS: list[set[str]] = [
    {
        *("lcm.schedule", "lcm.grid", "lcm.consistency", "lcm.guidance", "lcm.losses"),
        *("lcm.sampling", "lcm.solvers", "lcm.registry", "lcm.recipe", "lcm.times", "lcm.weights"),
    },
    {
        *("lcm", "lcm.families", "lcm.adapters", "lcm.conditioning", "lcm.networks", "lcm.full", "lcm.perceptual", "lcm.playback"),
        *("lcm.bases", "lcm.disk", "lcm.lora", "lcm.styles", "lcm.recompute", "lcm.memory", "lcm.serving", "lcm.formats"),
    },
    {"lcm.objectives"},
    {
        *("lcm.data", "lcm.cache", "lcm.checkpoint", "lcm.config", "lcm.validation", "lcm.card", "lcm.usage", "lcm.hub"),
        *("lcm.launching", "lcm.metrics_log", "lcm.publishing", "lcm.resuming", "lcm.student", "lcm.building", "lcm.trainer"),
        *("lcm.console", "lcm.locking", "lcm.progress", "lcm.report", "lcm.saving", "lcm.stopping", "lcm.trackers"),
        *("lcm.optimizer", "lcm.teachers", "lcm.forecast", "lcm.rehearsal", "lcm.fitting", "lcm.measuring", "lcm.preparing"),
        "lcm.generating",
    },
    {"lcm.cli", "lcm.verbs", "pipelines", "train_lcm_lora"},
]
CORE_MAY_IMPORT = {"torch", *sys.stdlib_module_names}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [*sorted((ROOT / "lcm").rglob("*.py")), *sorted((ROOT / "pipelines").rglob("*.py")), ROOT / "train_lcm_lora.py"]
SOURCES = {module_name(path): path.read_text() for path in FILES}
PACKAGES = {module_name(path) for path in FILES if path.name == "__init__.py"}


def layer_of(module: str) -> int | None:
    """The number of the layer; None for a module outside this repository, KeyError for one without a layer."""
    top, _, _ = module.partition(".")
    if top not in ("lcm", "pipelines", "train_lcm_lora"):
        return None
    unit = ".".join(module.split(".")[:2]) if top == "lcm" else top
    numbers = {name: number for number, names in enumerate(LAYERS) for name in names}
    if unit not in numbers:
        raise KeyError(f"{module} has no layer; add {unit} to LAYERS")
    return numbers[unit]


def targets(node: ast.AST, module: str) -> Iterator[str]:
    """The modules an import statement names: `from lcm import playback` is lcm.playback, `from lcm import attach` is lcm."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names)


def all_imports(source: str, module: str) -> set[str]:
    """Everywhere in the file, inside functions too."""
    return {name for node in ast.walk(ast.parse(source)) for name in targets(node, module)}


def imports_on_load(source: str, module: str) -> set[str]:
    """Outside functions and outside `if TYPE_CHECKING`."""

    def visit(node: ast.AST) -> Iterator[str]:
        yield from targets(node, module)
        is_typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not is_typing and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    return set(visit(ast.parse(source)))


def violations(source: str, module: str) -> list[str]:
    """What a file imports against the rules of its layer."""
    mine, wrong = layer_of(module), []
    assert mine is not None
    for name in sorted(all_imports(source, module)):
        theirs, top = layer_of(name), name.partition(".")[0]
        if theirs is not None and theirs > mine:
            wrong.append(f"{module} (layer {mine}) imports {name} (layer {theirs})")
        if theirs is None and mine == 0 and top not in CORE_MAY_IMPORT:
            wrong.append(f"{module} (layer 0) imports {name}, which is neither torch nor the standard library")
        if module.startswith("lcm") and top in ("pipelines", "examples", "tests", "train_lcm_lora"):
            wrong.append(f"{module} imports {name} from outside the package")
    return wrong


@pytest.mark.parametrize("module", SOURCES)
def test_arrows_point_down_only(module: str) -> None:
    assert violations(SOURCES[module], module) == []


def test_modules_of_lcm_import_each_other_without_cycles() -> None:
    graph = {name: (imports_on_load(text, name) & set(SOURCES)) - {name} for name, text in SOURCES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lcm.schedule", "import diffusers"),
        ("lcm.schedule", "def f() -> None:\n    from transformers import AutoModel"),
        ("lcm.losses", "from lcm.trainer import Trainer"),
        ("lcm.solvers.ddim", "from lcm import adapters"),
        ("lcm.solvers.ddim", "from ..adapters import add_lora"),
        ("lcm.recipe", "import lcm"),
        ("lcm.families.sd", "from lcm.objectives.base import Roles"),
        ("lcm.objectives.lcm", "import lcm.config"),
        ("lcm.trainer", "from pipelines.few_step import FewStepMixin"),
        ("lcm.trainer", "import examples.shapes"),
    ],
)
def test_an_arrow_upwards_is_found(module: str, source: str) -> None:
    assert violations(source, module)


def test_a_module_without_a_layer_is_refused() -> None:
    with pytest.raises(KeyError, match=r"add lcm\.brand_new to LAYERS"):
        layer_of("lcm.brand_new.part")


def test_the_numerical_core_loads_without_the_model_libraries() -> None:
    code = (
        "import sys, lcm.schedule, lcm.solvers, lcm.sampling, lcm.losses;"
        "print(sorted({'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
