"""The members of a committee: how they come to differ (`adatom.potential.committee` says what is made of them).

deep, shallow   trained together from other weights, each on the data with weights of its own, for a part of the epochs
laplace         drawn from the posterior of the last layer: the energy is linear in its weights θ, so with g = ∂(label)/∂θ

    Σ⁻¹ = Λ + Σ_labels p g gᵀ,      θ_m = θ ± Σ^½ z,  z normal

(Gauss–Newton Laplace approximation: MacKay, Neural Comput. 4, 448 (1992); for potentials: Bigi, Chong, Ceriotti, Grasselli, Mach.
Learn.: Sci. Technol. 5, 045018 (2024)). p are the prefactors of the loss at its end. Σ over force components is estimated from
their random combinations, Σ over more than `FRAMES` frames from so many of them. Λ keeps directions that no label fixes as wide
as the data fix the mean direction ÷ `LOOSE`. Members come in pairs about θ, so that their mean is the potential itself. The
overall width is left to the calibration.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from adatom.fitting.batches import Bucket, assemble
from adatom.fitting.config import LossConfig, UncertaintyConfig
from adatom.fitting.problem import Problem
from adatom.fitting.train import train
from adatom.potential.committee import Committee, merge
from adatom.potential.compilation import jit
from adatom.potential.model import FittedModel, Params, Statistics
from adatom.potential.predict import energies

Array = jax.Array
DIRECTIONS, LOOSE, FRAMES = 6, 1e-4, 512
"""Random combinations of the force components of each frame; see above; the most frames that are looked at."""


def can_have_committee(config: UncertaintyConfig, network: Params, say: Any) -> bool:
    """Whether the network has the parts that its kind of members needs; says so where not."""
    nets = network.get("fitting", {}).values()
    found = config.kind == "deep" or bool(nets and (config.kind == "shallow" or all("energy" in x for x in nets)))
    if not found:
        say(f"uncertainty: none, this family of models has no {config.kind} committee; kind deep is possible")
    return found


def make_committee(
    config: UncertaintyConfig, problem: Problem, network: Params, out: Path, *, resume: bool, report: Any, say: Any,
    previous: Committee | None = None,
) -> Committee:  # fmt: skip
    """Of the trained `network`; checkpoints and log of trained members go to `out`. Members begin as those of `previous`."""
    key = jax.random.key(problem.training.seed + 1)
    if config.kind == "laplace":
        return Committee("laplace", laplace(problem, network, key, config.members))
    assert config.kind in ("deep", "shallow")
    fresh = jax.vmap(problem.model.init)(jax.random.split(key, config.members))
    if config.kind == "shallow":
        fresh = {"fitting": fresh["fitting"]}
    if previous is not None and (previous.kind, previous.size) == (config.kind, config.members):
        fresh = previous.members
    fresh.pop("constants", None)
    rng = np.random.default_rng([problem.training.seed, 1])
    shares = [rng.exponential(size=(config.members, len(b))) for b in problem.buckets]
    resampling = [np.pad(x, ((0, 0), (0, len(b.frame) - len(b)))) for x, b in zip(shares, problem.buckets, strict=True)]
    epochs = max(1, round(config.effort * problem.epochs))
    training = problem.training.model_copy(update={"epochs": epochs})
    fixed = network if config.kind == "shallow" or "constants" in network else {}
    several = replace(problem, training=training, resampling=resampling, fixed=fixed)
    out.mkdir(exist_ok=True)
    best, _ = train(several, jax.device_get(fresh), out, resume=resume, report=report, say=say)
    return Committee(config.kind, jax.device_get(best))  # type: ignore[arg-type]


def laplace(problem: Problem, network: Params, key: Array, members: int) -> Params:
    """Last layers (members, …) drawn from their posterior; an even number."""
    mine = {"fitting": {t: {"energy": x["energy"]} for t, x in network["fitting"].items()}}
    flat, unravel = ravel_pytree(mine)
    precision = np.zeros((len(flat), len(flat)))
    every = [(k, int(frame)) for k, index in enumerate(problem.train) for frame in index]
    some = np.random.default_rng(problem.training.seed).permutation(len(every))[:FRAMES]
    buckets = jax.device_put(list(problem.buckets))
    for k, frame in (every[q] for q in np.sort(some)):
        own = jax.random.fold_in(jax.random.fold_in(key, k), frame)
        one = np.array([frame], dtype=np.int32)
        found = _sensitivities(problem.model, network, problem.statistics, buckets[k], one, own, problem.loss)
        rows = np.asarray(found, dtype=np.float64)
        precision += len(every) / len(some) * rows.T @ rows
    prior = LOOSE * np.diag(precision).mean()
    values, vectors = np.linalg.eigh(precision)
    root = vectors / np.sqrt(np.maximum(values, 0.0) + prior)
    z = np.asarray(jax.random.normal(jax.random.fold_in(key, 10**6), (members // 2, len(flat))))
    away = z @ root.T
    drawn = np.asarray(flat, dtype=np.float64) + np.concatenate([away, -away])
    return jax.vmap(unravel)(jnp.asarray(drawn, dtype=flat.dtype))


@partial(jit, static_argnames=("model", "loss"))
def _sensitivities(
    model: FittedModel, network: Params, statistics: Statistics, bucket: Bucket, index: Array, key: Array, loss: LossConfig
) -> Array:
    """√p ∂(label)/∂θ of one frame: of its energy per atom and of random combinations of its forces, (1 + DIRECTIONS, θ)."""
    graph, targets = assemble(bucket, index, jnp.ones(1, dtype=bool))
    mine = {"fitting": {t: {"energy": x["energy"]} for t, x in network["fitting"].items()}}
    flat, unravel = ravel_pytree(mine)
    n = targets.n_atoms[0].astype(flat.dtype)
    positions = jnp.asarray(graph.positions)
    v = jax.random.normal(key, (DIRECTIONS, *positions.shape), dtype=positions.dtype)
    v = jnp.where(jnp.asarray(graph.atom_mask)[None, :, None], v, 0.0)

    def slope(positions: Array) -> Array:
        def energy(theta: Array) -> Array:
            params = {"network": merge(network, unravel(theta)), "statistics": statistics}
            return energies(model, params, graph, positions=positions, dtype=flat.dtype).sum()

        return jax.grad(energy)(flat)

    of_energy = slope(positions) / n * jnp.sqrt(targets.energy_weight[0] * loss.energy_end).astype(flat.dtype)
    of_forces = jax.vmap(lambda x: jax.jvp(slope, (positions,), (x,))[1])(v)
    weight = jnp.sqrt(targets.forces_weight[0] * loss.forces_end / (3.0 * DIRECTIONS)).astype(flat.dtype) / jnp.sqrt(n)
    return jnp.concatenate([of_energy[None], of_forces * weight])
