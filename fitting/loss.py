"""How far a prediction is from its labels, as one number to minimise.

    L = mean_s w_s [ p_e ρ((E−Ê)/N) + p_f mean_ia ρ(F_ia − F̂_ia) + p_s mean_ab ρ(σ_ab − σ̂_ab) ]

each term averaged over the frames that have its label; ρ(x) = x², or Huber's function scaled to x² near zero. Energies per
atom in eV, forces in eV/Å, stress in eV/Å³. Prefactors may move from a start to an end value with the learning rate
(DeePMD's rule, Wang et al., Comput. Phys. Commun. 228, 178 (2018), eq. 11): p(t) = p_end (1 − lr/lr₀) + p_start lr/lr₀.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.batches import Targets
from adatom.potential.graph import Graph
from adatom.potential.predict import Prediction

Array = jax.Array | np.ndarray


class Prefactors(NamedTuple):
    """Weights of the three terms at one moment; scalars."""

    energy: Array
    forces: Array
    stress: Array


def _penalty(x: Array, delta: float | None) -> Array:
    if delta is None:
        return x * x
    a = jnp.abs(x)
    return jnp.where(a <= delta, x * x, delta * (2.0 * a - delta))


def loss(
    prediction: Prediction, graph: Graph, targets: Targets, prefactors: Prefactors, huber: float | None = None,
    across: str | None = None,
) -> jax.Array:  # fmt: skip
    """The loss of one batch, in the dtype of the energies. `huber` is δ in units of each term, None for squares; `across` the
    axis of the devices that have the other parts of the batch: losses and gradients are then parts of a sum."""
    s = graph.n_structures
    wide = prediction.energy.dtype
    n = targets.n_atoms.astype(wide)
    energy = _penalty((prediction.energy - targets.energy) / n, huber)
    per_atom = _penalty(prediction.forces.astype(wide) - targets.forces, huber).sum(axis=-1)
    per_atom = jnp.where(graph.atom_mask, per_atom, jnp.zeros_like(per_atom))
    forces = jax.ops.segment_sum(per_atom, graph.structure, s) / (3.0 * n)
    difference = jnp.where((targets.stress_weight > 0)[:, None, None], prediction.stress - targets.stress, 0.0)
    stress = _penalty(difference, huber).mean(axis=(1, 2))

    def mean(x: Array, w: Array) -> jax.Array:
        count = (w > 0).sum().astype(wide)
        count = jax.lax.psum(count, across) if across else count
        return jnp.sum(x * w) / jnp.maximum(count, 1.0)

    return (
        jnp.asarray(prefactors.energy, dtype=wide) * mean(energy, targets.energy_weight)
        + jnp.asarray(prefactors.forces, dtype=wide) * mean(forces, targets.forces_weight)
        + jnp.asarray(prefactors.stress, dtype=wide) * mean(stress, targets.stress_weight)
    )
