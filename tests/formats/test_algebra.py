"""Differences, sums and shorter versions of factors are those of the products, multiplied out in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.formats.algebra import add, orthonormal, quick_spectrum, shrink, spectrum
from lcm.formats.closeness import at_most, difference, largest_difference
from lcm.formats.factors import Adapter, Factors

NAME = "unet.mid_block.attentions.0.proj_in"


def delta(factors: Factors) -> Tensor:
    """[out, in * k * k], in float64."""
    product = factors.up.flatten(1).double() @ factors.down.flatten(1).double()
    return factors.alpha / len(factors.down) * product


def drawn(
    rank: int, *tail: int, alpha: float = 2.0, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Factors:
    """Of a layer [24, 36, *tail]."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, 36, *tail, generator=generator).to(dtype)
    up = torch.randn(24, rank, *(1,) * len(tail), generator=generator).to(dtype)
    return Factors(down, up, alpha)


def repeated(factors: Factors) -> Factors:
    """Rank-deficient: every direction twice, and one of zeros."""
    zeros = torch.zeros_like(factors.down[:1])
    return Factors(
        torch.cat([factors.down, factors.down, zeros]),
        torch.cat([factors.up, factors.up, factors.up[:, :1]], dim=1),
        factors.alpha,
    )


def nearly_repeated(factors: Factors) -> Factors:
    """Columns of which a product of the matrix with itself tells nothing apart."""
    return Factors(
        torch.cat([factors.down, 2 * factors.down]),
        torch.cat([factors.up, factors.up * (1 + 1e-7) + 1e-6], dim=1),
        factors.alpha,
    )


def of_many_scales(factors: Factors, powers: int) -> Factors:
    scales = torch.logspace(-powers, powers, factors.rank)
    tail = (1,) * (factors.down.dim() - 1)
    down = factors.down * scales.view(-1, *tail)
    return Factors(down, (factors.up.transpose(0, 1) / scales.view(-1, *tail)).transpose(0, 1), 3.0)


def nothing(factors: Factors) -> Factors:
    return Factors(factors.down, torch.zeros_like(factors.up), 1.0)


LAYERS: dict[str, Factors] = {
    "rank 1": drawn(1),
    "rank 5": drawn(5),
    "alpha below 0": drawn(5, alpha=-7.5),
    "half": drawn(5, dtype=torch.float16),
    "bfloat16": drawn(5, dtype=torch.bfloat16),
    "double": drawn(5, dtype=torch.float64),
    "1 x 1": drawn(4, 1, 1),
    "3 x 3": drawn(4, 3, 3),
    "more than the layer has": drawn(40),
    "repeated": repeated(drawn(4)),
    "repeated 3 x 3": repeated(drawn(4, 3, 3)),
    "nearly repeated": nearly_repeated(drawn(4)),
    "many scales": of_many_scales(drawn(6), 3),
    "many scales 3 x 3": of_many_scales(drawn(6, 3, 3), 6),
    "nothing": nothing(drawn(3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_shorter_version_is_the_best_there_is(name: str, rank: int) -> None:
    whole = LAYERS[name]
    found = spectrum(whole)
    expected = torch.linalg.svd(delta(whole), full_matrices=False)
    size = max(float(expected.S[0]), 1e-30)
    count = min(len(found.s), len(expected.S))
    assert torch.allclose(found.s[:count], expected.S[:count], atol=1e-7 * size)
    cut = found.cut(rank)
    best = expected.U[:, :rank] * expected.S[:rank] @ expected.Vh[:rank]
    assert (cut.rank, cut.alpha) == (rank, float(rank))
    assert (cut.down.shape[1:], cut.up.shape[2:]) == (whole.down.shape[1:], whole.up.shape[2:])
    assert (delta(cut) - best).norm() <= 1e-6 * size
    left = expected.S[rank:].norm() / max(expected.S.norm().item(), 1e-30)
    assert found.error(rank) == pytest.approx(float(left), abs=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_its_bases_are_orthonormal(name: str) -> None:
    matrix = LAYERS[name].up.flatten(1)
    basis, mix, triangle = orthonormal(matrix)
    columns = basis.double() @ mix
    assert torch.allclose(columns.T @ columns, torch.eye(columns.shape[1]).double(), atol=1e-6)
    assert torch.allclose(columns @ triangle, matrix.double(), rtol=1e-6, atol=1e-6)


def of_file(
    rank: int, *tail: int, dtype: torch.dtype = torch.float16, fall: float = 1.0
) -> Factors:
    """What a file in half precision has: singular values of the delta that fall by `fall` each, as
    those of a trained one.
    """
    factors = drawn(rank, *tail)
    scales = fall ** torch.arange(rank)
    down = factors.down * 0.02
    return Factors(
        down.to(dtype), (factors.up * scales.view(-1, *(1,) * len(tail))).to(dtype), -2.0
    )


FILES: dict[str, Factors] = {
    "half": of_file(12),
    "bfloat16": of_file(12, dtype=torch.bfloat16),
    "3 x 3": of_file(12, 3, 3),
    "falling": of_file(12, fall=0.5),
    "falling steeply": of_file(12, fall=0.05),
    "repeated": repeated(of_file(5)),
    "with nothing": nothing(of_file(5)),
    "tiny": Factors(of_file(4).down * 1e-4, of_file(4).up * 1e-4, 1.0),
    "more than the layer has": of_file(40),
}


@pytest.mark.parametrize("rank", [1, 4, 11, 12])
@pytest.mark.parametrize("name", FILES)
def test_what_is_cut_from_a_file_is_as_good(name: str, rank: int) -> None:
    """In float32 where that tells the error to two digits, and else in float64."""
    whole = FILES[name]
    rank = min(rank, whole.rank)
    cut, said = shrink(Adapter({NAME: whole}), rank, None)
    exact = delta(whole)
    s = torch.linalg.svdvals(exact)
    size = max(float(s.norm()), 1e-30)
    best = float(s[rank:].norm()) / size
    reached = float((delta(cut.modules[NAME]) - exact).norm()) / size
    assert best - 1e-6 <= reached <= 1.001 * best + 1e-6
    median = float(said.split("median ")[1].split(",")[0])
    assert median == pytest.approx(best, rel=0.06, abs=1e-6)


def test_a_spectrum_in_float32_is_refused_where_it_says_little() -> None:
    refused = {name for name, factors in FILES.items() if quick_spectrum(factors, None) is None}
    assert refused == {"repeated", "with nothing", "tiny", "more than the layer has"}
    assert all(quick_spectrum(LAYERS[name], None) is None for name in ("rank 5", "double"))
    steep = quick_spectrum(FILES["falling steeply"], None)
    assert steep is not None and steep.is_too_coarse(4) and not steep.is_too_coarse(1)


def rounded(factors: Factors) -> Factors:
    return factors.to(torch.float16)


def moved(factors: Factors) -> Factors:
    """The same product in other factors."""
    scales = torch.logspace(-2, 2, factors.rank, dtype=torch.float64)
    tail = (1,) * (factors.down.dim() - 1)
    down = factors.down.double() * scales.view(-1, *tail)
    up = (factors.up.double().transpose(0, 1) / scales.view(-1, *tail)).transpose(0, 1)
    return Factors(down, up, factors.alpha)


def turned(factors: Factors) -> Factors:
    q = torch.linalg.qr(torch.randn(factors.rank, factors.rank).double())[0]
    down = torch.einsum("rs,s...->r...", q, factors.down.double())
    up = torch.einsum("os...,rs->or...", factors.up.double(), q)
    return Factors(down, up, factors.alpha)


CHANGES: dict[str, Callable[[Factors], Factors]] = {
    "none": lambda f: f,
    "rounded": rounded,
    "padded": lambda f: f.padded(f.rank + 3, 5.0),
    "one number": lambda f: Factors(f.down.index_fill(0, torch.tensor([0]), 0.5), f.up, f.alpha),
    "another alpha": lambda f: Factors(f.down, f.up, 1.25 * f.alpha),
    "another matrix": lambda f: drawn(3, *f.down.shape[2:], seed=9),
    "scaled to and fro": moved,
    "turned": turned,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("nothing", "many scales 3 x 3")])
def test_a_difference_is_that_of_the_products(name: str, change: str) -> None:
    torch.manual_seed(0)
    one = LAYERS[name]
    other = CHANGES[change](one)
    for a, b in ((one, other), (other, one)):
        expected = float((delta(a) - delta(b)).norm() / delta(a).norm())
        if not isfinite(expected):  # too large for half precision
            assert difference(a, b) == inf
        else:
            assert difference(a, b) == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert at_most(a, b) >= expected * (1 - 1e-9)
    if change == "none":
        assert difference(one, other) == 0.0


def test_nothing_differs_from_something_and_numbers_beyond_all_differ() -> None:
    none, some = nothing(drawn(3)), drawn(3)
    assert difference(none, nothing(drawn(3, seed=4))) == 0.0
    assert difference(none, some) > 1e20
    assert difference(some, none) == pytest.approx(1.0)
    broken = Factors(some.down, some.up * float("nan"), 1.0)
    assert difference(some, broken) == difference(broken, some) == float("inf")


def test_the_worst_layer_is_named() -> None:
    one = Adapter({"unet.a": drawn(2), "unet.b": drawn(2)})
    other = Adapter({"unet.a": drawn(2), "unet.b": drawn(2, alpha=3.0)})
    size, name = largest_difference(one, other)
    assert name == "unet.b" and size == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 layers became 1"):
        largest_difference(one, Adapter({"unet.a": drawn(2)}))


@pytest.mark.parametrize("rank", [None, 2, 6, 50])
@pytest.mark.parametrize("name", ["rank 5", "half", "3 x 3", "repeated", "many scales"])
def test_a_sum_is_that_of_the_products(name: str, rank: int | None) -> None:
    one = LAYERS[name]
    other = drawn(3, *one.down.shape[2:], alpha=-1.0, seed=5)
    weights = (0.5, -1.5)
    terms: Any = [Adapter({NAME: one}), Adapter({NAME: other})]
    merged, said = add(terms, weights, rank)
    expected = weights[0] * delta(one) + weights[1] * delta(other)
    holds_all = rank is None or rank >= one.rank + other.rank
    if not holds_all:
        u, s, v = torch.linalg.svd(expected, full_matrices=False)
        expected = u[:, :rank] * s[:rank] @ v[:rank]
    assert (delta(merged.modules[NAME]) - expected).norm() <= 1e-6 * expected.norm()
    assert said.startswith("the sum is exact") == holds_all


def test_two_nearly_equal_adapters_leave_their_difference() -> None:
    """Sums that cancel are those where a squared condition would lose everything."""
    one, change = drawn(4), drawn(4, seed=3)
    other = Factors(one.down, one.up + 1e-5 * change.up, one.alpha)
    merged, _ = add([Adapter({NAME: one}), Adapter({NAME: other})], (1.0, -1.0), 4)
    expected = delta(one) - delta(other)
    assert (delta(merged.modules[NAME]) - expected).norm() <= 1e-5 * expected.norm()


def test_the_smallest_rank_within_an_error() -> None:
    whole = LAYERS["rank 5"]
    s = torch.linalg.svdvals(delta(whole))
    between = float((s[3:].norm() + s[2:].norm()) / 2 / s.norm())
    small, _ = shrink(Adapter({NAME: whole}), None, between)
    assert small.modules[NAME].rank == 3


ROUNDED_TO = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("dtype", ROUNDED_TO)
@pytest.mark.parametrize("name", ["half", "bfloat16", "3 x 3", "falling"])
def test_a_bound_alone_proves_that_rounding_is_all(name: str, dtype: torch.dtype) -> None:
    one = FILES[name]
    other = one.to(torch.float32).to(dtype)
    expected = float((delta(one) - delta(other)).norm() / delta(one).norm())
    assert expected <= at_most(one, other) <= 12 * ROUNDED_TO[dtype]
    enough = at_most(one, other)
    pair = Adapter({NAME: one}), Adapter({NAME: other})
    assert largest_difference(*pair, enough) == (0.0, "")
    if expected:
        found, _ = largest_difference(*pair, 0.9 * expected)
        assert found == pytest.approx(expected, rel=1e-4)


def test_no_bound_hides_a_change() -> None:
    """Sums that cancel, numbers that are lost in float32, and other strengths."""
    one = FILES["half"]
    for other in (
        Factors(one.down, one.up, 1.01 * one.alpha),
        Factors(one.down, one.up, -one.alpha),
        Factors(one.down.flip(0), one.up, one.alpha),
        Factors(one.down, one.up * float("nan"), one.alpha),
        Factors(one.down, one.up * float("inf"), one.alpha),
    ):
        assert not at_most(one, other) <= 5e-3
    ups = torch.cat([one.up, -0.999 * one.up], dim=1)
    cancelling = Factors(torch.cat([one.down, one.down]), ups, 1.0)
    assert not at_most(cancelling, cancelling.to(torch.bfloat16)) <= 3e-2
    small = Factors(1e-25 * one.down.float(), 1e-25 * one.up.float(), 1.0)
    assert not at_most(small, Factors(small.down, 2 * small.up, 1.0)) <= 0.5
