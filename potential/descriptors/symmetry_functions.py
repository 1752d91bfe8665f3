"""Atom-centred symmetry functions of Behler and Parrinello (Behler, J. Chem. Phys. 134, 074106 (2011)).

    G2_i = Σ_j exp(−η (r_ij − r_s)²) f_c(r_ij)
    G5_i = 2^(1−ζ) Σ_{j<k} (1 + λ cos θ_jik)^ζ g(r_ij) g(r_ik),          g(r) = exp(−η (r − r_s)²) f_c(r)
    G4_i = as G5, each term times exp(−η r_jk²) f_c(r_jk)                  (g with r_s = 0)

one G2 per element of j, one G4/G5 per pair of elements of j and k. For integer ζ the binomial theorem and
cos θ = û_j·û_k turn G5's double sum into squares of single sums (moment tensors), so its cost is linear in the number of
neighbours; G4 and other ζ go through explicit triplets (`triplets.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adatom.potential.cutoffs import cosine_cutoff, smooth_step_down
from adatom.potential.descriptors.triplets import triplet_sums
from adatom.potential.geometry import distances

Array = jax.Array
MAX_MOMENT_ZETA = 6


class Radial(NamedTuple):
    """One G2: eta 1/Å², shift r_s Å."""

    eta: float
    shift: float


class Angular(NamedTuple):
    """One G4 (narrow) or G5 (wide): eta 1/Å², shift r_s Å, exponent zeta, sign lambda (±1)."""

    eta: float
    shift: float
    zeta: float
    sign: float


class SymmetryFunctionsConfig(BaseModel):
    """Which symmetry functions. Explicit `radial` and `angular` lists win over the automatic, well-spread sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    standardise: ClassVar[Literal["each", "together"]] = "each"

    type: Literal["symmetry_functions"] = "symmetry_functions"
    cutoff: Annotated[float, Field(gt=0.5, le=30.0, description="Å")] = 5.5
    cutoff_function: Literal["polynomial", "cosine"] = "polynomial"
    n_radial: Annotated[int, Field(ge=1, le=200, description="automatic set: shifted Gaussians")] = 16
    n_angular: Annotated[int, Field(ge=0, le=50, description="automatic set: radial widths of the angular functions")] = 8
    zetas: tuple[Annotated[float, Field(ge=1.0, le=64.0)], ...] = (1.0, 2.0, 4.0)
    angular_kind: Literal["wide", "narrow"] = "wide"
    radial: tuple[Radial, ...] = ()
    angular: tuple[Angular, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> SymmetryFunctionsConfig:
        for eta in [f.eta for f in self.radial] + [f.eta for f in self.angular]:
            if eta < 0:
                raise ValueError(f"eta must not be negative, got {eta}")
        for f in self.angular:
            if f.sign not in (1.0, -1.0) or f.zeta < 1:
                raise ValueError(f"an angular function needs sign ±1 and zeta ≥ 1, got sign {f.sign}, zeta {f.zeta}")
        if self.angular_kind == "narrow" and any(f.shift for f in self.angular):
            raise ValueError("narrow (G4) angular functions have no shift")
        return self

    def radial_set(self) -> tuple[Radial, ...]:
        """Given, or Gaussians at equal distances from 0.8 Å to the cutoff, each as wide as their distance."""
        if self.radial:
            return self.radial
        centres = np.linspace(0.8, self.cutoff, self.n_radial + 1)[:-1]
        width = centres[1] - centres[0] if self.n_radial > 1 else self.cutoff / 2
        return tuple(Radial(0.5 / float(width) ** 2, float(c)) for c in centres)

    def angular_set(self) -> tuple[Angular, ...]:
        """Given, or for each of `n_angular` Gaussians all of `zetas` with both signs.

        Wide functions take shifted Gaussians, every other centred at the atom with growing width (Imbalzano et al.,
        J. Chem. Phys. 148, 241730 (2018), mix both kinds); narrow ones are all centred.
        """
        if self.angular or not self.n_angular:
            return self.angular
        reach = np.geomspace(1.2, self.cutoff, self.n_angular + 1)[:-1]
        if self.angular_kind == "narrow":
            shells = [(0.5 / float(w) ** 2, 0.0) for w in reach]
        else:
            n_centred = (self.n_angular + 1) // 2
            centred = [(0.5 / float(w) ** 2, 0.0) for w in np.geomspace(1.2, 0.7 * self.cutoff, n_centred)]
            centres = np.linspace(1.2, self.cutoff, self.n_angular - n_centred + 2)[:-1]
            width = float(centres[1] - centres[0]) if len(centres) > 1 else 1.0
            shells = centred + [(0.5 / width**2, float(c)) for c in centres[: self.n_angular - n_centred]]
        return tuple(Angular(eta, rs, z, sign) for eta, rs in shells for z in self.zetas for sign in (1.0, -1.0))

    def n_features(self, n_species: int) -> int:
        return n_species * len(self.radial_set()) + n_species * (n_species + 1) // 2 * len(self.angular_set())


class SymmetryFunctions(nn.Module):
    """No parameters. (3, n, k) vectors -> (n, features)."""

    config: SymmetryFunctionsConfig

    def __call__(self, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        c = self.config
        r = distances(vectors)
        fc = cosine_cutoff(r, c.cutoff) if c.cutoff_function == "cosine" else smooth_step_down(r, 0.0, c.cutoff)
        parts = sections(slots)
        radial = c.radial_set()
        g = _gaussians(r, fc, [(f.eta, f.shift) for f in radial])
        features = [g[:, :, s].sum(axis=-1).T for s in parts]
        angular = c.angular_set()
        if angular:
            moments = c.angular_kind == "wide" and all(f.zeta == int(f.zeta) <= MAX_MOMENT_ZETA for f in angular)
            evaluate = _wide_by_moments if moments else triplet_sums
            features += evaluate(vectors, r, fc, parts, angular, c)
        return jnp.concatenate(features, axis=1)


def sections(slots: Sequence[int]) -> list[slice]:
    """The columns of every species."""
    stops = np.cumsum(slots)
    return [slice(int(b) - n, int(b)) for n, b in zip(slots, stops, strict=True)]


def _gaussians(r: Array, fc: Array, shells: Sequence[tuple[float, float]]) -> Array:
    """exp(−η (r − r_s)²) f_c for every shell: (n, k) -> (shells, n, k)."""
    eta = jnp.asarray([s[0] for s in shells], dtype=r.dtype)[:, None, None]
    shift = jnp.asarray([s[1] for s in shells], dtype=r.dtype)[:, None, None]
    x = r[None] - shift
    return jnp.exp(-eta * x * x) * fc[None]


def monomials(order: int) -> list[tuple[int, int, int]]:
    """Exponents (a, b, c) with a + b + c ≤ order, by degree."""
    return [(a, b, k - a - b) for k in range(order + 1) for a in range(k, -1, -1) for b in range(k - a, -1, -1)]


def _wide_by_moments(
    vectors: Array,
    r: Array,
    fc: Array,
    parts: Sequence[slice],
    functions: Sequence[Angular],
    config: SymmetryFunctionsConfig,
) -> list[Array]:
    """G5 of integer ζ: Σ_jk g_j g_k (û_j·û_k)^p = Σ_{a+b+c=p} p!/(a! b! c!) M_abc², M_abc = Σ_j g_j x_j^a y_j^b z_j^c."""
    shells = sorted({(f.eta, f.shift) for f in functions})
    order = int(max(f.zeta for f in functions))
    powers = monomials(order)
    g = _gaussians(r, fc, shells)
    y = unit_monomials(vectors / r[None], order)
    # weight of monomial m in function f, and of the term j = k, which is no pair of neighbours
    weight = np.zeros((len(shells), len(powers), len(functions)))
    own = np.zeros((len(shells), len(functions)))
    for q, f in enumerate(functions):
        s, zeta = shells.index((f.eta, f.shift)), int(f.zeta)
        own[s, q] = 2.0 ** (1 - zeta) * (1.0 + f.sign) ** zeta
        for m, abc in enumerate(powers):
            p = sum(abc)
            multinomial = factorial(p) / np.prod([factorial(e) for e in abc])
            weight[s, m, q] = 2.0 ** (1 - zeta) * comb(zeta, p) * f.sign**p * multinomial
    w, w_own = jnp.asarray(weight, dtype=r.dtype), jnp.asarray(own, dtype=r.dtype)
    moments = [jnp.einsum("snk,mnk->nsm", g[:, :, t], y[:, :, t]) for t in parts]
    features = []
    for t in range(len(parts)):
        for u in range(t, len(parts)):
            value = jnp.einsum("nsm,smq->nq", moments[t] * moments[u], w)
            if t == u:
                squares = g[:, :, parts[t]]
                value = 0.5 * (value - jnp.einsum("sn,sq->nq", (squares * squares).sum(axis=-1), w_own))
            features.append(value)
    return features


def unit_monomials(u: Array, order: int) -> Array:
    """x^a y^b z^c of unit vectors (3, n, k) in the order of `monomials`: (monomials, n, k).

    Degree p + 1 is x times all of degree p, y times those without x (the last p + 1), z times the last.
    """
    degrees = [jnp.ones_like(u[:1])]
    for p in range(order):
        low = degrees[-1]
        degrees.append(jnp.concatenate([low * u[:1], low[-(p + 1) :] * u[1:2], low[-1:] * u[2:]]))
    return jnp.concatenate(degrees)
