"""How hard an exploration is driven towards what the committee does not know: τ of E − τ σ_E (`adatom.md.field`).

    τ = ratio · ⟨|F_i|⟩/⟨|∂σ_E/∂r_i|⟩        ⟨…⟩ over the atoms of labelled frames

so that the bias is, on average, the part `ratio` of the forces. The slope of σ falls with more data, and τ follows it from one
iteration to the next; within a run it is constant, and the biased energy is conserved. Van der Oord et al. (npj Comput. Mater. 9,
168 (2023)) adapt τ within a run, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import ase
import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.batches import ONCE, Bucket, assemble, make_buckets, neighbourhoods, portions
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.metrics import ATOMS
from adatom.potential.committee import slope
from adatom.potential.compilation import jit
from adatom.potential.model import Model, Params
from adatom.potential.potential import Potential
from adatom.potential.predict import predict
from adatom.potential.structure import from_atoms

ENOUGH = 64
"""Frames that an average is taken over, the last ones."""


def strength(potential: Potential, frames: Sequence[ase.Atoms], ratio: float) -> float:
    """τ, without unit; 0 where there are no frames, or no forces or no slope in them."""
    if potential.committee is None:
        raise ValueError("a bias towards uncertainty needs a potential with a committee")
    chosen = [Frame(from_atoms(x), Labels(None, None, None)) for x in frames[-ENOUGH:]]
    if not chosen or ratio == 0.0:
        return 0.0
    model, members = potential.model, {"network": potential.committee.members}
    total = np.zeros(2)
    for bucket in make_buckets(chosen, neighbourhoods(chosen, model.elements, model.cutoff), worth=ONCE):
        for part, _, present in portions(bucket, ATOMS):
            with jax.enable_x64(True):
                total += np.asarray(_sizes(model, potential.params, members, part, np.arange(len(present)), present))
    return float(ratio * total[0] / total[1]) if total.all() else 0.0


@partial(jit, static_argnames="model")
def _sizes(
    model: Model, params: Params, members: Params, bucket: Bucket, rows: np.ndarray, present: np.ndarray
) -> jax.Array:
    """Σ|F|, Σ|∂σ/∂r| (2,)."""
    graph, _ = assemble(bucket, rows, jnp.asarray(present))
    on = (jnp.asarray(present)[graph.structure] & graph.atom_mask).astype(jnp.float32)
    forces = predict(model, params, graph, e0=params["statistics"].e0, dtype=jnp.dtype("float32")).forces
    away = slope(model, params, members, graph, dtype=jnp.dtype("float32")).forces
    return jnp.stack([(jnp.sqrt((x * x).sum(axis=1)) * on).sum() for x in (forces.astype(jnp.float32), away.astype(jnp.float32))])
