"""What a stock pipeline's call takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from lcm.system.registry import closest


def check_arguments(pipeline_class: Any, names: Iterable[str], shown: str) -> None:
    """Raises TypeError for a name that is no argument of the class's call, which would pass over
    it in silence; `shown` is what the message calls the pipeline.
    """
    accepted = inspect.signature(pipeline_class.__call__).parameters
    for name in names:
        if name not in accepted:
            raise TypeError(f"{shown} has no argument {name!r}.{closest(name, accepted)}")
