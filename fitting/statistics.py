"""What the training data fix before the first step: E0, energy scale, descriptor statistics, shortest distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from adatom.fitting.batches import Bucket, assemble
from adatom.fitting.dataset import Frame
from adatom.fitting.sizes import few
from adatom.potential.compilation import jit
from adatom.potential.geometry import pair_vectors
from adatom.potential.graph import Neighbourhood
from adatom.potential.model import Model, Params, Statistics


class HasDescriptors(Protocol):
    """A model whose networks see features of an atom."""

    @property
    def cutoff(self) -> float: ...

    def descriptors(self, network: Params, vectors: jax.Array, slots: Sequence[int], atoms: Sequence[int]) -> jax.Array:
        """(3, n, k) vectors -> (n, features)."""


def make_statistics(
    model: Model,
    network: Params,
    frames: Sequence[Frame],
    items: Sequence[Neighbourhood],
    buckets: Sequence[Bucket],
    e0: np.ndarray,
) -> Statistics:
    """All of `Statistics`, float64 on the host; `e0` (species,) eV.

    Features are centred, and scaled one by one or, where the descriptor says so, by one common scale: features that hardly
    vary then stay small, which takes more steps but leaves smaller errors on new frames.
    """
    n, f = len(model.elements), model.config.descriptor.n_features(len(model.elements))
    moments = feature_moments(model, network, buckets, (n, f))
    mean, std = zip(*[standard(moments, slice(t, t + 1), model.config.descriptor.standardise) for t in range(n)], strict=True)
    scale, residual = energy_scale(frames), _mean_residual(frames, model, e0)
    shortest = shortest_distances(items, model.elements)
    return Statistics(e0, residual, np.full(n, scale), np.stack(mean), np.stack(std), shortest)


class Moments(NamedTuple):
    """Of the features of all atoms: how many atoms (t,), sums and sums of squares (t, f)."""

    atoms: np.ndarray
    total: np.ndarray
    squares: np.ndarray


def feature_moments(model: HasDescriptors, network: Params, buckets: Sequence[Bucket], shape: tuple[int, int]) -> Moments:
    """Over all frames, float64; shape (t, f)."""
    count, total, squares = np.zeros(shape[0]), np.zeros(shape), np.zeros(shape)
    for bucket in buckets:
        for start in range(0, len(bucket), 64):
            index = np.arange(start, min(start + 64, len(bucket)))
            padded = np.resize(index, min(64, few(len(bucket))))
            here = np.arange(len(padded)) < len(index)
            d, present = _jitted_features(model, network, bucket, jnp.asarray(padded), jnp.asarray(here))
            species = np.repeat(np.arange(shape[0]), np.multiply(len(padded), bucket.atom_capacity))
            for t in range(shape[0]):
                x = np.asarray(d, dtype=np.float64)[np.asarray(present) & (species == t)]
                count[t] += len(x)
                total[t] += x.sum(axis=0)
                squares[t] += (x * x).sum(axis=0)
    return Moments(count, total, squares)


def standard(moments: Moments, rows: slice, how: Literal["each", "together"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (f,) over the atoms of some species, of each feature or one for all; 0 and 1 without atoms."""
    count, total, squares = (x[rows].sum(axis=0) for x in moments)
    if count == 0:
        return np.zeros_like(total), np.ones_like(total)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    if how == "together":
        std = np.full_like(std, np.sqrt((std**2).mean()))
    return mean, np.maximum(std, 1e-3 * std.max() + 1e-12)


def energy_scale(frames: Sequence[Frame]) -> float:
    """Half the root mean square of the forces times 1 Å, eV."""
    force = np.concatenate([x.labels.forces.ravel() for x in frames if x.labels.forces is not None] or [np.ones(1)])
    return 0.5 * max(float(np.sqrt(np.mean(force**2))), 1e-3)


def shortest_distances(items: Sequence[Neighbourhood], elements: Sequence[int]) -> np.ndarray:
    """Shortest distance in Å of each pair of elements (species, species) that the data can speak of; infinite where none is
    within the cutoff.

    It is that in the data, or for two elements the mean of what each has with its own kind, where that is shorter: near-static
    alloys beside hot elements say nothing of where an alloy ends.
    """
    n = len(elements)
    shortest = np.full((n, n), np.inf)
    for x in items:
        i, j, s = x.pairs
        d = x.structure.positions[j] - x.structure.positions[i] + s @ x.structure.cell
        np.minimum.at(shortest, (x.species[i], x.species[j]), np.sqrt((d * d).sum(axis=1)))
    own = np.diag(shortest)
    return np.where(np.isfinite(shortest), np.minimum(shortest, 0.5 * (own[:, None] + own[None, :])), np.inf)


def describe(statistics: Statistics, elements: Sequence[int]) -> str:
    """Lines to print: E0 and shortest distances, which of other programs' models are not known."""
    symbols = [chemical_symbols[z] for z in elements]
    e0 = ", ".join(f"{s} {x:.4f}" for s, x in zip(symbols, np.asarray(statistics.e0), strict=True))
    d = np.asarray(statistics.min_distance)
    pairs = [f"{a}-{b} {d[i, j]:.2f}" for i, a in enumerate(symbols) for j, b in enumerate(symbols) if i <= j and d[i, j] > 0.0]
    return f"E0 (eV): {e0}\nshortest distances (Å): {', '.join(pairs) or 'not known'}"


def _mean_residual(frames: Sequence[Frame], model: Model, e0: np.ndarray) -> np.ndarray:
    """Mean energy an atom over E0 (zero by construction after least squares; the cohesive energy over isolated atoms)."""
    rest = [
        (x.labels.energy - sum(e0[model.elements.index(int(z))] for z in x.structure.numbers)) / len(x.structure)
        for x in frames
        if x.labels.energy is not None and len(x.structure) > 1
    ]
    return np.full(len(model.elements), float(np.mean(rest)) if rest else 0.0)


def _features(
    model: HasDescriptors, network: Params, bucket: Bucket, index: jax.Array, here: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Descriptors (a, f) of a batch, and which of its rows are real."""
    graph, _ = assemble(bucket, index, here)
    positions, cell, structure, neighbours, shifts, mask, present = (
        jnp.asarray(x)
        for x in (graph.positions, graph.cell, graph.structure, graph.neighbours, graph.shifts, graph.mask, graph.atom_mask)
    )
    rows = jnp.arange(len(structure))
    d = pair_vectors(positions, cell, structure, rows, neighbours, shifts, mask, 2.0 * model.cutoff).astype(jnp.float32)
    return model.descriptors(network, d, graph.slot_capacity, graph.atom_capacity), here[structure] & present


_jitted_features = jit(_features, static_argnames="model")
