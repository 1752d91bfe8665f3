"""DeepPot-SE, `se_e2_a` (Zhang, Han, Wang, Saidi, Car, E, NeurIPS 31 (2018), arXiv:1805.09003).

    s(r) = w(r)/r,   R_j = s (1, x/r, y/r, z/r)                         the environment matrix, (neighbours, 4)
    G_j = N(s(r_j))                                                      embedding net, one row of M numbers a neighbour
    D   = (Gᵀ R)(Rᵀ G_<) / K²                                            (M, M_<): G_< holds the first M_< columns of G

w is 1 below `smooth_cutoff`, falls to 0 at `cutoff`. K is a constant, the number of neighbours seen in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.geometry import distances
from adatom.potential.networks import Activation, Perceptron

Array = jax.Array
Width = Annotated[int, Field(ge=1, le=2048)]


class DeepPotentialConfig(BaseModel):
    """Sizes of DeepPot-SE; the names are DeePMD-kit's in words (rcut, rcut_smth, neuron, axis_neuron, type_one_side)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    standardise: ClassVar[Literal["each", "together"]] = "together"

    type: Literal["deep_potential"] = "deep_potential"
    cutoff: Annotated[float, Field(gt=0.5, le=30.0, description="Å")] = 6.0
    smooth_cutoff: Annotated[float, Field(ge=0.0, description="Å, where the switch begins")] = 0.5
    embedding_net: tuple[Width, ...] = (16, 32, 64)
    axis: Annotated[int, Field(ge=1, description="columns of G on the right")] = 8
    activation: Activation = "tanh"
    one_side: Annotated[bool, Field(description="embedding nets by the neighbour's element only")] = True
    typical_neighbours: Annotated[float, Field(gt=0.0, description="K")] = 30.0
    typical_distance: Annotated[float, Field(gt=0.0, description="Å; s enters the net as s times this")] = 2.5

    @model_validator(mode="after")
    def _ordered(self) -> DeepPotentialConfig:
        if self.smooth_cutoff >= self.cutoff:
            raise ValueError(f"smooth_cutoff {self.smooth_cutoff} must be smaller than cutoff {self.cutoff}")
        if not self.embedding_net or self.axis > self.embedding_net[-1]:
            raise ValueError(f"axis {self.axis} must not exceed the last embedding width {self.embedding_net[-1:]}")
        return self

    def n_features(self, n_species: int) -> int:
        return self.embedding_net[-1] * self.axis


SectionSum = Callable[[str, Array, Array], Array]


def environment(vectors: Array, config: DeepPotentialConfig) -> tuple[Array, Array]:
    """s (n, k) and the environment matrix (4, n, k) of vectors (3, n, k)."""
    r = distances(vectors)
    s = smooth_step_down(r, config.smooth_cutoff, config.cutoff) / r
    return s, jnp.concatenate([s[None], vectors * (s / r)[None]], axis=0)


def contract(
    vectors: Array, config: DeepPotentialConfig, slots: Sequence[int], atoms: Sequence[int], section_sum: SectionSum
) -> Array:
    """D (n, M·M_<) from Rᵀ G, which `section_sum(name of the embedding net, R (4, n, k), s (n, k))` gives as (n, 4, M)."""
    s, r4 = environment(vectors, config)
    sums, first_slot = [], 0
    for t, k in enumerate(slots):
        columns = slice(first_slot, first_slot + k)
        first_slot += k
        if config.one_side:
            sums.append(section_sum(f"embedding_{t}", r4[:, :, columns], s[:, columns]))
            continue
        rows, first_atom = [], 0
        for u, n in enumerate(atoms):
            here = slice(first_atom, first_atom + n)
            first_atom += n
            if n:
                rows.append(section_sum(f"embedding_{u}_{t}", r4[:, here, columns], s[here, columns]))
        sums.append(jnp.concatenate(rows))
    t4 = sum(sums[1:], sums[0]) * (1.0 / config.typical_neighbours)  # (n, 4, M)
    d = jnp.einsum("ncm,ncl->nml", t4, t4[:, :, : config.axis])
    return d.reshape(d.shape[0], -1)


class DeepPotential(nn.Module):
    """(3, n, k) vectors -> (n, M·M_<)."""

    config: DeepPotentialConfig

    @nn.compact
    def __call__(self, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        c = self.config

        def by_network(name: str, r4: Array, s: Array) -> Array:
            net = Perceptron(c.embedding_net, c.activation, name=name)
            n, k = s.shape
            if k == 0:
                return jnp.zeros((n, 4, c.embedding_net[-1]), dtype=s.dtype)
            g = net((s * c.typical_distance).reshape(-1, 1)).reshape(n, k, c.embedding_net[-1])
            return jnp.einsum("cnk,nkm->ncm", r4, g)

        return contract(vectors, c, slots, atoms, by_network)
