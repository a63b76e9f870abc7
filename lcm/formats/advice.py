"""The way on for an adapter file that is not taken as it stands: a command that has been tried on
it before it is named, or what the file is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lcm.adapter.files import AdapterError, AdapterFile
from lcm.adapter.names import WEIGHTS_NAME
from lcm.formats.factors import Adapter
from lcm.formats.keys import foreign
from lcm.formats.kinds import identify
from lcm.formats.read import understand
from lcm.formats.write import identified, put, rehearse, save, usual_dtype
from lcm.system.text import command_line

LARGEST_ALPHA = 65504
"""That `--alpha` takes."""
MOST_NAMES = 8
"""Of tensors, or patterns, in a command that can still be read."""


@dataclass(frozen=True)
class Mend:
    """Flags of `lcm repair` that make of a file one that every program takes; or, with `layout`,
    `lcm convert`, where layers have no names that all of them know.
    """

    drop: tuple[str, ...] = ()
    alpha: float | None = None
    layout: str = ""

    def command(self, file: Path) -> str:
        words = ["lcm", "convert" if self.layout else "repair", str(file), "OUT"]
        words += ["--to", self.layout] if self.layout else []
        words += ["--drop", *self.drop] if self.drop else []
        words += [] if self.alpha is None else ["--alpha", f"{self.alpha:g}"]
        return command_line(words)

    def rehearse(self, file: AdapterFile) -> Adapter:
        """What the command would write. Raises ValueError where it would end with an error."""
        adapter = self.meant(file)
        if not self.layout:
            return rehearse(adapter, usual_dtype(adapter))
        with TemporaryDirectory() as folder:
            return save(adapter, Path(folder, WEIGHTS_NAME), usual_dtype(adapter), self.layout)

    def write(self, file: AdapterFile, output: Path) -> Adapter:
        """Does what the command does, without its prints. Raises ValueError as `rehearse`."""
        adapter = self.meant(file)
        return put(adapter, output, usual_dtype(adapter), self.layout or "kohya")

    def meant(self, file: AdapterFile) -> Adapter:
        """The adapter that is to be written."""
        adapter = understand(file, self.alpha, drop=self.drop).checked()
        adapter.header = identified(adapter, None)
        return adapter


def patterns(adapter: Adapter, names: list[str]) -> tuple[str, ...]:
    """The shortest `--drop` for tensors beside the LoRA; nothing where one of them is part of an
    adapter that is none without it, or where they are too many to be named.
    """
    found: dict[str, None] = {}
    alphas = [name for name in names if name.endswith(".alpha")]
    if len(alphas) > 1 and not any(slot.part == "alpha" for slot in adapter.slots):
        names = [*(name for name in names if name not in alphas), "*.alpha"]
    for name in names:
        kind = foreign(name)
        if kind and not kind.drop:
            return ()
        fitting = [pattern for pattern in kind.drop if _ends(name, pattern)] if kind else []
        found[fitting[0] if fitting else name] = None
    return tuple(found) if len(found) <= MOST_NAMES else ()


def _ends(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name.endswith(pattern[1:])


def usual_alpha(adapter: Adapter) -> float | None:
    """The alpha of most layers."""
    found = Counter(factors.alpha for factors in adapter.modules.values()).most_common(1)
    return found[0][0] if found else None


def candidates(file: AdapterFile, adapter: Adapter) -> Iterator[Mend]:
    """What may mend a file, the least first."""
    drop = patterns(adapter, [*adapter.unread, *adapter.unusable])
    for names in dict.fromkeys(((), drop)):
        yield Mend(names)
        try:
            alpha = usual_alpha(understand(file, drop=names))
        except ValueError:
            continue
        if alpha is not None and abs(alpha) <= LARGEST_ALPHA:
            yield Mend(names, alpha)
    yield Mend(layout="diffusers")


def no_check(adapter: Adapter) -> None:
    """Nothing more is asked of the result."""


def tried(
    file: AdapterFile,
    check: Callable[[Adapter], None] = no_check,
    mends: Iterable[Mend] | None = None,
) -> Mend | None:
    """The first that `lcm repair` would end well with, and whose result passes `check`, which
    raises ValueError where it does not. None where there is none.
    """
    try:
        mends = mends or candidates(file, understand(file))
        for mend in mends:
            try:
                check(mend.rehearse(file))
            except ValueError:
                continue
            return mend
    except ValueError:  # nothing in it can be read
        pass
    return None


def way_on(
    file: AdapterFile,
    check: Callable[[Adapter], None] = no_check,
    mends: Iterable[Mend] | None = None,
) -> str:
    """A sentence: the command that mends the file, or what the file is, or what is wrong with it.

    `check` is what the mended file must pass besides, `mends` are what to try.
    """
    if mend := tried(file, check, mends):
        what = f", without {', '.join(mend.drop)}," if mend.drop else ""
        return f"a file that loads{what} is written by: {mend.command(file.path)}"
    kind = identify(file)
    return f"it is {kind.what}; {kind.use}" if kind else "use another version of the file"


def check_sound(
    file: AdapterFile, problems: Sequence[str], check: Callable[[Adapter], None] = no_check
) -> None:
    """Raises AdapterError with the first problem and the way on, if there are any."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        problem = problems[0].removeprefix(f"{file.path}: ")
        raise AdapterError(f"{file.path}: {problem}{more}; {way_on(file, check)}")
