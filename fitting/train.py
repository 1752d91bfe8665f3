"""Minimise the loss: step after step, best and last checkpoints, exact resumption.

The order of batches follows from (seed, epoch) alone and every step is one compiled function per bucket, so a run continued
from a checkpoint is the uninterrupted run, bit for bit on CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.interrupts import undisturbed
from adatom.fitting.parallel import mesh, whole
from adatom.fitting.problem import Problem
from adatom.fitting.sharing import apart, together
from adatom.fitting.step import TrainState, decay, make_optimiser, make_step
from adatom.fitting.training_errors import Sums, add, evaluate, nothing, rmse, score
from adatom.potential.checkpoint import load_checkpoint, save_checkpoint
from adatom.potential.model import Params
from adatom.potential.model_file import write_atomically

Array = jax.Array
FEW = 8
"""Fewer validation frames do not decide which weights are kept: one odd frame among them would. The last ones are
kept, then, unless `patience` asks for a judgement."""


class Interrupted(Exception):  # noqa: N818
    """Training was stopped by the user; the checkpoint is saved."""


class Diverged(RuntimeError):  # noqa: N818
    """The loss is not finite any more; the message says what to do."""


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
    several = problem.resampling is not None
    split, whole_again = partial(apart, problem.model), partial(together, problem.model)
    trained = jax.vmap(split)(network) if several else split(network)
    opt = jax.vmap(begin)(trained) if several else begin(trained)
    state = TrainState(trained, trained, trained, opt, jnp.zeros((), dtype=jnp.int32))
    counters: dict[str, Any] = {"evaluated": 0, "best_score": None, "best_epoch": 0, "waited": 0, "seconds": 0.0}
    path, log = out / "checkpoint.zip", out / "log.jsonl"
    window: list[Sums] = []
    if resume and not path.exists():
        say("no checkpoint yet: starting from the beginning")
    elif resume:
        (state, carried), counters = load_checkpoint(path, (state, add([nothing(problem)])))
        window = [carried]
        say(f"resumed at step {int(state.step)} of {total}")
    _keep_log(log, counters["evaluated"])
    devices = mesh()
    buckets, resampling, fixed = whole((list(problem.buckets), problem.resampling, problem.fixed), devices)
    step, state = make_step(replace(problem, buckets=buckets, resampling=resampling, fixed=fixed), total), whole(state, devices)
    if devices is None:
        problem = replace(problem, buckets=buckets, resampling=resampling, fixed=fixed)
    start = last_save = time.monotonic()
    before = float(counters["seconds"])

    def save() -> None:
        counters["seconds"] = before + time.monotonic() - start
        with undisturbed():
            save_checkpoint(path, (jax.device_get(state), add([nothing(problem), *window])), counters)

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
                    "train": rmse(add(window)),
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
                    window = [add(window)]
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
    return jax.device_get(jax.vmap(whole_again)(state.best) if several else whole_again(state.best)), summary


def _after_evaluation(
    problem: Problem, state: TrainState, counters: dict[str, Any], line: dict[str, Any], log: Path
) -> tuple[TrainState, dict[str, Any]]:
    """Evaluate the averaged weights, keep them where they are the best so far (or there is no validation), write the log line."""
    has_validation = any(len(i) for i in problem.valid)
    sums = evaluate(problem, jax.device_get(state.average), problem.valid if has_validation else problem.train)
    now, best = score(sums, problem.loss), counters["best_score"]
    enough = sum(len(i) for i in problem.valid) >= (1 if problem.training.patience else FEW)
    weighed = bool((now > 0.0).all())  # else no validation frame has a label that the loss weighs at its end
    judged = enough and weighed and problem.training.keep == "best"
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
    chosen = jax.tree.map(choose, *jax.device_get((state.average, state.best)))
    return state._replace(best=whole(chosen, mesh())), {**counters, "best_score": best.tolist(), "best_epoch": line["epoch"]}


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
