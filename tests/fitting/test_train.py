"""Training: planted potentials are recovered, and a run that was stopped or killed ends as if it never had been."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from helpers import evaluate_all, make_potential, symmetry_functions
from jax.experimental.compilation_cache import compilation_cache

from adatom.fitting.batches import make_buckets, neighbourhoods
from adatom.fitting.config import LossConfig, TrainingConfig
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.problem import Problem
from adatom.fitting.statistics import make_statistics
from adatom.fitting.step import TrainState, make_optimiser, make_step
from adatom.fitting.train import Diverged, Interrupted, train
from adatom.fitting.training_errors import evaluate, rmse, score
from adatom.potential.checkpoint import CheckpointError
from adatom.potential.model import Params
from adatom.potential.model_file import load
from adatom.potential.potential import flatten
from adatom.potential.structure import from_atoms
from adatom.potential.units import GPA

TINY = symmetry_functions(cutoff=3.6, n_radial=3, n_angular=1, zetas=(1.0,))
SETTINGS = {
    "epochs": 5, "batch_atoms": 32, "evaluate_every": 2, "warmup_steps": 5, "learning_rate": 1e-2, "weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compile fast, and each program once: what is trained here is compiled in many runs."""
    folder = tmp_path_factory.mktemp("xla")
    settings = {
        "jax_disable_most_optimizations": True, "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }  # fmt: skip
    before = {
        name: jax.config.read(name) if name.startswith("jax_dis") else getattr(jax.config, name) for name in settings
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def planted() -> Problem:
    """Energies, forces and stresses of a potential with random weights; the fit starts from other weights."""
    truth = make_potential((29,), TINY, seed=4, min_distance=1.5)
    rng = np.random.default_rng(0)
    structures = []
    for _ in range(36):
        atoms = bulk("Cu", cubic=True, a=3.7 * (1 + 0.04 * rng.normal()))
        atoms.positions += rng.normal(0, 0.15, (4, 3))
        structures.append(from_atoms(atoms))
    labels = evaluate_all(truth.model, truth.params, structures)
    frames = [Frame(s, Labels(x.energy, x.forces, x.stress)) for s, x in zip(structures, labels, strict=True)]
    items = neighbourhoods(frames, truth.model.elements, truth.model.cutoff)
    (bucket,) = make_buckets(frames, items, 1)
    network = truth.model.init(jax.random.key(1))
    e0 = np.asarray(truth.statistics.e0)
    statistics = make_statistics(truth.model, network, frames, items, [bucket], e0)
    rows = np.arange(len(frames))
    training = TrainingConfig(**SETTINGS)  # type: ignore[arg-type]
    return Problem(truth.model, statistics, [bucket], [rows[:30]], [rows[30:]], LossConfig(), training)


def with_training(problem: Problem, **settings: Any) -> Problem:
    return dataclasses.replace(problem, training=problem.training.model_copy(update=settings))


def start(problem: Problem) -> Params:
    return problem.model.init(jax.random.key(1))


def run(
    problem: Problem, out: Path, *, resume: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Params, dict[str, Any], list[str]]:
    said: list[str] = []
    best, summary = train(problem, start(problem), out, resume=resume, report=report, say=said.append)
    return best, summary, said


def log_of(out: Path) -> list[dict[str, Any]]:
    """log.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(a: Params, b: Params) -> None:
    left, right = flatten(a), flatten(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(np.asarray(left[name]), np.asarray(right[name]), err_msg=name)


@pytest.fixture(scope="module")
def whole(planted: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params, dict[str, Any]]:
    """The run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    best, summary, _ = run(planted, out)
    return out, best, summary


def test_a_planted_potential_is_recovered(planted: Problem, tmp_path: Path) -> None:
    problem = with_training(planted, epochs=400, ema_decay=0.98, evaluate_every=40, learning_rate=1e-2)
    problem = dataclasses.replace(problem, loss=LossConfig(forces_start=30.0, forces_end=30.0))
    before = rmse(evaluate(problem, start(problem), problem.valid))
    best, _, _ = run(problem, tmp_path)
    after = rmse(evaluate(problem, best, problem.valid))
    for name, factor in (("energy_rmse", 20), ("forces_rmse", 10), ("stress_rmse", 10)):
        assert after[name] < before[name] / factor  # type: ignore[operator]
    lines = log_of(tmp_path)
    assert [x["epoch"] for x in lines] == list(range(40, 401, 40))
    rates = [x["learning_rate"] for x in lines]
    assert all(a > b for a, b in zip(rates, rates[1:], strict=False))
    assert rates[-1] == pytest.approx(problem.training.final_learning_rate)


def test_the_summary_and_the_log(planted: Problem, whole: tuple[Path, Params, dict[str, Any]]) -> None:
    out, best, summary = whole
    assert (summary["epochs"], summary["steps"], summary["compilations"]) == (5, 5 * planted.steps_per_epoch, 1)
    assert summary["frames_per_batch"] == [8]
    lines = log_of(out)
    assert [x["epoch"] for x in lines] == [2, 4, 5]
    assert summary["best_epoch"] == [x["epoch"] for x in lines if x["best"]][-1]
    sums = evaluate(planted, best, planted.valid)
    errors = rmse(sums)
    chosen = next(x for x in lines if x["epoch"] == summary["best_epoch"])
    assert errors == pytest.approx(chosen["validation"])
    final = planted.loss
    least = [final.energy_end * (1e-3 * e["energy_rmse"]) ** 2 + final.forces_end * (1e-3 * e["forces_rmse"]) ** 2
             + final.stress_end * (GPA * e["stress_rmse"]) ** 2 for e in (x["validation"] for x in lines)]  # fmt: skip
    assert score(sums, final) == pytest.approx(least[-1]), "six frames judge nothing: the last weights are kept"


def test_the_same_seed_is_the_same_run(
    planted: Problem, whole: tuple[Path, Params, dict[str, Any]], tmp_path: Path
) -> None:
    best, _, _ = run(planted, tmp_path)
    assert_same(best, whole[1])
    assert log_of(tmp_path) == log_of(whole[0])


def test_stopped_and_resumed_is_uninterrupted(
    planted: Problem, whole: tuple[Path, Params, dict[str, Any]], tmp_path: Path
) -> None:
    """At the first step, within an epoch, at its end, after an evaluation, twice in a row, and at the last step."""
    per_epoch, last = planted.steps_per_epoch, planted.epochs * planted.steps_per_epoch
    for stop in (1, per_epoch + 1, 2 * per_epoch, 2 * per_epoch + 1, last):

        def press(done: int, total: int, stop: int = stop) -> None:
            assert total == last
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match=f"stopped at step {stop} of {last}; checkpoint saved"):
            run(planted, tmp_path, resume=stop > 1, report=press)
    best, summary, said = run(planted, tmp_path, resume=True)
    assert said == [f"resumed at step {last} of {last}"]
    assert_same(best, whole[1])
    assert log_of(tmp_path) == log_of(whole[0])
    assert {k: v for k, v in summary.items() if k != "seconds"} == {k: v for k, v in whole[2].items() if k != "seconds"}


def test_a_finished_run_is_only_read(planted: Problem, whole: tuple[Path, Params, dict[str, Any]]) -> None:
    best, _, _ = run(planted, whole[0], resume=True)
    assert_same(best, whole[1])


def test_work_after_the_last_checkpoint_is_done_again(
    planted: Problem, whole: tuple[Path, Params, dict[str, Any]], tmp_path: Path
) -> None:
    """As after a kill: the log knows more than the checkpoint, and its last line is torn."""

    def press(done: int, total: int) -> None:
        if done == planted.steps_per_epoch:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(planted, tmp_path, report=press)
    line = (whole[0] / "log.jsonl").read_text().splitlines()[0]
    torn = line[: line.index("}") + 1]
    (tmp_path / "log.jsonl").write_text(f"{line}\n{torn}")
    best, _, _ = run(planted, tmp_path, resume=True)
    assert_same(best, whole[1])
    assert log_of(tmp_path) == log_of(whole[0])


def test_killed_before_the_first_checkpoint(
    planted: Problem, whole: tuple[Path, Params, dict[str, Any]], tmp_path: Path
) -> None:
    best, _, said = run(planted, tmp_path, resume=True)
    assert said == ["no checkpoint yet: starting from the beginning"]
    assert_same(best, whole[1])


def test_a_damaged_checkpoint(planted: Problem, whole: tuple[Path, Params, dict[str, Any]], tmp_path: Path) -> None:
    content = (whole[0] / "checkpoint.zip").read_bytes()
    (tmp_path / "checkpoint.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        run(planted, tmp_path, resume=True)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_last_weights_are_kept_where_asked_and_of_few_validation_frames(
    planted: Problem, tmp_path: Path, keep: str
) -> None:
    """Steps so large that errors grow."""
    frames = 2 if keep == "best" else None
    few = dataclasses.replace(planted, valid=[rows[:frames] for rows in planted.valid])
    large = {"learning_rate": 0.5, "final_learning_rate": 0.5, "ema_decay": 0.0, "warmup_steps": 0}
    problem = with_training(few, evaluate_every=1, keep=keep, **large)
    _, summary, _ = run(problem, tmp_path)
    assert summary["best_epoch"] == problem.epochs


def test_early_stopping(planted: Problem, tmp_path: Path) -> None:
    """Steps too small to change a weight: the first evaluation stays the best."""
    tiny = {"learning_rate": 1e-30, "final_learning_rate": 1e-30, "ema_decay": 0.0}
    problem = with_training(planted, patience=1, evaluate_every=1, **tiny)
    best, summary, said = run(problem, tmp_path)
    assert summary["epochs"] == 2 < problem.epochs
    assert summary["best_epoch"] == 1
    assert said == ["stopped early at epoch 2: no improvement in 1 evaluations"]
    again, resumed, _ = run(problem, tmp_path, resume=True)
    assert_same(again, best)
    assert resumed["epochs"] == 2


def test_nan_is_divergence(planted: Problem, tmp_path: Path) -> None:
    (bucket,) = planted.buckets
    energy = np.array(bucket.targets.energy)
    energy[0] = np.nan
    broken = dataclasses.replace(bucket, targets=dataclasses.replace(bucket.targets, energy=energy))
    with pytest.raises(Diverged, match=r"the loss is nan at step 4 of 20: lower training.learning_rate \(now 0.01\)"):
        run(dataclasses.replace(planted, buckets=[broken]), tmp_path)


def test_averaged_weights(planted: Problem) -> None:
    """average ← keep · average + (1 − keep) · network, keep = min(decay, (1 + step)/(10 + step))."""
    problem = with_training(planted, ema_decay=0.15)
    step = make_step(problem, 20)
    network = start(problem)
    optimiser = make_optimiser(problem.training, 20).init(network)
    state = TrainState(network, network, network, optimiser, np.zeros((), dtype=np.int32))
    state = jax.device_put(state)
    expected = flatten(jax.tree.map(np.asarray, network))
    for t, (_, index, present) in enumerate(problem.batches(0)):
        state, _, _ = step(state, 0, index, present)
        keep = min(0.15, (1 + t) / (10 + t))
        now = flatten(state.network)
        expected = {k: keep * x + (1 - keep) * np.asarray(now[k]) for k, x in expected.items()}
        for name, value in flatten(state.average).items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-6, atol=1e-7)
    assert any((np.asarray(v) != np.asarray(now[k])).any() for k, v in flatten(state.average).items())


def without(problem: Problem, *terms: str, frames: slice = slice(None)) -> Problem:
    """The same frames with some labels missing."""
    (bucket,) = problem.buckets
    targets = bucket.targets
    for term in terms:
        weight = np.array(getattr(targets, f"{term}_weight"))
        weight[frames] = 0.0
        targets = dataclasses.replace(targets, **{f"{term}_weight": weight})
    return dataclasses.replace(problem, buckets=[dataclasses.replace(bucket, targets=targets)])


def test_no_validation_frames(planted: Problem, tmp_path: Path) -> None:
    problem = dataclasses.replace(planted, valid=[np.arange(0)])
    _, summary, _ = run(problem, tmp_path)
    assert summary["best_epoch"] == summary["epochs"] == 5
    assert all(x["validation"] is None and x["best"] for x in log_of(tmp_path))


def test_validation_frames_without_labels_choose_nothing(planted: Problem, tmp_path: Path) -> None:
    problem = without(planted, "energy", "forces", "stress", frames=slice(30, None))
    _, summary, _ = run(problem, tmp_path)
    assert summary["best_epoch"] == 5


@pytest.mark.parametrize("missing", [("forces", "stress"), ("stress",)], ids=["energies only", "no stress"])
def test_missing_labels(planted: Problem, tmp_path: Path, missing: tuple[str, ...]) -> None:
    problem = without(planted, *missing)
    best, _, _ = run(problem, tmp_path)
    after, before = (rmse(evaluate(problem, n, problem.valid)) for n in (best, start(problem)))
    assert after["energy_rmse"] < before["energy_rmse"]  # type: ignore[operator]
    for term in missing:
        assert all(x["train"][f"{term}_rmse"] is None is x["validation"][f"{term}_rmse"] for x in log_of(tmp_path))


# --- the real program, killed ----------------------------------------------------------------------------------------

ARGUMENTS = [
    "training.epochs=800", "training.batch_atoms=16", "training.max_buckets=1", "training.warmup_steps=5",
    "training.evaluate_every=80", "model.descriptor.type=symmetry_functions", "model.descriptor.cutoff=3.6",
    "model.descriptor.n_radial=3", "model.descriptor.n_angular=1", "model.descriptor.zetas=[1]", "model.fitting_net.widths=[4]",
    "data.audit=off",
]  # fmt: skip


def copper(path: Path, n: int = 18) -> Path:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True, a=3.65 * (1 + 0.02 * rng.normal()))
        atoms.positions += rng.normal(0, 0.08, (4, 3))
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


HEARD = """
import signal, sys
from adatom.fitting.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
sys.exit(main())
"""


class Program:
    """`adatom fit` in a process of its own, in a folder of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONWARNINGS": "error::UserWarning",
        }  # fmt: skip

    def __call__(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HEARD, "fit", *arguments], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop_after(self, process: subprocess.Popen[str], checkpoints: int, how: signal.Signals) -> tuple[str, str, int]:
        """Send a signal once so many checkpoints have been seen."""
        path, seen = self.folder / "out" / "checkpoint.zip", set()
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        until = time.monotonic() + 240
        while len(seen) <= checkpoints and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
            if path.exists():
                seen.add(path.stat().st_mtime_ns)
        process.send_signal(how)
        out, err = process.communicate(timeout=240)
        return out, err, process.returncode


def test_killed_at_any_moment(tmp_path: Path, cache: Path) -> None:
    """Two SIGKILLs and a Ctrl-C, then to the end: the model and the log of a run that was left alone."""
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
        copper(tmp_path / name / "train.xyz")
    settings = [x for s in ARGUMENTS for x in ("--set", s)]
    alone, killed = Program(tmp_path / "alone", cache), Program(tmp_path / "killed", cache)
    process = alone("--train", "train.xyz", "--out", "out", *settings)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err

    often = ["--set", "training.checkpoint_seconds=1e-3"]
    first = killed("--train", "train.xyz", "--out", "out", *settings, *often)
    _, err, code = killed.stop_after(first, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    _, err, code = killed.stop_after(killed("--resume", "--out", "out"), 6, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    out, err, code = killed.stop_after(killed("--resume", "--out", "out"), 3, signal.SIGINT)
    assert code == 130, err
    said = err.strip().splitlines()[-1]
    assert re.fullmatch(
        r"adatom: stopped at step \d+ of \d+; checkpoint saved; go on with: adatom fit --resume --out out", said
    )
    assert re.search(r"resumed at step [1-9]\d* of \d+", out)
    assert not (tmp_path / "killed" / "out" / "model.adatom").exists()
    process = killed(*said.partition("adatom fit ")[2].split())
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err

    a, b = (load(tmp_path / name / "out" / "model.adatom") for name in ("alone", "killed"))
    assert_same(a.params["network"], b.params["network"])
    for f in dataclasses.fields(a.statistics):
        np.testing.assert_array_equal(getattr(a.statistics, f.name), getattr(b.statistics, f.name))
    assert log_of(tmp_path / "alone" / "out") == log_of(tmp_path / "killed" / "out")
    metrics = [json.loads((tmp_path / name / "out" / "metrics.json").read_text()) for name in ("alone", "killed")]
    for m in metrics:
        del m["training"]["seconds"], m["training"]["committee_seconds"]
    assert metrics[0] == metrics[1]
