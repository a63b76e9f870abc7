"""Calls of one network by several requests: those of like shapes become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Answer = tuple[Any, Exception | None]
"""What a call returned, or what it raised."""


class Call:
    """A call of the network `name`, all of whose tensors are [rows, ...]; one without dimensions
    counts for every row.
    """

    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs
        self.leaves, self.spec = tree_flatten((args, kwargs))
        self.first = next(leaf for leaf in self.leaves if isinstance(leaf, Tensor))
        self.rows = len(self.first)

    def is_like(self, other: Call) -> bool:
        """Whether one call can do for both."""
        return (self.name, self.spec) == (other.name, other.spec) and all(
            map(alike, self.leaves, other.leaves)
        )


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.ndim, one.shape[1:], one.dtype, one.device) == (
            other.ndim,
            other.shape[1:],
            other.dtype,
            other.device,
        )
    return type(one) is type(other) and bool(one == other)


def groups(calls: Iterable[Call], most: Callable[[Call], int]) -> list[list[Call]]:
    """Calls that can be made as one, in order; no group has more rows than `most` allows its first
    call, unless it has but one.
    """
    found: list[list[Call]] = []
    for call in calls:
        for group in found:
            if group[0].is_like(call) and sum(other.rows for other in group) + call.rows <= most(
                call
            ):
                group.append(call)
                break
        else:
            found.append([call])
    return found


def make(function: Callable[..., Any], calls: list[Call]) -> list[Answer]:
    """The answers to like calls, of one call where that works. Where it raises, each is made alone:
    one's error is its own.
    """
    try:
        return [(output, None) for output in make_as_one(function, calls)]
    except Exception as error:
        if len(calls) == 1:
            return [(None, error)]
    return [answer for call in calls for answer in make(function, [call])]


def make_as_one(function: Callable[..., Any], calls: list[Call]) -> list[Any]:
    if len(calls) == 1:
        return [function(*calls[0].args, **calls[0].kwargs)]
    rows = [call.rows for call in calls]
    columns = zip(*(call.leaves for call in calls), strict=True)
    args, kwargs = tree_unflatten([join(column, rows) for column in columns], calls[0].spec)
    leaves, spec = tree_flatten(function(*args, **kwargs))
    parts = [
        leaf.split(rows) if isinstance(leaf, Tensor) else [leaf] * len(rows) for leaf in leaves
    ]
    return [tree_unflatten(list(part), spec) for part in zip(*parts, strict=True)]


def join(column: tuple[Any, ...], rows: list[int]) -> Any:
    """One argument for all calls together: their tensors one after the other."""
    if not isinstance(column[0], Tensor):
        return column[0]
    return torch.cat(
        [
            leaf.expand(count) if leaf.ndim == 0 else leaf
            for leaf, count in zip(column, rows, strict=True)
        ]
    )
