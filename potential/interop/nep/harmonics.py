"""Real spherical harmonics of unit vectors, and the invariants of three of them.

Y_l0 = N z̃, Y_lm = N z̃ Re (x + iy)^m, Y_l(-m) = N z̃ Im (x + iy)^m, with z̃(z) monic, by the three-term recurrence of the associated
Legendre functions; N makes them orthonormal and is left for after the sums over neighbours. Order: l = 1 … l_max, within it
m = 0, then Re and Im of m = 1 … l.

The invariant of l1, l2, l3 with an even sum is Σ (l1 l2 l3; m1 m2 m3) A_l1m1 A_l2m2 A_l3m3 with Wigner's 3j symbols. But for a
factor that trilinear form is the integral of three harmonics over the sphere: here it is one, by exact quadrature.
"""

from __future__ import annotations

from functools import cache
from math import factorial, pi, prod, sqrt

import jax
import numpy as np

Array = jax.Array | np.ndarray


def harmonics(x: Array, y: Array, z: Array, l_max: int) -> list[Array]:
    """(l_max + 1)² − 1 functions without N, each in the shape of x, y, z."""
    powers = [(x, y)]  # Re and Im of (x + iy)^m, m = 1 …
    for _ in range(2, l_max + 1):
        re, im = powers[-1]
        powers.append((re * x - im * y, re * y + im * x))
    rows: dict[tuple[int, int], Array | float] = {}  # (l, m): z̃
    for m in range(l_max + 1):
        before: Array | float = 0.0
        rows[m, m] = 1.0
        for l in range(m + 1, l_max + 1):  # noqa: E741
            last, c = rows[l - 1, m], ((l - 1) ** 2 - m * m) / ((2 * l - 1) * (2 * l - 3))
            rows[l, m] = z if l == m + 1 else z * last - c * before
            before = last
    out: list[Array] = []
    for l in range(1, l_max + 1):  # noqa: E741
        out.append(rows[l, 0])  # type: ignore[arg-type]
        for m in range(1, l + 1):
            out += [w if l == m else rows[l, m] * w for w in powers[m - 1]]
    return out


@cache
def norms(l_max: int) -> np.ndarray:
    """N of every function, ((l_max + 1)² − 1,)."""
    out = []
    for l in range(1, l_max + 1):  # noqa: E741
        for m in range(l + 1):
            monic = factorial(2 * l) / (2**l * factorial(l) * factorial(l - m))
            n = monic * sqrt((2 * l + 1) / (4 * pi) * factorial(l - m) / factorial(l + m))
            out += [n] if m == 0 else [sqrt(2) * n] * 2
    return np.array(out)


@cache
def triple(l1: int, l2: int, l3: int) -> tuple[tuple[int, int, int, float], ...]:
    """Terms (a, b, c, factor) of the invariant Σ factor A_a A_b A_c; a, b, c count the functions of all l."""
    ls, top = (l1, l2, l3), max(l1, l2, l3)
    z, weight = np.polynomial.legendre.leggauss(sum(ls) // 2 + 1)
    phi = 2 * pi * np.arange(sum(ls) + 1) / (sum(ls) + 1)
    s = np.sqrt(1 - z * z)[:, None]
    y = np.stack(harmonics(s * np.cos(phi), s * np.sin(phi), z[:, None] + 0 * phi, top)) * norms(top)[:, None, None]
    grid = weight[:, None] * (2 * pi / len(phi))
    part = [y[l * l - 1 : (l + 1) ** 2 - 1] for l in ls]  # noqa: E741
    gaunt = np.einsum("azp,bzp,czp,zp->abc", *part, np.broadcast_to(grid, y.shape[1:]))
    gaunt /= sqrt(prod(2 * l + 1 for l in ls) / (4 * pi)) * _symbol_at_zero(*ls)  # noqa: E741
    terms: dict[tuple[int, int, int], float] = {}
    for index in np.argwhere(np.abs(gaunt) > 1e-12):
        a, b, c = sorted(int(i) + l * l - 1 for i, l in zip(index, ls, strict=True))  # noqa: E741
        terms[a, b, c] = terms.get((a, b, c), 0.0) + float(gaunt[tuple(index)])
    return tuple((*abc, f) for abc, f in terms.items())


def _symbol_at_zero(l1: int, l2: int, l3: int) -> float:
    """Wigner's 3j symbol (l1 l2 l3; 0 0 0) for an even sum (Racah's closed form)."""
    j = l1 + l2 + l3
    g = j // 2
    square = prod(factorial(j - 2 * l) for l in (l1, l2, l3)) / factorial(j + 1)  # noqa: E741
    return (-1) ** g * sqrt(square) * factorial(g) / prod(factorial(g - l) for l in (l1, l2, l3))  # noqa: E741
