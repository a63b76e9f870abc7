"""What others may be shown of the names of models and data sets: hub ids, but no paths of this
machine.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath


def public_name(name: str) -> str:
    """What a card calls a model or data set: a hub id as it is, of a folder its name alone, since
    paths name people.
    """
    return name if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) else PurePath(name).name


def on_the_hub(name: str | None) -> bool:
    """Whether a model or data set that was loaded by this name came from the hub."""
    return name is not None and not Path(name).exists() and public_name(name) == name
