"""Errors while training: weighted sums over batches, and what is read from them.

What a user is shown of a finished potential comes from `metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.batches import Bucket, Targets, chunks
from adatom.fitting.config import LossConfig
from adatom.fitting.problem import Problem, forward
from adatom.potential.compilation import jit
from adatom.potential.graph import Graph
from adatom.potential.model import FittedModel, Params, Statistics
from adatom.potential.predict import Prediction
from adatom.potential.units import GPA

Array = jax.Array


class Sums(NamedTuple):
    """Weighted sums of squared errors and counts of frames: energy per atom, force components, stress components; scalars, or one
    of each member."""

    energy: Array
    n_energy: Array
    forces: Array
    n_forces: Array
    stress: Array
    n_stress: Array


def error_sums(out: Prediction, graph: Graph, targets: Targets) -> Sums:
    """Unweighted sums over the frames whose weight is not zero."""
    on_e, on_f, on_s = (w > 0 for w in (targets.energy_weight, targets.forces_weight, targets.stress_weight))
    n = targets.n_atoms.astype(out.energy.dtype)
    e = jnp.where(on_e, (out.energy - targets.energy) / n, 0.0)
    rows = on_f[graph.structure] & graph.atom_mask
    f = jnp.where(rows[:, None], out.forces.astype(e.dtype) - targets.forces, 0.0)
    s = jnp.where(on_s[:, None, None], out.stress - targets.stress, 0.0)
    return Sums((e * e).sum(), on_e.sum(), (f * f).sum(), 3 * rows.sum(), (s * s).sum(), 9 * on_s.sum())


@partial(jit, static_argnames=("model", "precision", "several"))
def _evaluate(
    model: FittedModel, network: Params, fixed: Params, statistics: Statistics, bucket: Bucket, index: Array, present: Array,
    precision: str, several: bool,
) -> Sums:  # fmt: skip
    def one(network: Params) -> Sums:
        graph, targets, out = forward(model, network, fixed, statistics, bucket, index, present, precision)
        return error_sums(out, graph, targets)

    return (jax.vmap(one) if several else one)(network)


def evaluate(problem: Problem, network: Params, which: Sequence[np.ndarray]) -> Sums:
    """Sums over frames of the buckets."""
    total: list[Sums] = []
    several = problem.resampling is not None
    for bucket, index, n in zip(problem.buckets, which, problem.frames_per_batch(), strict=True):
        for chunk, present in chunks(index, n):
            total.append(
                _evaluate(
                    problem.model, network, problem.fixed, problem.statistics, bucket, chunk, present, problem.training.precision,
                    several,
                )
            )  # fmt: skip
    return add(total)


def rmse(sums: Sums) -> dict[str, float | None]:
    """Root mean square errors in report units, of all members together; None where there is no label."""

    def root(square: Any, count: Any, factor: float) -> float | None:
        n = float(np.sum(np.asarray(count)))
        return factor * float(np.sqrt(np.sum(np.asarray(square)) / n)) if n else None

    return {
        "energy_rmse": root(sums.energy, sums.n_energy, 1e3),
        "forces_rmse": root(sums.forces, sums.n_forces, 1e3),
        "stress_rmse": root(sums.stress, sums.n_stress, 1.0 / GPA),
    }


def score(sums: Sums, config: LossConfig) -> np.ndarray:
    """The loss at its final prefactors, of the network () or of each member (m,): what decides which weights are best."""
    terms = (
        (config.energy_end, sums.energy, sums.n_energy),
        (config.forces_end, sums.forces, sums.n_forces),
        (config.stress_end, sums.stress, sums.n_stress),
    )
    return np.sum([p * np.asarray(square) / np.maximum(np.asarray(count), 1) for p, square, count in terms], axis=0)


def add(window: Sequence[Sums]) -> Sums:
    """The sum of several; with none, of nothing."""
    if not window:
        return Sums(*np.zeros(6))
    return Sums(*np.sum([[np.asarray(x, dtype=np.float64) for x in s] for s in window], axis=0))


def nothing(problem: Problem) -> Sums:
    """Zeros, of every member its own."""
    return Sums(*np.zeros((6, *(() if problem.resampling is None else problem.resampling[0].shape[:1]))))
