"""Moment descriptor: learned radial functions times Cartesian tensors, summed over neighbours and contracted to invariants.

    M_c^(p) = Σ_j R_cp(r_ij, z_j) û_j^⊗p,      R_cp(r, z) = Σ_b W_pcb(z) g_b(r)

g_b Gaussians times the cutoff, W learned. Invariants, all polynomials of degree ≤ 3 in M (2-, 3- and 4-body terms):

    M_c^(0);   M_c^(p):M_c^(p) for p = 1 … order;   M^(1)·M^(2)·M^(1), tr M^(2)M^(2)M^(2) per channel c.

The sum over j comes before the learned mixing, so cost does not grow with the number of channels per neighbour, and the number
of features not with the number of elements. Family of moment tensor potentials (Shapeev, Multiscale Model. Simul. 14, 1153
(2016)) and Gaussian moments (Zaverkin and Kästner, J. Chem. Theory Comput. 16, 5410 (2020)).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import BaseModel, ConfigDict, Field

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.descriptors.symmetry_functions import monomials, sections, unit_monomials
from adatom.potential.geometry import distances

Array = jax.Array


class MomentsConfig(BaseModel):
    """Sizes of the moment descriptor."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    standardise: ClassVar[Literal["each", "together"]] = "together"

    type: Literal["moments"] = "moments"
    cutoff: Annotated[float, Field(gt=0.5, le=30.0, description="Å")] = 5.0
    n_radial: Annotated[int, Field(ge=2, le=64, description="Gaussians each radial function is made of")] = 10
    n_channels: Annotated[int, Field(ge=1, le=256, description="radial functions learned for each degree")] = 24
    order: Annotated[int, Field(ge=1, le=6, description="highest degree of the tensors")] = 4
    four_body: bool = True

    def n_features(self, n_species: int) -> int:
        return self.n_channels * (1 + self.order + (2 if self.four_body and self.order >= 2 else 0))


class Moments(nn.Module):
    """(3, n, k) vectors -> (n, features)."""

    config: MomentsConfig

    @nn.compact
    def __call__(self, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        c = self.config
        r = distances(vectors)
        centres = np.linspace(0.6, c.cutoff, c.n_radial)
        eta = float(0.5 / (centres[1] - centres[0]) ** 2)
        x = r[:, None, :] - jnp.asarray(centres, dtype=r.dtype)[None, :, None]
        g = jnp.exp(-eta * x * x) * smooth_step_down(r, 0.0, c.cutoff)[:, None, :]
        y = unit_monomials(vectors / r[None], c.order).transpose(1, 0, 2)
        sums = jnp.concatenate([jnp.einsum("nmk,nbk->nmb", y[:, :, s], g[:, :, s]) for s in sections(slots)], axis=2)
        features, tensors, start = [], [], 0
        for p in range(c.order + 1):
            powers = [abc for abc in monomials(p) if sum(abc) == p]
            shape = (c.n_radial * len(slots), c.n_channels)
            w = self.param(f"radial_{p}", nn.initializers.normal(1.0 / np.sqrt(c.n_radial)), shape, jnp.float32)
            tensors.append(jnp.einsum("nmb,bc->nmc", sums[:, start : start + len(powers)], w.astype(r.dtype)))
            start += len(powers)
            if p == 0:
                features.append(tensors[0][:, 0])
                continue
            count = [factorial(p) / np.prod([factorial(e) for e in abc]) for abc in powers]
            multiplicity = jnp.asarray(count, dtype=r.dtype)[None, :, None]
            features.append((tensors[p] * tensors[p] * multiplicity).sum(axis=1))
        if c.four_body and c.order >= 2:
            one = [tensors[1][:, i] for i in range(3)]
            two = [[tensors[2][:, SYMMETRIC[i][j]] for j in range(3)] for i in range(3)]
            turned = [sum(two[i][j] * one[j] for j in range(1, 3)) + two[i][0] * one[0] for i in range(3)]
            features.append(one[0] * turned[0] + one[1] * turned[1] + one[2] * turned[2])
            features.append(_trace_of_cube(two))
        return jnp.concatenate(features, axis=1)


SYMMETRIC = ((0, 1, 2), (1, 3, 4), (2, 4, 5))
"""Where the components xx xy xz yy yz zz of a symmetric tensor stand in a 3 × 3 matrix."""


def _trace_of_cube(m: Sequence[Sequence[Array]]) -> Array:
    """tr M³ = Σ_i M_ii³ + 3 Σ_{i<j} M_ij² (M_ii + M_jj) + 6 M_xy M_yz M_zx of symmetric 3 × 3 matrices of arrays."""
    diagonal = m[0][0] ** 3 + m[1][1] ** 3 + m[2][2] ** 3
    mixed = sum(m[i][j] ** 2 * (m[i][i] + m[j][j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    return diagonal + 3.0 * mixed + 6.0 * m[0][1] * m[1][2] * m[0][2]
