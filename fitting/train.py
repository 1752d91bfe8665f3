"""Minimise the loss: optax's Adam, a learning-rate schedule, averaged weights, best and last checkpoints, exact resumption.

The order of batches in an epoch follows from (seed, epoch) alone and every step is one compiled function per bucket, so a run
continued from a checkpoint is the uninterrupted run, bit for bit on CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adatom.fitting.batches import Bucket, Targets, assemble, chunks
from adatom.fitting.config import LossConfig, TrainingConfig
from adatom.fitting.loss import Prefactors, loss
from adatom.potential.checkpoint import load_checkpoint, save_checkpoint
from adatom.potential.graph import Graph
from adatom.potential.model import Model, Params, Statistics
from adatom.potential.model_file import write_atomically
from adatom.potential.predict import Prediction, predict
from adatom.potential.units import GPA

Array = jax.Array
VISITS = 10_000_000
"""Atoms seen in a default training, all epochs together: about ten minutes of one core for the default model."""


class Interrupted(Exception):  # noqa: N818
    """Training was stopped by the user; the checkpoint is saved."""


class Diverged(RuntimeError):  # noqa: N818
    """The loss is not finite any more; the message says what to do."""


class TrainState(NamedTuple):
    """network, its moving average, the best average so far, optax's state, steps done ()."""

    network: Params
    average: Params
    best: Params
    optimiser: Any
    step: Array


class Sums(NamedTuple):
    """Weighted sums of squared errors and counts of frames: energy per atom, force components, stress components; scalars."""

    energy: Array
    n_energy: Array
    forces: Array
    n_forces: Array
    stress: Array
    n_stress: Array


@dataclass(frozen=True)
class Problem:
    """What is minimised over what. Buckets hold all frames; `train` and `valid` say, per bucket, which are for what."""

    model: Model
    statistics: Statistics
    buckets: Sequence[Bucket]
    train: Sequence[np.ndarray]
    valid: Sequence[np.ndarray]
    loss: LossConfig
    training: TrainingConfig

    @property
    def epochs(self) -> int:
        """As configured, or as many as make `VISITS` visits to atoms, at least 10 and at most 3000."""
        atoms = sum(int(np.asarray(b.targets.n_atoms)[i].sum()) for b, i in zip(self.buckets, self.train, strict=True))
        return self.training.epochs or int(np.clip(round(VISITS / max(atoms, 1)), 10, 3000))

    def frames_per_batch(self) -> list[int]:
        """Of every bucket, for about `batch_atoms` atoms."""
        sizes = [max(sum(b.atom_capacity), 1) for b in self.buckets]
        return [max(1, min(len(i), round(self.training.batch_atoms / n))) for n, i in zip(sizes, self.train, strict=True)]

    def batches(self, epoch: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(bucket, frames, present) of one epoch, in its order."""
        rng = np.random.default_rng([self.training.seed, epoch])
        jobs = []
        for k, (index, n) in enumerate(zip(self.train, self.frames_per_batch(), strict=True)):
            jobs += [(k, *chunk) for chunk in chunks(rng.permutation(index), n)]
        return [jobs[q] for q in rng.permutation(len(jobs))]

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(i) // n) for i, n in zip(self.train, self.frames_per_batch(), strict=True))


def decay(step: Array, total: int, config: TrainingConfig) -> Array:
    """Learning rate without warm-up, as a fraction of its start: from 1 to final/start over `total` steps."""
    x = jnp.minimum(step / total, 1.0)
    end = config.final_learning_rate / config.learning_rate
    if config.schedule == "cosine":
        return end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * x))
    return end**x if config.schedule == "exponential" else jnp.ones_like(x)


def make_optimiser(config: TrainingConfig, total: int) -> optax.GradientTransformation:
    """Clipped Adam with decoupled weight decay and the configured schedule."""

    def rate(step: Array) -> Array:
        warm = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        return (config.learning_rate * warm * decay(step, total, config)).astype(jnp.float32)

    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        optax.scale_by_adam(b2=0.999),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def make_step(problem: Problem, total: int) -> Callable[..., tuple[TrainState, Sums, Array]]:
    """The compiled train step: (state, bucket, index, present) -> (state, error sums, loss)."""
    training, optimiser = problem.training, make_optimiser(problem.training, total)

    @jax.jit
    def step(
        state: TrainState, statistics: Statistics, bucket: Bucket, index: Array, present: Array
    ) -> tuple[TrainState, Sums, Array]:
        weights = prefactors(problem.loss, decay(state.step, total, training))

        def objective(network: Params) -> tuple[Array, Sums]:
            graph, targets, out = forward(problem.model, network, statistics, bucket, index, present, training.precision)
            return loss(out, graph, targets, weights, problem.loss.huber or None), error_sums(out, graph, targets)

        (value, sums), gradient = jax.value_and_grad(objective, has_aux=True)(state.network)
        with jax.numpy_dtype_promotion("standard"):  # optax takes powers of an int32 count
            updates, opt = optimiser.update(gradient, state.optimiser, state.network)
        network = optax.apply_updates(state.network, updates)
        done = state.step.astype(jnp.float32)
        keep = jnp.minimum(training.ema_decay, (1.0 + done) / (10.0 + done)).astype(jnp.float32)
        keep = keep if training.ema_decay else jnp.zeros_like(keep)
        average = jax.tree.map(lambda a, n: keep.astype(a.dtype) * a + (1.0 - keep).astype(a.dtype) * n, state.average, network)
        return TrainState(network, average, state.best, opt, state.step + 1), sums, value

    return lambda state, bucket, index, present: step(state, problem.statistics, bucket, index, present)


def prefactors(config: LossConfig, fraction: Array) -> Prefactors:
    """p_end (1 − f) + p_start f with f the learning rate over its start."""

    def at(start: float, end: float) -> Array:
        return end + (start - end) * fraction

    return Prefactors(
        at(config.energy_start, config.energy_end),
        at(config.forces_start, config.forces_end),
        at(config.stress_start, config.stress_end),
    )


def forward(
    model: Model, network: Params, statistics: Statistics, bucket: Bucket, index: Array, present: Array, precision: str
) -> tuple[Graph, Targets, Prediction]:
    """Assemble a batch and predict it."""
    graph, targets = assemble(bucket, index, present)
    params = {"network": network, "statistics": statistics}
    return graph, targets, predict(model, params, graph, e0=jnp.asarray(statistics.e0), dtype=jnp.dtype(precision))


def error_sums(out: Prediction, graph: Graph, targets: Targets) -> Sums:
    """Unweighted sums over the frames whose weight is not zero."""
    on_e, on_f, on_s = (w > 0 for w in (targets.energy_weight, targets.forces_weight, targets.stress_weight))
    n = targets.n_atoms.astype(out.energy.dtype)
    e = jnp.where(on_e, (out.energy - targets.energy) / n, 0.0)
    rows = on_f[graph.structure] & graph.atom_mask
    f = jnp.where(rows[:, None], out.forces.astype(e.dtype) - targets.forces, 0.0)
    s = jnp.where(on_s[:, None, None], out.stress - targets.stress, 0.0)
    return Sums((e * e).sum(), on_e.sum(), (f * f).sum(), 3 * rows.sum(), (s * s).sum(), 9 * on_s.sum())


@partial(jax.jit, static_argnames=("model", "precision"))
def _evaluate(
    model: Model, network: Params, statistics: Statistics, bucket: Bucket, index: Array, present: Array, precision: str
) -> Sums:
    graph, targets, out = forward(model, network, statistics, bucket, index, present, precision)
    return error_sums(out, graph, targets)


def evaluate(problem: Problem, network: Params, which: Sequence[np.ndarray]) -> dict[str, float | None]:
    """RMSE over frames of the buckets: energy meV/atom, forces meV/Å, stress GPa; None where there is no label."""
    total: list[Sums] = []
    for bucket, index, n in zip(problem.buckets, which, problem.frames_per_batch(), strict=True):
        for chunk, present in chunks(index, n):
            total.append(
                _evaluate(problem.model, network, problem.statistics, bucket, chunk, present, problem.training.precision)
            )
    return rmse(total)


def rmse(sums: Sequence[Sums]) -> dict[str, float | None]:
    """Root mean square errors in report units from sums of several batches."""
    t = np.sum([[float(x) for x in s] for s in sums], axis=0) if sums else np.zeros(6)

    def root(square: float, count: float, factor: float) -> float | None:
        return factor * float(np.sqrt(square / count)) if count else None

    return {
        "energy_rmse": root(t[0], t[1], 1e3),
        "forces_rmse": root(t[2], t[3], 1e3),
        "stress_rmse": root(t[4], t[5], 1.0 / GPA),
    }


def score(errors: dict[str, float | None], config: LossConfig) -> float:
    """The loss at its final prefactors from RMSEs in report units: what decides which weights are best."""
    terms = (
        (config.energy_end, errors["energy_rmse"], 1e-3),
        (config.forces_end, errors["forces_rmse"], 1e-3),
        (config.stress_end, errors["stress_rmse"], GPA),
    )
    return sum(p * (e * unit) ** 2 for p, e, unit in terms if e is not None)


def train(
    problem: Problem,
    network: Params,
    out: Path,
    *,
    resume: bool,
    report: Callable[[int, int], None],
    say: Callable[[str], None],
) -> tuple[Params, dict[str, Any]]:
    """Run to the end and return the best averaged network and a summary.

    Writes `out/checkpoint.zip` at intervals and at the end, and one line per evaluation to `out/log.jsonl`. Raises Interrupted
    after Ctrl-C (state saved), Diverged where the loss is not finite, CheckpointError where the checkpoint cannot be used; a run
    killed before its first checkpoint starts from the beginning.
    """
    training, epochs, per_epoch = problem.training, problem.epochs, problem.steps_per_epoch
    total = epochs * per_epoch
    every = training.evaluate_every or max(1, epochs // 50)
    step = make_step(problem, total)
    state = TrainState(network, network, network, make_optimiser(training, total).init(network), jnp.zeros((), dtype=jnp.int32))
    counters: dict[str, Any] = {"evaluated": 0, "best_score": None, "best_epoch": 0, "waited": 0, "seconds": 0.0}
    path, log = out / "checkpoint.zip", out / "log.jsonl"
    window: list[Sums] = []
    if resume and not path.exists():
        say("no checkpoint yet: starting from the beginning")
    elif resume:
        (state, carried), counters = load_checkpoint(path, (state, Sums(*np.zeros(6))))
        window = [carried]
        say(f"resumed at step {int(state.step)} of {total}")
    _keep_log(log, counters["evaluated"])
    buckets = jax.device_put(list(problem.buckets))
    problem = replace(problem, buckets=buckets)
    state = jax.device_put(state)
    start = last_save = time.monotonic()
    before = float(counters["seconds"])

    def save() -> None:
        counters["seconds"] = before + time.monotonic() - start
        save_checkpoint(path, (jax.device_get(state), _merge(window)), counters)

    try:
        while True:
            done = int(state.step)
            epoch, first = divmod(done, per_epoch)
            if first == 0 and counters["evaluated"] < epoch and (epoch % every == 0 or epoch == epochs):
                line = {
                    "epoch": epoch,
                    "step": done,
                    "learning_rate": float(training.learning_rate * decay(state.step, total, training)),
                    "seconds": round(before + time.monotonic() - start, 2),
                    "train": rmse(window),
                }
                state, counters = _after_evaluation(problem, state, counters, line, log)
                window = []
            if training.patience and counters["waited"] >= training.patience:
                say(f"stopped early at epoch {epoch}: no improvement in {training.patience} evaluations")
                break
            if done >= total:
                break
            value = jnp.zeros(())
            for k, index, present in problem.batches(epoch)[first:]:
                state, sums, value = step(state, buckets[k], index, present)
                window.append(sums)
                if len(window) >= 256:
                    window = [_merge(window)]
                done += 1
                report(done, total)
                if time.monotonic() - last_save > training.checkpoint_seconds:
                    save()
                    last_save = time.monotonic()
            if not np.isfinite(float(value)):
                raise Diverged(
                    f"the loss is {float(value)} at step {done} of {total}: lower training.learning_rate (now "
                    f"{training.learning_rate}) or look at `adatom audit` for broken labels"
                )
    except KeyboardInterrupt:
        save()
        raise Interrupted(f"stopped at step {int(state.step)} of {total}; checkpoint saved") from None
    save()
    summary = {
        "epochs": int(state.step) // per_epoch, "steps": int(state.step), "best_epoch": counters["best_epoch"],
        "seconds": round(counters["seconds"], 1), "frames_per_batch": problem.frames_per_batch(),
        "compilations": len(problem.buckets),
    }  # fmt: skip
    return jax.device_get(state.best), summary


def _after_evaluation(
    problem: Problem, state: TrainState, counters: dict[str, Any], line: dict[str, Any], log: Path
) -> tuple[TrainState, dict[str, Any]]:
    """Evaluate the averaged weights, keep them where they are the best so far (or there is no validation), write the log line."""
    has_validation = any(len(i) for i in problem.valid)
    errors = evaluate(problem, state.average, problem.valid if has_validation else problem.train)
    now = score(errors, problem.loss)
    judged = has_validation and now > 0.0  # else no validation frame has a label that the loss weighs at its end
    better = not judged or counters["best_score"] is None or now < counters["best_score"]
    with open(log, "a", encoding="utf-8") as f:
        f.write(json.dumps({**line, "validation": errors if has_validation else None, "best": better}) + "\n")
    counters = {**counters, "evaluated": line["epoch"], "waited": 0 if better else counters["waited"] + 1}
    if not better:
        return state, counters
    return state._replace(best=state.average), {**counters, "best_score": now, "best_epoch": line["epoch"]}


def _merge(window: Sequence[Sums]) -> Sums:
    return Sums(*np.sum([[float(x) for x in s] for s in window], axis=0)) if window else Sums(*np.zeros(6))


def _epoch_of(line: str) -> float:
    try:
        return int(json.loads(line)["epoch"])
    except ValueError:  # a kill in the middle of writing it
        return float("inf")


def _keep_log(path: Path, evaluated: int) -> None:
    """Drop lines after the epoch `evaluated`: a resumed run appends to what its checkpoint knows."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [x for x in lines if _epoch_of(x) <= evaluated]
    write_atomically(path, "".join(x + "\n" for x in kept).encode())
