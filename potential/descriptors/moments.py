"""Moment descriptor: learned radial functions times Cartesian tensors, summed over neighbours and contracted to invariants.

    M_c^(p) = Σ_j R_cp(r_ij, z_j) û_j^⊗p,      R_cp(r, z) = Σ_b W_pcb(z) g_b(r)

g_b Gaussians times the cutoff, W learned. Invariants, all polynomials of degree ≤ 3 in M (2-, 3- and 4-body terms):

    M_c^(0);   M_c^(p):M_c^(p) for p = 1 … order;   M_c^(p):M_c^(q):M_c^(r) for the contractions (p, q, r)

per channel c, the last with (p + q − r)/2 indices common to the first two tensors, and so on: M·M²·M, tr M²M²M², ….

The sum over j comes before the learned mixing, so cost does not grow with the number of channels per neighbour, and the number
of features not with the number of elements. Family of moment tensor potentials (Shapeev, Multiscale Model. Simul. 14, 1153
(2016)) and Gaussian moments (Zaverkin and Kästner, J. Chem. Theory Comput. 16, 5410 (2020)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from math import factorial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    n_radial: Annotated[int, Field(ge=2, le=64, description="Gaussians each radial function is made of")] = 8
    n_channels: Annotated[int, Field(ge=1, le=256, description="radial functions learned for each degree")] = 16
    order: Annotated[int, Field(ge=1, le=6, description="highest degree of the tensors")] = 4
    inner: Annotated[float, Field(ge=0.0, description="Å, centre of the first Gaussian; the last is at the cutoff")] = 1.0
    contractions: Annotated[
        tuple[tuple[int, int, int], ...],
        Field(description="degrees of three tensors multiplied to a scalar; used where `order` reaches"),
    ] = ((1, 1, 2), (2, 2, 2), (1, 2, 3), (2, 2, 4), (2, 3, 3), (1, 3, 4), (2, 4, 4), (3, 3, 4), (4, 4, 4))

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, given: Any) -> Any:
        """Files written before there were `contractions` and `inner` have four_body."""
        if not isinstance(given, dict) or not isinstance(given.get("four_body"), bool):
            return given
        rest = {k: v for k, v in given.items() if k != "four_body"}
        return {"inner": 0.6, "contractions": ((1, 1, 2), (2, 2, 2)) if given["four_body"] else (), **rest}

    @model_validator(mode="after")
    def _possible(self) -> MomentsConfig:
        for p, q, r in self.contractions:
            if not 1 <= p <= q <= r <= p + q or (p + q + r) % 2:
                raise ValueError(f"no scalar comes of tensors of degrees {p}, {q}, {r}: 1 ≤ p ≤ q ≤ r ≤ p + q, with an even sum")
        if self.inner >= self.cutoff:
            raise ValueError(f"inner {self.inner} Å is not below the cutoff of {self.cutoff} Å")
        return self

    @property
    def within_order(self) -> tuple[tuple[int, int, int], ...]:
        """The contractions of tensors there are."""
        return tuple(x for x in self.contractions if x[2] <= self.order)

    @property
    def centres(self) -> np.ndarray:
        """(n_radial,) Å."""
        return np.linspace(self.inner, self.cutoff, self.n_radial)

    def n_features(self, n_species: int) -> int:
        return self.n_channels * (1 + self.order + len(self.within_order))


def contracted(tensors: Array, contractions: tuple[tuple[int, int, int], ...]) -> Array:
    """(n, monomials, channels) -> (n, contractions, channels)."""
    which, factors = terms(contractions)
    each = tensors[:, which[0]] * tensors[:, which[1]] * tensors[:, which[2]]
    return jnp.einsum("nkc,kx->nxc", each, jnp.asarray(factors, dtype=tensors.dtype))


@cache
def terms(contractions: tuple[tuple[int, int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Full contractions of three symmetric tensors as Σ_k factor_kx M_i M_j M_l, with i, j, l places among all monomials.

    Returns i, j, l (3, n) and the factors (n, contractions).
    """
    places, found = [], []
    for x, (p, q, r) in enumerate(contractions):
        common = [(0, 1)] * ((p + q - r) // 2) + [(0, 2)] * ((p + r - q) // 2) + [(1, 2)] * ((q + r - p) // 2)
        place = {powers: i for i, powers in enumerate(monomials(r))}
        own: Counter[tuple[int, ...]] = Counter()
        for axes in product(range(3), repeat=len(common)):
            each = [[axis for axis, pair in zip(axes, common, strict=True) if t in pair] for t in range(3)]
            own[tuple(sorted(place[e.count(0), e.count(1), e.count(2)] for e in each))] += 1
        places += list(own)
        found += [np.eye(len(contractions))[x] * factor for factor in own.values()]
    return np.array(places).T, np.array(found)


class Moments(nn.Module):
    """(3, n, k) vectors -> (n, features). On a GPU two of its steps are others (`adatom.potential.kernels.moments_gpu`)."""

    config: MomentsConfig
    monomials_of: Callable[[Array, int], Array] = unit_monomials
    contract: Callable[[Array, tuple[tuple[int, int, int], ...]], Array] = contracted

    @nn.compact
    def __call__(self, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        c = self.config
        r = distances(vectors)
        centres = c.centres
        eta = float(0.5 / (centres[1] - centres[0]) ** 2)
        x = r[:, None, :] - jnp.asarray(centres, dtype=r.dtype)[None, :, None]
        g = jnp.exp(-eta * x * x) * smooth_step_down(r, 0.0, c.cutoff)[:, None, :]
        y = self.monomials_of(vectors / r[None], c.order).transpose(1, 0, 2)
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
        if c.within_order:
            found = self.contract(jnp.concatenate(tensors, axis=1), c.within_order)
            features.append(found.reshape(len(found), -1))
        return jnp.concatenate(features, axis=1)
