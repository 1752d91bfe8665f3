"""One compiled step: gradient of the loss, SOAP or Adam with a schedule, moving average of the weights.

The members of a committee are trained together, `vmap`ped over stacked parameters: they see the same batches with weights of
their own (Bayesian bootstrap: Rubin, Ann. Stat. 9, 130 (1981)). Nothing that changes from one fit to the next of a campaign is
compiled in: numbers of frames are of few sizes (`sizes`), and the number of steps is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from adatom.fitting.batches import Bucket, Targets
from adatom.fitting.config import LossConfig, TrainingConfig
from adatom.fitting.loss import Prefactors, loss
from adatom.fitting.parallel import AXIS, mesh, on_each, parts
from adatom.fitting.problem import Problem, forward
from adatom.fitting.soap import scale_by_soap
from adatom.fitting.training_errors import Sums, error_sums
from adatom.potential.compilation import jit
from adatom.potential.model import FittedModel, Params, Statistics

Array = jax.Array
NOT_COMPILED = ("epochs", "batch_atoms", "patience", "evaluate_every", "checkpoint_seconds", "max_buckets", "seed", "keep")
"""Settings of a training that the compiled step does not depend on."""


class TrainState(NamedTuple):
    """network, its moving average, the best average so far, optax's state, steps done (). With members, all but the last have a
    leading axis."""

    network: Params
    average: Params
    best: Params
    optimiser: Any
    step: Array


def decay(step: Array, total: int | Array, config: TrainingConfig) -> Array:
    """Learning rate without warm-up, as a fraction of its start: from 1 to final/start over `total` steps."""
    x = jnp.minimum(step / total, 1.0)
    end = config.final_learning_rate / config.learning_rate
    if config.schedule == "cosine":
        return end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * x))
    return end**x if config.schedule == "exponential" else jnp.ones_like(x)


def make_optimiser(config: TrainingConfig, total: int | Array) -> optax.GradientTransformationExtraArgs:
    """Of clipped gradients, with decoupled weight decay and the configured schedule; `update` asks for `step` ()."""

    def rate(step: Array) -> Array:
        warm = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        return (config.learning_rate * warm * decay(step, total, config)).astype(jnp.float32)

    own = scale_by_soap() if config.optimiser == "soap" else optax.scale_by_adam(b2=0.999)
    chain = optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        own,
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    return optax.with_extra_args_support(chain)


def make_step(problem: Problem, total: int) -> Callable[..., tuple[TrainState, Sums, Array]]:
    """The compiled train step: (state, number of the bucket, index, present) -> (state, error sums, loss)."""
    devices = mesh()
    unused: dict[str, Any] = {name: TrainingConfig.model_fields[name].default for name in NOT_COMPILED}
    static = problem.model, problem.loss, problem.training.model_copy(update=unused)
    steps = jnp.asarray(total, dtype=jnp.int32)

    def call(state: TrainState, k: int, index: np.ndarray, present: np.ndarray) -> tuple[TrainState, Sums, Array]:
        own = None if problem.resampling is None else problem.resampling[k]
        batch = parts(index, devices), parts(present, devices)
        return _step(*static, devices, state, steps, problem.statistics, problem.fixed, problem.buckets[k], own, *batch)

    return call


@partial(jit, static_argnames=("model", "loss_config", "training", "devices"))
def _step(
    model: FittedModel, loss_config: LossConfig, training: TrainingConfig, devices: Mesh | None, *arguments: Any
) -> tuple[TrainState, Sums, Array]:
    if devices is None:
        return _on_one(model, loss_config, training, None, *arguments)
    divided = (*[False] * (len(arguments) - 2), True, True)
    each = on_each(partial(_on_one, model, loss_config, training, AXIS), devices, divided)
    found: tuple[TrainState, Sums, Array] = each(*arguments)
    return found


def _on_one(
    model: FittedModel, loss_config: LossConfig, training: TrainingConfig, across: str | None, state: TrainState, total: Array,
    statistics: Statistics, fixed: Params, bucket: Bucket, resampling: Array | None, index: Array, present: Array,
) -> tuple[TrainState, Sums, Array]:  # fmt: skip
    """across: the axis of the devices that have other parts of the batch."""
    optimiser = make_optimiser(training, total)
    weights = prefactors(loss_config, decay(state.step, total, training))
    done = state.step.astype(jnp.float32)
    keep = jnp.minimum(training.ema_decay, (1.0 + done) / (10.0 + done)).astype(jnp.float32)
    keep = keep if training.ema_decay else jnp.zeros_like(keep)

    def one(network: Params, average: Params, opt: Any, own: Array | None) -> tuple[Params, Params, Any, Sums, Array]:
        def objective(network: Params) -> tuple[Array, Sums]:
            graph, targets, out = forward(model, network, fixed, statistics, bucket, index, present, training.precision)
            targets = targets if own is None else reweighted(targets, own[index])
            value = loss(out, graph, targets, weights, loss_config.huber or None, across)
            return value, error_sums(out, graph, targets)

        (value, sums), gradient = jax.value_and_grad(objective, has_aux=True)(network)
        if across:
            value, sums, gradient = jax.lax.psum((value, sums, gradient), across)
        with jax.numpy_dtype_promotion("standard"):  # optax takes powers of an int32 count
            updates, opt = optimiser.update(gradient, opt, network, step=state.step)
        network = optax.apply_updates(network, updates)
        average = jax.tree.map(lambda a, n: keep.astype(a.dtype) * a + (1.0 - keep).astype(a.dtype) * n, average, network)
        return network, average, opt, sums, value

    every = one if resampling is None else jax.vmap(one)
    network, average, opt, sums, value = every(state.network, state.average, state.optimiser, resampling)
    return TrainState(network, average, state.best, opt, state.step + 1), sums, value


def reweighted(targets: Targets, weights: Array) -> Targets:
    """Frames (s,) with other weights."""
    w = weights.astype(targets.energy_weight.dtype)
    return replace(
        targets, energy_weight=targets.energy_weight * w, forces_weight=targets.forces_weight * w,
        stress_weight=targets.stress_weight * w,
    )  # fmt: skip


def prefactors(config: LossConfig, fraction: Array) -> Prefactors:
    """p_end (1 − f) + p_start f with f the learning rate over its start."""

    def at(start: float, end: float) -> Array:
        return end + (start - end) * fraction

    return Prefactors(
        at(config.energy_start, config.energy_end),
        at(config.forces_start, config.forces_end),
        at(config.stress_start, config.stress_end),
    )
