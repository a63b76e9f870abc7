"""Methods, losses, solvers, sources and metrics from outside: modules that add them to our
tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from lcm.system.words import WrongValueError, place


def load_plugins(plugins: Sequence[str]) -> None:
    """Imports every plugin, a file `my_method.py` or a module that Python finds, once.

    What it does as it is imported counts, such as `METHODS.add("mine", Method(...))`. Raises
    ValueError where it is not there, has the name of another module, or fails.
    """
    for plugin in plugins:
        try:
            name = place(plugin)
        except WrongValueError as error:
            raise ValueError(f"plugin {error}") from error
        try:
            load_file(Path(name)) if name.endswith(".py") else import_module(name)
        except Exception as error:  # whatever it does is its own
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"plugin: {plugin} could not be imported ({reason})") from error


def load_file(path: Path) -> None:
    """Imports a file as the module of its name, by which its own classes can be pickled: its folder
    becomes the last of those where modules are looked for, for worker processes too.

    Raises FileNotFoundError where there is none, ImportError where its name is taken.
    """
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return
    spec = spec_from_file_location(path.stem, path)
    if known is not None or path.stem in sys.stdlib_module_names or spec is None:
        raise ImportError(f"there is another module {path.stem!r}; rename the file")
    assert spec.loader is not None  # a file has one
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
