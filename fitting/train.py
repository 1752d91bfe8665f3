"""Minimise the loss: optax's Adam, a learning-rate schedule, averaged weights, best and last checkpoints, exact resumption.

The order of batches in an epoch follows from (seed, epoch) alone and every step is one compiled function per bucket, so a run
continued from a checkpoint is the uninterrupted run, bit for bit on CPU.

The members of a committee are trained together, `vmap`ped over stacked parameters: they see the same batches with weights of
their own (Bayesian bootstrap: Rubin, Ann. Stat. 9, 130 (1981)), and what they share is computed once.

Nothing that changes from one fit to the next of a campaign is compiled in: numbers of frames are of few sizes (`sizes`), and the
number of steps is an argument.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adatom.fitting.batches import Bucket, Targets, assemble, chunks
from adatom.fitting.config import LossConfig, TrainingConfig, epochs_of
from adatom.fitting.interrupts import undisturbed
from adatom.fitting.loss import Prefactors, loss
from adatom.fitting.sizes import few
from adatom.potential.checkpoint import load_checkpoint, save_checkpoint
from adatom.potential.committee import merge
from adatom.potential.compilation import jit
from adatom.potential.graph import Graph
from adatom.potential.kernels import kernel
from adatom.potential.model import EnergyModel, FittedModel, Params, Statistics
from adatom.potential.model_file import write_atomically
from adatom.potential.predict import Prediction, predict
from adatom.potential.units import GPA

Array = jax.Array
NOT_COMPILED = ("epochs", "batch_atoms", "patience", "evaluate_every", "checkpoint_seconds", "max_buckets", "seed")
"""Settings of a training that the compiled step does not depend on."""
FEW = 8
"""Fewer validation frames do not decide which weights are kept: one odd frame among them would. The last ones are
kept, then, unless `patience` asks for a judgement."""


class Interrupted(Exception):  # noqa: N818
    """Training was stopped by the user; the checkpoint is saved."""


class Diverged(RuntimeError):  # noqa: N818
    """The loss is not finite any more; the message says what to do."""


class TrainState(NamedTuple):
    """network, its moving average, the best average so far, optax's state, steps done (). With members, all but the last have a
    leading axis."""

    network: Params
    average: Params
    best: Params
    optimiser: Any
    step: Array


class Sums(NamedTuple):
    """Weighted sums of squared errors and counts of frames: energy per atom, force components, stress components; scalars, or one
    of each member."""

    energy: Array
    n_energy: Array
    forces: Array
    n_forces: Array
    stress: Array
    n_stress: Array


@dataclass(frozen=True)
class Problem:
    """What is minimised over what. Buckets hold all frames; `train` and `valid` say, per bucket, which are for what.

    resampling: of a committee, per bucket the weights (members, frames) of its frames; None for a single network. fixed: a whole
    network, of which the trained part replaces what it has.
    """

    model: FittedModel
    statistics: Statistics
    buckets: Sequence[Bucket]
    train: Sequence[np.ndarray]
    valid: Sequence[np.ndarray]
    loss: LossConfig
    training: TrainingConfig
    fixed: Params = field(default_factory=dict)
    resampling: Sequence[np.ndarray] | None = None

    @property
    def epochs(self) -> int:
        """As configured, or as many as the data ask for."""
        atoms = sum(int(np.asarray(b.targets.n_atoms)[i].sum()) for b, i in zip(self.buckets, self.train, strict=True))
        return epochs_of(self.training, atoms)

    def frames_per_batch(self) -> list[int]:
        """Of every bucket, for about `batch_atoms` atoms."""
        sizes = [max(sum(b.atom_capacity), 1) for b in self.buckets]
        most = [max(1, round(self.training.batch_atoms / n)) for n in sizes]
        return [max(1, min(few(len(i)), n)) for n, i in zip(most, self.train, strict=True)]

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


def decay(step: Array, total: int | Array, config: TrainingConfig) -> Array:
    """Learning rate without warm-up, as a fraction of its start: from 1 to final/start over `total` steps."""
    x = jnp.minimum(step / total, 1.0)
    end = config.final_learning_rate / config.learning_rate
    if config.schedule == "cosine":
        return end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * x))
    return end**x if config.schedule == "exponential" else jnp.ones_like(x)


def make_optimiser(config: TrainingConfig, total: int | Array) -> optax.GradientTransformation:
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
    """The compiled train step: (state, number of the bucket, index, present) -> (state, error sums, loss)."""
    unused: dict[str, Any] = {name: TrainingConfig.model_fields[name].default for name in NOT_COMPILED}
    static = problem.model, problem.loss, problem.training.model_copy(update=unused)
    steps = jnp.asarray(total, dtype=jnp.int32)

    def call(state: TrainState, k: int, index: np.ndarray, present: np.ndarray) -> tuple[TrainState, Sums, Array]:
        own = None if problem.resampling is None else problem.resampling[k]
        return _step(*static, state, steps, problem.statistics, problem.fixed, problem.buckets[k], index, present, own)

    return call


@partial(jit, static_argnames=("model", "loss_config", "training"))
def _step(
    model: FittedModel, loss_config: LossConfig, training: TrainingConfig, state: TrainState, total: Array,
    statistics: Statistics, fixed: Params, bucket: Bucket, index: Array, present: Array, resampling: Array | None,
) -> tuple[TrainState, Sums, Array]:  # fmt: skip
    optimiser = make_optimiser(training, total)
    weights = prefactors(loss_config, decay(state.step, total, training))
    done = state.step.astype(jnp.float32)
    keep = jnp.minimum(training.ema_decay, (1.0 + done) / (10.0 + done)).astype(jnp.float32)
    keep = keep if training.ema_decay else jnp.zeros_like(keep)

    def one(network: Params, average: Params, opt: Any, own: Array | None) -> tuple[Params, Params, Any, Sums, Array]:
        def objective(network: Params) -> tuple[Array, Sums]:
            whole = merge(fixed, network) if fixed else network
            graph, targets, out = forward(model, whole, statistics, bucket, index, present, training.precision)
            targets = targets if own is None else reweighted(targets, own[index])
            return loss(out, graph, targets, weights, loss_config.huber or None), error_sums(out, graph, targets)

        (value, sums), gradient = jax.value_and_grad(objective, has_aux=True)(network)
        with jax.numpy_dtype_promotion("standard"):  # optax takes powers of an int32 count
            updates, opt = optimiser.update(gradient, opt, network)
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


def forward(
    model: FittedModel, network: Params, statistics: Statistics, bucket: Bucket, index: Array, present: Array, precision: str
) -> tuple[Graph, Targets, Prediction]:
    """Assemble a batch and predict it, by the compiled kernel where there is one."""
    graph, targets = assemble(bucket, index, present)
    params = {"network": network, "statistics": statistics}
    fast: tuple[EnergyModel, Params] = kernel(model, params, precision) or (model, params)
    out = predict(fast[0], fast[1], graph, e0=jnp.asarray(statistics.e0), dtype=jnp.dtype(precision))
    return graph, targets, out


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
        whole = merge(fixed, network) if fixed else network
        graph, targets, out = forward(model, whole, statistics, bucket, index, present, precision)
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
    return _merge(total)


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


def train(
    problem: Problem,
    network: Params,
    out: Path,
    *,
    resume: bool,
    report: Callable[[int, int], None],
    say: Callable[[str], None],
) -> tuple[Params, dict[str, Any]]:
    """Run to the end and return the best averaged network (or of each member its own best) and a summary.

    Writes `out/checkpoint.zip` at intervals and at the end, and one line per evaluation to `out/log.jsonl`. Raises Interrupted
    after Ctrl-C (state saved), Diverged where the loss is not finite, CheckpointError where the checkpoint cannot be used; a run
    killed before its first checkpoint starts from the beginning.
    """
    training, epochs, per_epoch = problem.training, problem.epochs, problem.steps_per_epoch
    total = epochs * per_epoch
    every = training.evaluate_every or max(1, epochs // 50)
    begin = make_optimiser(training, total).init
    opt = begin(network) if problem.resampling is None else jax.vmap(begin)(network)
    state = TrainState(network, network, network, opt, jnp.zeros((), dtype=jnp.int32))
    counters: dict[str, Any] = {"evaluated": 0, "best_score": None, "best_epoch": 0, "waited": 0, "seconds": 0.0}
    path, log = out / "checkpoint.zip", out / "log.jsonl"
    window: list[Sums] = []
    if resume and not path.exists():
        say("no checkpoint yet: starting from the beginning")
    elif resume:
        (state, carried), counters = load_checkpoint(path, (state, _merge([_nothing(problem)])))
        window = [carried]
        say(f"resumed at step {int(state.step)} of {total}")
    _keep_log(log, counters["evaluated"])
    buckets, resampling, fixed = jax.device_put((list(problem.buckets), problem.resampling, problem.fixed))
    problem = replace(problem, buckets=buckets, resampling=resampling, fixed=fixed)
    step, state = make_step(problem, total), jax.device_put(state)
    start = last_save = time.monotonic()
    before = float(counters["seconds"])

    def save() -> None:
        counters["seconds"] = before + time.monotonic() - start
        with undisturbed():
            save_checkpoint(path, (jax.device_get(state), _merge([_nothing(problem), *window])), counters)

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
                    "train": rmse(_merge(window)),
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
                state, sums, value = step(state, k, index, present)
                window.append(sums)
                if len(window) >= 256:
                    window = [_merge(window)]
                done += 1
                report(done, total)
                if time.monotonic() - last_save > training.checkpoint_seconds:
                    save()
                    last_save = time.monotonic()
            if not np.isfinite(np.asarray(value)).all():
                raise Diverged(
                    f"the loss is {float(np.sum(value))} at step {done} of {total}: lower training.learning_rate (now "
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
    sums = evaluate(problem, state.average, problem.valid if has_validation else problem.train)
    now, best = score(sums, problem.loss), counters["best_score"]
    enough = sum(len(i) for i in problem.valid) >= (1 if problem.training.patience else FEW)
    judged = enough and bool((now > 0.0).all())  # else no validation frame has a label that the loss weighs at its end
    better = np.full(now.shape, True) if not judged or best is None else now < np.asarray(best)
    with open(log, "a", encoding="utf-8") as f:
        errors = rmse(sums) if has_validation else None
        f.write(json.dumps({**line, "validation": errors, "best": bool(better.any())}) + "\n")
    counters = {**counters, "evaluated": line["epoch"], "waited": 0 if better.any() else counters["waited"] + 1}
    if not better.any():
        return state, counters

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    best = now if best is None else np.where(better, now, best)
    chosen = jax.tree.map(choose, state.average, state.best)
    return state._replace(best=chosen), {**counters, "best_score": best.tolist(), "best_epoch": line["epoch"]}


def _merge(window: Sequence[Sums]) -> Sums:
    """The sum of several; with none, of nothing."""
    if not window:
        return Sums(*np.zeros(6))
    return Sums(*np.sum([[np.asarray(x, dtype=np.float64) for x in s] for s in window], axis=0))


def _nothing(problem: Problem) -> Sums:
    return Sums(*np.zeros((6, *(() if problem.resampling is None else problem.resampling[0].shape[:1]))))


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
