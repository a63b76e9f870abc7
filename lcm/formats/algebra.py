"""Sums and shorter versions of low-rank matrices, from their factors: the products themselves are never made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.formats.adapter import Factors


@dataclass(frozen=True)
class Spectrum:
    """A sum of low-rank matrices as u diag(s) v: `u` [out, n], `s` [n] falling, `v` [n, in], float32; and the layer's shape."""

    u: Tensor
    s: Tensor
    v: Tensor
    shape: tuple[int, ...]

    def error(self, rank: int) -> float:
        """Relative Frobenius error of the best matrix of this rank: what is left of s (Eckart and Young 1936)."""
        total = self.s.norm().item()
        return self.s[rank:].norm().item() / total if total else 0.0

    def rank_for(self, error: float) -> int:
        """The smallest rank with at most this error."""
        return next(rank for rank in range(1, len(self.s) + 1) if rank == len(self.s) or self.error(rank) <= error)

    def cut(self, rank: int, dtype: torch.dtype) -> Factors:
        """The best factors of this rank, alpha = rank; zeros where the matrix has less."""
        root = self.s[:rank].sqrt()
        up, down = self.u[:, :rank] * root, root[:, None] * self.v[:rank]
        factors = Factors(down, up, float(len(root)))
        factors = factors.padded(rank, float(rank)) if len(root) < rank else factors
        tail = (1,) * (len(self.shape) - 2)
        return Factors(
            factors.down.reshape(rank, *self.shape[1:]).to(dtype), factors.up.reshape(-1, rank, *tail).to(dtype), factors.alpha
        )


def joined(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """The sum of weight * delta as factors of the summed rank, alpha = rank, float32. Exact.

    Raises ValueError when the layers have different shapes.
    """
    shapes = {(len(f.up), *f.down.shape[1:]) for _, f in terms}
    if len(shapes) > 1:
        raise ValueError(f"its shapes differ: {' and '.join(str(list(shape)) for shape in sorted(shapes))}")
    up = torch.cat([weight * f.scale * f.up.float() for weight, f in terms], dim=1)
    down = torch.cat([f.down.float() for _, f in terms])
    return Factors(down, up, float(len(down)))


def spectrum(factors: Factors) -> Spectrum:
    """Of the delta: QR of both factors, then an SVD of a matrix of rank x rank, in float64."""
    up, down = factors.scale * factors.up.flatten(1).double(), factors.down.flatten(1).double()
    left, above = torch.linalg.qr(up)
    right, below = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(above @ below.T, full_matrices=False)
    return Spectrum((left @ u).float(), s.float(), (v @ right.T).float(), (len(factors.up), *factors.down.shape[1:]))
