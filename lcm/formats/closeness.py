"""How much two adapters differ: their deltas, from the factors alone. The products themselves are
never made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcm.adapter.files import AdapterError
from lcm.formats.factors import Adapter, Factors, cancels, exact, gram, product_norm

ROUNDED = 2.0**-24
"""The largest relative error of one sum or product in float32."""
SAFE = (1e-8, 1e8)
"""Norms of a matrix whose numbers can be squared in float32: below, what becomes zero counts."""


def largest_difference(one: Adapter, other: Adapter, enough: float = 0.0) -> tuple[float, str]:
    """The largest difference between the deltas of a layer, relative to its norm, and the layer;
    0.0 where a bound proves of every layer that it is at most `enough`.

    Raises AdapterError when they have not the same layers.
    """
    if one.modules.keys() != other.modules.keys():
        first = sorted(one.modules.keys() ^ other.modules.keys())[0]
        raise AdapterError(
            f"{len(one.modules)} layers became {len(other.modules)}; the first that differs is "
            f"{first}"
        )
    worst = (0.0, "")
    for name, factors in one.modules.items():
        if not at_most(factors, other.modules[name]) <= enough:
            worst = max(worst, (difference(factors, other.modules[name]), name))
    return worst


def at_most(one: Factors, other: Factors) -> float:
    """What `difference` is not above, in a tenth of its time: from how much each factor changed,
    and from products in float32 less the most that they can be wrong by (Higham 2002, section 3.5).
    inf, or more than one would like, where that says little.

    (up + left)(down + right) - up down = left down + (up + left) right, and the Frobenius norm of
    `left` `down` is at most that of `left` times the largest singular value of `down`.
    """
    if is_same(one, other):
        return 0.0
    kinds = {tensor.dtype for f in (one, other) for tensor in (f.up, f.down)}
    if one.rank != other.rank or torch.float64 in kinds or not one.scale:
        return math.inf
    up, down = one.up.flatten(1).float(), one.down.flatten(1).float()
    outer, inner = gram(up).double(), gram(down.T).double()
    sizes = outer.trace().item() ** 0.5, inner.trace().item() ** 0.5
    if not all(SAFE[0] <= size <= SAFE[1] for size in sizes):
        return math.inf
    # what the products are wrong by at most, and the largest eigenvalues, not above the norms
    off_outer, off_inner = (
        1.1 * ROUNDED * max(matrix.shape) * size**2
        for matrix, size in ((up, sizes[0]), (down, sizes[1]))
    )
    most_outer, most_inner = outer.norm().item() + off_outer, inner.norm().item() + off_inner
    least = (outer * inner).sum().item() - off_outer * most_inner - off_inner * most_outer
    if not least > 0:
        return math.inf
    left = change(one.up, other.up, sizes[0], other.scale / one.scale)
    right = change(one.down, other.down, sizes[1])
    total = left * most_inner**0.5 + (most_outer**0.5 + left) * right
    return 1.01 * total / least**0.5


def change(one: Tensor, other: Tensor, size: float, ratio: float = 1.0) -> float:
    """What the Frobenius norm of `ratio` `other` - `one` is not above, where that of `one` is
    `size`.
    """
    if ratio == 1 and have_same_bits(one, other):
        return 0.0
    new = other.float() if ratio == 1 else other.float() * ratio
    return most_norm(new - one.float()) + 3 * ROUNDED * size


def most_norm(matrix: Tensor) -> float:
    """What the Frobenius norm of a matrix in float32 is not above."""
    lost = (matrix.numel() * torch.finfo(torch.float32).tiny) ** 0.5  # whose squares are zero
    return (1 + ROUNDED * matrix.numel()) * torch.linalg.vector_norm(matrix).item() + lost


def difference(one: Factors, other: Factors) -> float:
    """Frobenius norm of the difference of two deltas of one shape, relative to the first, in
    float64 and from matrices of rank x rank alone: no product is made, and nothing that the two
    have in common is subtracted.
    """
    if is_same(one, other):
        return 0.0
    rank = max(one.rank, other.rank)
    (up, down), (above, below) = in_double(one, rank), in_double(other, rank)
    left, right = above - up, below - down
    # of rounded factors the two are small: (up + left)(down + right) - up down
    #   = left down + (up + left) right
    squared, change = gram(down.T), gram(left)
    terms = [change * squared]
    if right.any():
        mixed = left.T @ up
        terms.append((gram(up) + mixed + mixed.T + change) * gram(right.T))
        terms.append(2 * (mixed + change) * (down @ right.T))
    total, size = (sum(t.sum().item() for t in each) for each in (terms, map(torch.abs, terms)))
    if cancels(total, size):
        both = torch.cat([up, -above], dim=1), torch.cat([down, below])
        return product_norm(*both) / max(product_norm(up, down), 1e-30)
    if math.isnan(total):
        return math.inf
    return max(total, 0.0) ** 0.5 / max(product_norm(up, down), 1e-30)


def is_same(one: Factors, other: Factors) -> bool:
    """Whether two layers have the same numbers bit by bit, as nearly always after writing."""
    pairs = ((one.up, other.up), (one.down, other.down))
    return one.alpha == other.alpha and all(have_same_bits(a, b) for a, b in pairs)


def have_same_bits(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(bits(one), bits(other))
    )


def bits(tensor: Tensor) -> Tensor:
    """A tensor's memory in pieces of 8 bytes, of which torch compares as many at a time as of
    numbers in half precision; as it is where they do not fill it.
    """
    flat = tensor.flatten()
    return flat if flat.nbytes % 8 else flat.view(torch.int64)


def in_double(factors: Factors, rank: int) -> tuple[Tensor, Tensor]:
    """alpha / rank `up` and `down` as matrices [out, rank] and [rank, in] in float64, with zeros
    where the rank is smaller.
    """
    more = rank - factors.rank
    up = factors.scale * exact(factors.up.flatten(1))
    down = exact(factors.down.flatten(1))
    if more:
        pad = torch.nn.functional.pad
        up, down = pad(up, (0, more)), pad(down, (0, 0, 0, more))
    return up, down
