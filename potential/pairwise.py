"""Analytic pair potentials: the screened nuclear repulsion under every model, and Lennard-Jones and Morse for tests and MD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.geometry import distances
from adatom.potential.units import COULOMB

Array = jax.Array
ZBL_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
ZBL_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)


def zbl(r: Array, z_i: float | Array, z_j: float | Array) -> Array:
    """Z_i Z_j e²/(4πε₀ r) φ(r/a), a = 0.46850 Å/(Z_i^0.23 + Z_j^0.23): eV.

    Ziegler, Biersack, Littmark, "The Stopping and Range of Ions in Matter" (1985); constants as in LAMMPS' pair_style zbl.
    """
    x = r * ((z_i**0.23 + z_j**0.23) / 0.46850)
    phi = sum(a * jnp.exp(-b * x) for a, b in zip(ZBL_AMPLITUDES, ZBL_DECAYS, strict=True))
    return COULOMB * z_i * z_j / r * phi


@dataclass(frozen=True)
class LennardJones:
    """4ε[(σ/r)¹² − (σ/r)⁶], switched off between 0.8·cutoff and cutoff; one ε [eV] and σ [Å] for all elements."""

    elements: tuple[int, ...]
    epsilon: float
    sigma: float
    cutoff: float

    def atomic_energies(self, params: object, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """Half of every pair's energy: (3, n, k) -> (n,)."""
        r = distances(vectors)
        x = (self.sigma / r) ** 6
        return 2.0 * self.epsilon * (x * (x - 1.0) * smooth_step_down(r, 0.8 * self.cutoff, self.cutoff)).sum(axis=-1)


@dataclass(frozen=True)
class Morse:
    """D[(1 − exp(−α(r − r₀)))² − 1], switched as Lennard-Jones; D [eV], α [1/Å], r₀ [Å]."""

    elements: tuple[int, ...]
    depth: float
    alpha: float
    distance: float
    cutoff: float

    def atomic_energies(self, params: object, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """Half of every pair's energy: (3, n, k) -> (n,)."""
        r = distances(vectors)
        x = 1.0 - jnp.exp(-self.alpha * (r - self.distance))
        return 0.5 * self.depth * ((x * x - 1.0) * smooth_step_down(r, 0.8 * self.cutoff, self.cutoff)).sum(axis=-1)
