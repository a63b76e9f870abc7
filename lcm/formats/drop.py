"""Leaving named tensors of an adapter file out, and saying what they were."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from torch import Tensor

from lcm.adapter.files import AdapterFile
from lcm.adapter.recipe import RECIPE_KEY
from lcm.formats.keys import foreign


def without(
    file: AdapterFile, drop: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The file's tensors and its metadata but for what `drop` names, and what was left out: the
    recipe goes by the name of its key. A pattern that is the name of a tensor is no pattern. Raises
    ValueError for one that fits none.
    """
    left, header, notes = dict(file.tensors), dict(file.header), []
    for pattern in drop:
        if pattern == RECIPE_KEY and header.pop(RECIPE_KEY, None) is not None:
            notes.append("left out, as --drop says: the recipe in the header")
            continue
        named = [pattern] if pattern in file.tensors else matching(file.tensors, pattern)
        if not named:
            raise ValueError(
                f"--drop {pattern}: no tensor of {file.path} has such a name; name those that are "
                "no part of a LoRA, which the problems of the file name"
            )
        for name in named:
            left.pop(name, None)
        kind = foreign(named[0])
        what = f" ({kind.what})" if kind else ""
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        notes.append(f"left out, as --drop says: {named[0]}{more}{what}")
    return left, header, notes


def matching(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
