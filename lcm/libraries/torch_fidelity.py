"""torch-fidelity, an optional package: its functions of features, and Inception.

It imports torchvision for data sets and networks that are not asked for here. Where there is none,
as beside many a torch for the CPU, a stand-in takes its place for the time of the import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PARTS = ("", ".datasets", ".transforms", ".transforms.functional", ".models")
PACKAGES = {"torch_fidelity": "'latent-consistency-toolkit[evaluate]'"}
"""What has to be importable, and what installs it."""


class StandIn(ModuleType):
    """A module of torchvision that has every class, each of them empty."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


# torch-fidelity without torchvision at its top: nothing
@contextmanager
def without_torchvision() -> Iterator[None]:
    """Inside the block torchvision can be imported, there or not."""
    if "torchvision" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    names = [f"torchvision{part}" for part in PARTS]
    modules = {name: StandIn(name) for name in names}
    for name in names[1:]:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, modules[name])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def library(part: str) -> Any:
    """A module of the package, such as "metric_fid"."""
    with without_torchvision():
        return import_module(f"torch_fidelity.{part}")
