"""Sums and shorter versions of low-rank matrices, from their factors: the products themselves are
never made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

import torch
from torch import Tensor

from lcm.formats.factors import Adapter, Factors, cast, exact, gram

WORST_CONDITION = 1e3
"""Of a matrix (Frobenius) whose square is still decomposed: of the 16 digits six are lost."""
WORST_INVERSE = 50.0
"""Norm (Frobenius) of the inverse of a triangle whose square, in float32, is wrong by 1e-7 of its
columns' norms: times the square of this, it is what its basis is not orthonormal by.
"""
FINEST_IN_SINGLE = 1e-2
"""Relative error below which squares in float32, wrong by 1e-7, do not tell its two digits."""

SMALLEST = 1e-8
"""Norm of a column whose numbers can be squared in float32."""


@dataclass(frozen=True)
class Spectrum:
    """A low-rank matrix as (`up` `left`) diag(s) (`right` `down`), whose outer parts have
    orthonormal columns and rows: `up` [out, m] and `down` [m', in] in any precision, `left` [m, n],
    `s` [n] falling and `right` [n, m'] in float64; the layer's shape; and the precision in which
    all this is right.
    """

    up: Tensor
    left: Tensor
    s: Tensor
    right: Tensor
    down: Tensor
    shape: tuple[int, ...]
    precision: torch.dtype = torch.float64

    def error(self, rank: int) -> float:
        """Relative Frobenius error of the best matrix of this rank: what is left of s (Eckart and
        Young 1936).
        """
        total = self.s.norm().item()
        return self.s[rank:].norm().item() / total if total else 0.0

    def is_too_coarse(self, rank: int) -> bool:
        """Whether the precision does not tell the error of this rank."""
        is_cut = rank < len(self.s) and self.precision is not torch.float64
        return is_cut and self.error(rank) < FINEST_IN_SINGLE

    def rank_for(self, error: float) -> int:
        """The smallest rank with at most this error."""
        return next(
            rank
            for rank in range(1, len(self.s) + 1)
            if rank == len(self.s) or self.error(rank) <= error
        )

    def cut(self, rank: int) -> Factors:
        """The best factors of this rank, alpha = rank, float32; zeros where the matrix has less."""
        root = self.s[:rank].sqrt()
        # narrow products are several times as fast with the narrow matrix to the left
        mixes = (self.left[:, :rank] * root).T.contiguous(), root[:, None] * self.right[:rank]
        up, down = (
            (mix.to(self.precision) @ cast(matrix, self.precision)).float()
            for mix, matrix in zip(mixes, (self.up.T, self.down), strict=True)
        )
        up = up.T.contiguous()
        factors = Factors(down, up, float(len(root)))
        factors = factors.padded(rank, float(rank)) if len(root) < rank else factors
        tail = (1,) * (len(self.shape) - 2)
        return Factors(
            factors.down.reshape(rank, *self.shape[1:]),
            factors.up.reshape(-1, rank, *tail),
            factors.alpha,
        )


def check_same_layer(name: str, terms: Sequence[tuple[float, Factors]]) -> None:
    """Raises ValueError where the layers of a sum have different shapes."""
    shapes = {(len(f.up), *f.down.shape[1:]) for _, f in terms}
    if len(shapes) > 1:
        raise ValueError(
            f"{name} is not the same layer in all adapters: its shapes differ: "
            f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}; they were made for "
            "different models"
        )


def joined(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """The sum of weight * delta as factors of the summed rank, alpha = rank. `up` is float32, and
    `down` of the widest precision: its numbers stay as they are.
    """
    up = torch.cat([weight * f.scale * f.up.float() for weight, f in terms], dim=1)
    down = torch.cat([f.down for _, f in terms])
    return Factors(down, up, float(len(down)))


def spectrum(factors: Factors) -> Spectrum:
    """The spectrum of the delta: of both factors a basis with orthonormal columns, then an SVD of a
    matrix of rank x rank, in float64.
    """
    up, down = factors.up.flatten(1), factors.down.flatten(1)
    outer, left, above = orthonormal(up)
    inner, right, below = orthonormal(down.T)
    u, s, v = torch.linalg.svd(factors.scale * above @ below.T, full_matrices=False)
    shape = (len(factors.up), *factors.down.shape[1:])
    return Spectrum(outer, left @ u, s, v @ right.T, inner.T, shape)


def quick_spectrum(factors: Factors, rank: int | None) -> Spectrum | None:
    """The spectrum in float32, in a third of the time, with what a cut to `rank` needs; None where
    that is not enough: for files of more than 16 bits, and rows that are hard to tell apart.

    With `down` = L Q, Q of orthonormal rows, the squared singular values of `up` L are eigenvalues
    of L' (`up`' `up`) L.
    """
    up, down = factors.up.flatten(1), factors.down.flatten(1)
    if down.element_size() > 2 or up.element_size() > 4:
        return None
    # of a known rank the cut comes next
    wide_up, wide_down = up.float(), down.float()
    square = gram(wide_down.T).double()
    norms = square.diagonal().sqrt()
    if not norms.min() > SMALLEST:
        return None
    lower, failure = torch.linalg.cholesky_ex(square / norms.outer(norms))
    if failure:
        return None
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(norms)).double(), upper=False)
    if not inverse.norm() <= WORST_INVERSE:
        return None
    lower = norms[:, None] * lower
    inner = lower.T @ gram(wide_up).double() @ lower
    values, vectors = (found.double() for found in torch.linalg.eigh(inner.float()))
    values, vectors = values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)[:, :rank]
    if not values[0] > SMALLEST:
        return None
    norms_of_left = values[:rank].clamp(min=1e-9 * values[0]) * math.copysign(1, factors.scale)
    return Spectrum(
        up if rank is None else wide_up,
        lower @ vectors / norms_of_left,
        abs(factors.scale) * values,
        vectors.T @ inverse / norms,
        down if rank is None else wide_down,
        (len(factors.up), *factors.down.shape[1:]),
        torch.float32,
    )


def orthonormal(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`basis` [rows, m], `mix` [m, n] and `triangle` [n, rank]: the columns of `basis` `mix` are
    orthonormal, and `basis` `mix` `triangle` is the `matrix` [rows, rank]. In float64 but for
    `basis`.

    Where its columns are independent, the basis is the matrix itself, and a Cholesky decomposition
    of what is rank x rank says the rest (Yamamoto et al. 2015); it squares the condition, so that
    other matrices are decomposed by QR.
    """
    columns = exact(matrix)
    squares = columns.T @ columns
    norms = squares.diagonal().sqrt()
    if norms.min() > 0:  # their scales do not count
        triangle, failure = torch.linalg.cholesky_ex(squares / norms.outer(norms), upper=True)
        if not failure:
            identity = torch.eye(len(norms), dtype=torch.float64)
            inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
            if triangle.norm() * inverse.norm() <= WORST_CONDITION:
                return matrix, inverse / norms[:, None], triangle * norms
    basis, triangle = torch.linalg.qr(columns)
    return basis.float(), torch.eye(basis.shape[1], dtype=torch.float64), triangle


def cut_all(
    adapter: Adapter, layers: Iterable[tuple[str, Factors]], rank: int | None, error: float | None
) -> tuple[Adapter, str]:
    """Every layer at one rank, given or the smallest that keeps every layer's error, and a line
    about the errors.
    """
    quick = rank is not None or (error or 0.0) >= FINEST_IN_SINGLE
    spectra: Iterable[tuple[str, Factors, Spectrum]] = (
        (name, factors, (quick_spectrum(factors, rank) if quick else None) or spectrum(factors))
        for name, factors in layers
    )
    if rank is None:
        spectra = list(spectra)
        rank = max(found.rank_for(error or 0.0) for _, _, found in spectra)
    modules, errors = {}, {}
    for name, factors, quickly in spectra:
        found = spectrum(factors) if quickly.is_too_coarse(rank) else quickly
        modules[name], errors[name] = found.cut(rank), found.error(rank)
    worst = max(errors, key=errors.__getitem__)
    line = (
        f"relative error of a layer (Frobenius): median {median_low(errors.values()):.2g}, largest "
        f"{errors[worst]:.2g} in {worst}"
    )
    return adapter.with_modules(modules), line


def shrink(adapter: Adapter, rank: int | None, error: float | None) -> tuple[Adapter, str]:
    """Every layer at `rank`, or at the smallest one with at most `error`. Raises ValueError for one
    that does not shrink.
    """
    largest = max(factors.rank for factors in adapter.modules.values())
    if rank is not None and not 1 <= rank <= largest:
        raise ValueError(
            f"--rank {rank}: the adapter has rank {largest}; pass a number from 1 to {largest}"
        )
    if error is not None and not 0 <= error < 1:
        raise ValueError(f"--error {error}: pass a fraction of the layers' norm, as 0.05")
    return cut_all(adapter, adapter.modules.items(), rank, error)


def add(
    adapters: Sequence[Adapter], weights: Sequence[float], rank: int | None
) -> tuple[Adapter, str]:
    """The weighted sum. Without `rank`, or with one that holds all, factors are joined and the sum
    is exact; else it is cut.

    Raises ValueError where a layer has different shapes in two adapters, or for a rank below 1.
    """
    terms: dict[str, list[tuple[float, Factors]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, factors in adapter.modules.items():
            terms.setdefault(name, []).append((weight, factors))
    for name, found in terms.items():
        check_same_layer(name, found)
    largest = max(sum(factors.rank for _, factors in found) for found in terms.values())
    if rank is not None and rank < 1:
        raise ValueError(f"--rank {rank}: pass a positive integer")
    # the sums are as large as all adapters in float32: one layer at a time, where that will do
    layers = ((name, joined(found)) for name, found in terms.items())
    if rank is not None and rank < largest:
        return cut_all(adapters[0], layers, rank, None)
    return (
        adapters[0].with_modules(dict(layers)),
        f"the sum is exact: rank {largest} holds all ranks",
    )
