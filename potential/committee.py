"""What a potential knows about its own error: members, networks that differ from its own in some of their parameters.

    s_E = √⟨(E_m − ⟨E⟩)²⟩        s_i = √⟨|F_i,m − ⟨F_i⟩|²⟩        ⟨…⟩ over the members

(the force deviation of DP-GEN: Zhang et al., Phys. Rev. Materials 3, 023804 (2019)). Calibration makes them standard deviations:
σ_E = a_E s_E and σ_i = a_F s_i, so that ⟨|F_i − F̂_i|²⟩ = σ_i² on held-out data. Energies and forces stay those of the potential's
own network, whether the spread is asked for or not.

deep      members are trained apart, from other weights and on resampled data
shallow   members share the descriptor; their fitting nets are trained apart
laplace   members are drawn from the posterior of the last layer of one trained network (`adatom.fitting.laplace`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import BaseModel, ConfigDict

from adatom.potential.graph import Graph
from adatom.potential.kernels import kernel
from adatom.potential.model import EnergyModel, Params
from adatom.potential.predict import Prediction, predict

Array = jax.Array
ROUND = 1e-4
"""eV. Rounds the tip of σ where all members agree."""
Kind = Literal["deep", "shallow", "laplace"]


class Coverage(BaseModel):
    """Of one quantity: on held-out data a part `found` of the errors is below the bound promised for a part `nominal`.

    factors: errors are below factor · s with probability `nominal` (split conformal prediction: Vovk et al., Algorithmic Learning
    in a Random World (2005)); `found` is measured on data that had no part in the factors. scale is a; rank the Spearman
    correlation of spread and error; samples the number of errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float
    nominal: tuple[float, ...]
    factors: tuple[float, ...]
    found: tuple[float, ...]
    rank: float
    samples: int


class Calibration(BaseModel):
    """energy per frame, forces per atom (norm of the error); data: on what it was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: Coverage
    forces: Coverage
    data: str


@dataclass(frozen=True)
class Committee:
    """members: the part of the network tree in which they differ, every array with a leading axis (members, …)."""

    kind: Kind
    members: Params
    calibration: Calibration | None = None

    @property
    def size(self) -> int:
        return int(jax.tree.leaves(self.members)[0].shape[0])

    @property
    def scales(self) -> tuple[float, float]:
        """Of the spreads of energy and of forces; 1 before calibration."""
        c = self.calibration
        return (c.energy.scale, c.forces.scale) if c else (1.0, 1.0)


class Spread(NamedTuple):
    """energy (s,) eV; atomic_energies (a,) eV; forces (a,) eV/Å: spreads, not scaled."""

    energy: Array
    atomic_energies: Array
    forces: Array


def merge(params: Params, part: Params) -> Params:
    """`params` with the subtrees and arrays of `part` in place of its own."""
    return {k: merge(v, part[k]) if isinstance(v, dict) and k in part else part.get(k, v) for k, v in params.items()}


def axes(params: Params, part: Params) -> Params:
    """For `vmap` over `merge(params, part)`: 0 where the array is of `part`, else None."""
    return {k: axes(v, part.get(k, {})) if isinstance(v, dict) else (0 if k in part else None) for k, v in params.items()}


def _predicted(model: EnergyModel, own: Params, graph: Graph, dtype: Any, block: int | None) -> Prediction:
    """Of one member: by the compiled kernel one after the other, or by JAX, which computes once what they share."""
    fast, params = kernel(model, own, jnp.dtype(dtype).name) or (model, own)
    return predict(fast, params, graph, e0=jnp.asarray(own["statistics"].e0), dtype=dtype, block=block)


def spread(model: EnergyModel, params: Params, members: Params, graph: Graph, *, dtype: Any, block: int | None = None) -> Spread:
    """Spread over one graph. members: the part of `params` in which they differ."""

    def one(own: Params) -> tuple[Array, Array, Array]:
        out = _predicted(model, own, graph, dtype, block)
        return out.energy, out.atomic_energies, out.forces

    energy, atomic, forces = jax.vmap(one, in_axes=(axes(params, members),))(merge(params, members))
    away = (forces - forces.mean(axis=0, keepdims=True)).astype(graph.positions.dtype)
    square = (away * away).sum(axis=-1).mean(axis=0)
    return Spread(energy.std(axis=0), atomic.std(axis=0), jnp.sqrt(square))


class Slope(NamedTuple):
    """sigma (s,) eV; forces (a, 3) = −∂σ/∂r, eV/Å; stress (s, 3, 3) = (1/V) ∂σ/∂ε, eV/Å³: of the energy's spread, not scaled."""

    sigma: Array
    forces: Array
    stress: Array


def slope(model: EnergyModel, params: Params, members: Params, graph: Graph, *, dtype: Any, block: int | None = None) -> Slope:
    """Which way the members disagree more about the energy:

        σ = √(⟨(E_m − ⟨E⟩)²⟩ + ROUND²),      ∂σ = ⟨(E_m − ⟨E⟩) ∂E_m⟩/σ

    of every structure, from the members' own forces and stresses.
    """

    def one(own: Params) -> tuple[Array, Array, Array]:
        out = _predicted(model, own, graph, dtype, block)
        return out.energy, out.forces, out.stress

    energy, forces, stress = jax.vmap(one, in_axes=(axes(params, members),))(merge(params, members))
    away = energy - energy.mean(axis=0, keepdims=True)
    sigma = jnp.sqrt((away * away).mean(axis=0) + ROUND**2)
    weight = away / (sigma[None] * len(energy))
    of_atoms = weight[:, jnp.asarray(graph.structure)].astype(forces.dtype)
    return Slope(sigma, (of_atoms[:, :, None] * forces).sum(axis=0), (weight[:, :, None, None] * stress).sum(axis=0))
