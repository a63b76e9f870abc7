"""Methods, losses, solvers, sources and metrics from outside: modules that add them to our
tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def load_plugins(plugins: Sequence[str]) -> None:
    """Imports every plugin, a file `my_method.py` or a module that Python finds, once.

    What it does as it is imported counts, such as `METHODS.add("mine", Method(...))`. Raises
    ValueError where it is not there, or fails.
    """
    for plugin in plugins:
        path = Path(plugin)
        name = path.stem if path.suffix == ".py" else plugin
        if name in sys.modules:
            continue
        try:
            load_file(name, path) if path.suffix == ".py" else import_module(name)
        except Exception as error:  # whatever it does is its own
            sys.modules.pop(name, None)
            raise ValueError(
                f"plugin: {plugin} could not be imported ({type(error).__name__}: {error}); pass a "
                ".py file, or a module that `python -c 'import ...'` finds"
            ) from error


def load_file(name: str, path: Path) -> None:
    """Imports a file as the module `name`, which its own classes can be pickled by."""
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
