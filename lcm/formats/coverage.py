"""Whether an adapter serves all of a base: one that was made for a model with blocks left out, as
SSD-1B is SDXL and BK-SDM is SD 1.4, finds a place for every layer in the whole model.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

BLOCK = re.compile(r"(.*(?:blocks|resnets|attentions)\.\d+)\.(.*)")
STAGE = re.compile(r"(?:down|up)_blocks\.\d+")


def blocks_of(layers: Collection[str]) -> dict[str, set[str]]:
    """Layers of a U-Net by the innermost numbered block that they are in: the names inside it."""
    found: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        if match := BLOCK.fullmatch(layer):
            found[match[1]].add(match[2])
    return found


def stage(block: str) -> str:
    match = STAGE.match(block)
    return match[0] if match else ""


def unserved(adapted: Collection[str], base: Collection[str]) -> list[str]:
    """The blocks of the base that an adapter was never meant for, where it looks as if it was made
    for a model without them; nothing for one of chosen layers or blocks.

    `adapted` are the layers of the file, `base` all linear and conv layers of the U-Net, both as
    diffusers names them. What tells a pruned model from a choice, for blocks of each kind
    (`resnets`, `attentions`, `transformer_blocks`): the file adapts some in every stage, down and
    up, in which the base has any, and in every list the first ones, without a gap; and either all
    lists of a stage are whole, or those on the way up are longer by one than those on the way down,
    which any U-Net has so. Models are pruned from the end of their lists, by a configuration of
    fewer layers.
    """
    theirs = blocks_of(adapted)
    targets = set().union(*theirs.values()) if theirs else set()
    alike = [block for block, names in blocks_of(base).items() if names & targets]
    found = []
    for kind in sorted({kind_of(block) for block in alike}):
        served = {block for block in theirs if kind_of(block) == kind}
        missing = [block for block in alike if kind_of(block) == kind and block not in served]
        stages = {stage(block) for block in alike if kind_of(block) == kind} - {""}
        in_stages = any(stage(block) for block in missing)
        if in_stages and stages <= {stage(block) for block in served}:
            is_pruned = could_be_whole(served, alike) and not has_gap(served, missing)
            found += missing if is_pruned else []
    return found


def lengths(blocks: Collection[str], kind: str) -> dict[str, int]:
    """How many members the list of a stage has that is outermost in blocks of a kind."""
    places_of = {(stage(b), b.split(".")[2], b.split(".")[3]) for b in blocks if kind_of(b) == kind}
    return Counter(f"{where}.{name}" for where, name, _ in places_of)


def could_be_whole(served: Collection[str], alike: Collection[str]) -> bool:
    """Whether a U-Net could have these blocks in its stages and no others."""
    kind = kind_of(next(iter(served)))
    inside = [{b for b in blocks if stage(b) and b.count(".") > 2} for blocks in (served, alike)]
    theirs, base = (lengths(blocks, kind) for blocks in inside)
    if theirs == base:
        return True
    downs = {count for name, count in theirs.items() if name.startswith("down")}
    ups = {count for name, count in theirs.items() if name.startswith("up")}
    return len(downs) == 1 and ups == {downs.pop() + 1}


def kind_of(block: str) -> str:
    return block.split(".")[-2]


def places(block: str) -> Iterator[tuple[str, int]]:
    """The lists that a block is in, from the inside, and its place in each."""
    parts = block.split(".")
    for end in range(len(parts), 1, -1):
        if parts[end - 1].isdigit():
            yield ".".join(parts[: end - 1]), int(parts[end - 1])


def has_gap(served: Collection[str], missing: Collection[str]) -> bool:
    """Whether a list of blocks goes on after one that is missing."""
    there = {place for block in served for place in places(block)}
    last: dict[str, int] = {}
    for name, number in there:
        last[name] = max(last.get(name, -1), number)
    return any(
        place not in there and place[1] < last.get(place[0], -1)
        for block in missing
        for place in places(block)
    )


def pruned_warning(adapted: Collection[str], base: Collection[str]) -> str | None:
    """One sentence where `unserved` finds something."""
    missing = unserved(adapted, base)
    if not missing:
        return None
    more = f" and {len(missing) - 1} more blocks" if len(missing) > 1 else ""
    return (
        f"the base has {missing[0]}{more} of the kinds that the adapter changes, and the adapter "
        "has nothing for them: it looks made for a model of this family with blocks left out (as "
        "SSD-1B is of SDXL, BK-SDM of SD); use it with the model that it was made for"
    )
