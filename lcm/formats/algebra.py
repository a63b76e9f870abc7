"""Sums and shorter versions of low-rank matrices, from their factors: the products themselves are
never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.formats.factors import Adapter, Factors


@dataclass(frozen=True)
class Spectrum:
    """A sum of low-rank matrices as u diag(s) v: `u` [out, n], `s` [n] falling, `v` [n, in],
    float32; and the layer's shape.
    """

    u: Tensor
    s: Tensor
    v: Tensor
    shape: tuple[int, ...]

    def error(self, rank: int) -> float:
        """Relative Frobenius error of the best matrix of this rank: what is left of s (Eckart and
        Young 1936).
        """
        total = self.s.norm().item()
        return self.s[rank:].norm().item() / total if total else 0.0

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
        up, down = self.u[:, :rank] * root, root[:, None] * self.v[:rank]
        factors = Factors(down, up, float(len(root)))
        factors = factors.padded(rank, float(rank)) if len(root) < rank else factors
        tail = (1,) * (len(self.shape) - 2)
        return Factors(
            factors.down.reshape(rank, *self.shape[1:]),
            factors.up.reshape(-1, rank, *tail),
            factors.alpha,
        )


def joined(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """The sum of weight * delta as factors of the summed rank, alpha = rank, float32. Exact.

    Raises ValueError when the layers have different shapes.
    """
    shapes = {(len(f.up), *f.down.shape[1:]) for _, f in terms}
    if len(shapes) > 1:
        raise ValueError(
            f"its shapes differ: {' and '.join(str(list(shape)) for shape in sorted(shapes))}"
        )
    up = torch.cat([weight * f.scale * f.up.float() for weight, f in terms], dim=1)
    down = torch.cat([f.down.float() for _, f in terms])
    return Factors(down, up, float(len(down)))


def spectrum(factors: Factors) -> Spectrum:
    """The spectrum of the delta: QR of both factors, then an SVD of a matrix of rank x rank, in
    float64.
    """
    up, down = factors.scale * factors.up.flatten(1).double(), factors.down.flatten(1).double()
    left, above = torch.linalg.qr(up)
    right, below = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(above @ below.T, full_matrices=False)
    return Spectrum(
        (left @ u).float(),
        s.float(),
        (v @ right.T).float(),
        (len(factors.up), *factors.down.shape[1:]),
    )


def cut_all(adapter: Adapter, rank: int | None, error: float | None) -> tuple[Adapter, str]:
    """Every layer at one rank, given or the smallest that keeps every layer's error, and a line
    about the errors.
    """
    spectra = {name: spectrum(factors) for name, factors in adapter.modules.items()}
    if rank is None:
        rank = max(found.rank_for(error or 0.0) for found in spectra.values())
    errors = torch.tensor([found.error(rank) for found in spectra.values()])
    worst = list(spectra)[int(errors.argmax())]
    line = (
        f"relative error of a layer (Frobenius): median {errors.median():.2g}, largest "
        f"{errors.max():.2g} in {worst}"
    )
    return adapter.with_modules({name: found.cut(rank) for name, found in spectra.items()}), line


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
    return cut_all(adapter, rank, error)


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
    modules = {}
    for name, found in terms.items():
        try:
            modules[name] = joined(found)
        except ValueError as error:
            raise ValueError(
                f"{name} is not the same layer in all adapters: {error}; they were made for "
                "different models"
            ) from error
    largest = max(factors.rank for factors in modules.values())
    if rank is not None and rank < 1:
        raise ValueError(f"--rank {rank}: pass a positive integer")
    merged = adapters[0].with_modules(modules)
    if rank is not None and rank < largest:
        merged, line = cut_all(merged, rank, None)
    else:
        line = f"the sum is exact: rank {largest} holds all ranks"
    return merged, line
