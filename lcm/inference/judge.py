"""An adapter file before it is attached: the same findings that `lcm inspect` prints, and whether
this pipeline has a place for all of it. What is refused names a way on that has been tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lcm.adapter.files import AdapterFile
from lcm.adapter.lora import adaptable
from lcm.adapter.prefixes import strip
from lcm.formats.advice import MOST_NAMES, Mend, check_sound, no_check, way_on
from lcm.formats.apply import adapted_kinds, has_place, targets
from lcm.formats.coverage import pruned_warning
from lcm.formats.factors import Adapter
from lcm.formats.read import understand
from lcm.inference.call_warnings import frames_to_the_caller


def sound(
    file: AdapterFile,
    layers_per_block: int | None = None,
    check: Callable[[Adapter], None] = no_check,
) -> Adapter:
    """What the file means. Raises ValueError for all that `lcm inspect` calls a problem and stock
    diffusers cannot play, with the way on; `check` is what the mended file must pass.
    """
    adapter = understand(file, layers_per_block=layers_per_block)
    serious = [problem for problem in adapter.problems if problem not in adapter.played]
    check_sound(file, serious, check)
    return adapter


def fits(pipe: Any) -> Callable[[Adapter], None]:
    """The check that raises ValueError for an adapter that has no place in this pipeline."""

    def check(adapter: Adapter) -> None:
        list(targets(pipe, adapter))

    return check


def without_the_rest(pipe: Any, adapter: Adapter) -> list[Mend]:
    """Leaving out the layers that this pipeline lacks, where it has all those of the U-Net: those
    of a text encoder are a part that can be missing.
    """
    lacking = {module for module in adapter.modules if not has_place(pipe, module)}
    if not lacking or any(module.startswith("unet.") for module in lacking):
        return []
    stems = {slot.stem: None for slot in adapter.slots if slot.module in lacking}
    networks = {"".join(strip(stem)[0]): None for stem in stems}
    by_layer = [Mend(tuple(f"{stem}.*" for stem in stems))] if len(stems) <= MOST_NAMES else []
    return [*by_layer, Mend(tuple(f"{prefix}*" for prefix in networks if prefix))]


def judge(pipe: Any, file: AdapterFile) -> Adapter:
    """What the file means, layer by layer of this pipeline, which is left as it is. Warns of what
    plays and is seldom meant.

    Raises ValueError, with the way on, for a file with problems and for one that does not fit.
    """
    layers = adaptable(pipe)["unet"].config.layers_per_block
    check = fits(pipe)
    adapter = sound(file, layers if isinstance(layers, int) else None, check)
    try:
        check(adapter)
    except ValueError as error:
        mends = without_the_rest(pipe, adapter)
        way = way_on(file, check, mends) if mends else "nothing was changed"
        raise ValueError(f"{file.path} does not fit this pipeline: {error}; {way}") from error
    pruned = pruned_warning(*adapted_kinds(pipe, adapter))
    for text in [*adapter.played, *adapter.warnings, *([pruned] if pruned else [])]:
        warnings.warn(f"{file.path}: {text}", UserWarning, stacklevel=frames_to_the_caller())
    return adapter
