"""What a potential sees in frames: how unsure it is of each, and features by which frames are told apart.

A frame's features are its standardised descriptors, averaged over atoms with weights σ_i²: those of the atoms it is unsure of,

    x_t = Σ_{i of species t} σ_i² (D_i − mean_t)/std_t / Σ_i σ_i²,     one block for each species.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.batches import ONCE, Bucket, assemble, make_buckets, neighbourhoods, portions
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.metrics import ATOMS
from adatom.potential.committee import spread
from adatom.potential.compilation import jit
from adatom.potential.geometry import pair_vectors
from adatom.potential.model import Model, Params
from adatom.potential.potential import Potential
from adatom.potential.structure import from_atoms


class Look(NamedTuple):
    """features (n, d); deviation (n,) eV/Å, the largest calibrated σ of a force; mean (n,) eV/Å, its mean over atoms."""

    features: np.ndarray
    deviation: np.ndarray
    mean: np.ndarray


def look(potential: Potential, frames: Sequence[ase.Atoms]) -> Look:
    """In float32. Raises ValueError for elements the potential does not know, and where it has no committee."""
    unlabelled = [Frame(from_atoms(x), Labels(None, None, None)) for x in frames]
    if not frames:
        return look_at(potential, [], 0)
    items = neighbourhoods(unlabelled, potential.model.elements, potential.model.cutoff)
    return look_at(potential, make_buckets(unlabelled, items, worth=ONCE), len(frames))


def look_at(potential: Potential, buckets: Sequence[Bucket], n: int) -> Look:
    """The same for the frames of buckets, whose numbers are below n."""
    if potential.committee is None:
        raise ValueError("the potential knows nothing about its own error: fit it with [uncertainty] kind other than 'none'")
    model, scale = potential.model, potential.committee.scales[1]
    if not isinstance(model, Model):
        raise ValueError("active learning tells structures apart by the descriptors of adatom's own models, this is another's")
    d = model.config.descriptor.n_features(len(model.elements)) * len(model.elements)
    out = Look(np.zeros((n, d)), np.zeros(n), np.zeros(n))
    for bucket in buckets:
        for part, index, present in portions(bucket, ATOMS):
            with jax.enable_x64(True):
                members, every = {"network": potential.committee.members}, np.arange(len(present))
                found = _look(model, potential.params, members, part, every, present)
            features, deviation, mean = (np.asarray(x, dtype=np.float64)[present] for x in found)
            out.features[index], out.deviation[index], out.mean[index] = features, scale * deviation, scale * mean
    return out


@partial(jit, static_argnames="model")
def _look(
    model: Model, params: Params, members: Params, bucket: Bucket, rows: np.ndarray, present: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    graph, _ = assemble(bucket, rows, present)
    structure, mask = jnp.asarray(graph.structure), jnp.asarray(graph.atom_mask)
    sigma = jnp.where(mask, spread(model, params, members, graph, dtype=jnp.float32).forces.astype(jnp.float32), 0.0)
    s = graph.n_structures

    def total(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x, structure, s)

    real = mask.astype(jnp.float32)
    n, share = total(real), sigma**2 + 1e-12 * real
    share = share / total(share)[structure]
    vectors = pair_vectors(
        jnp.asarray(graph.positions), jnp.asarray(graph.cell), structure, jnp.arange(len(structure), dtype=jnp.int32),
        jnp.asarray(graph.neighbours), jnp.asarray(graph.shifts), jnp.asarray(graph.mask), 2.0 * model.cutoff,
    ).astype(jnp.float32)  # fmt: skip
    d = model.descriptors(params["network"], vectors, graph.slot_capacity, graph.atom_capacity)
    statistics, blocks = params["statistics"], []
    for t in range(len(model.elements)):
        own = jnp.asarray(np.repeat(np.arange(len(graph.atom_capacity)), graph.atom_capacity) == t)
        mean, std = (jnp.asarray(x)[t][None].astype(jnp.float32) for x in (statistics.feature_mean, statistics.feature_std))
        weighted = (d - mean) / std * (share * own.astype(jnp.float32))[:, None]
        blocks.append(total(jnp.where(mask[:, None], weighted, 0.0)))
    return jnp.concatenate(blocks, axis=1), jax.ops.segment_max(sigma, structure, s), total(sigma) / n
