"""The recipe of a fit: read, audit, divide, statistics, train, test, save, plot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from adatom.fitting import plots
from adatom.fitting.audit import audit, audit_leakage
from adatom.fitting.batches import Bucket, make_buckets, neighbourhoods
from adatom.fitting.calibration import Pair, calibrated
from adatom.fitting.config import ConfigError, FitConfig, LossConfig, ModelSection, dump_config, load_config
from adatom.fitting.dataset import DataError, Frame, LabelKeys, read_frames
from adatom.fitting.e0 import elements_of, isolated_e0, least_squares_e0
from adatom.fitting.members import can_have_committee, make_committee
from adatom.fitting.metrics import Comparison, compare, require_finite
from adatom.fitting.problem import Problem
from adatom.fitting.progress import progress
from adatom.fitting.splits import split
from adatom.fitting.start import conditioned, constants, load_start, new_model, starting_statistics, trainable, usable
from adatom.fitting.statistics import describe, make_statistics, shortest_distances
from adatom.fitting.train import train
from adatom.fitting.uncertainty import about, judge
from adatom.potential.committee import merge
from adatom.potential.evaluator import Evaluator
from adatom.potential.families import family_of
from adatom.potential.model import FittedModel, Model
from adatom.potential.model_file import save, write_atomically
from adatom.potential.potential import Golden, Potential

Say = Callable[[str], None]
MAY_CHANGE = ("data.test", "training.checkpoint_seconds")


@dataclass(frozen=True)
class FitResult:
    """The potential and its errors; `errors` has the keys train, validation, test (None where there are no frames)."""

    potential: Potential
    errors: dict[str, Any]
    out: Path


def fit(
    config: FitConfig, out: str | Path, *, resume: bool = False, say: Say = print, previous: Potential | None = None,
    earlier: Pair | None = None,
) -> FitResult:  # fmt: skip
    """Fit a potential and write model.adatom, metrics.json, log.jsonl, config.toml and pictures (learning_curve, parity,
    calibration) to `out`.

    previous: begin with its parameters where it has the form and the elements (`start.usable`); its labels have the same zero.
    earlier: for the calibration (`calibrated`).
    Raises ConfigError, DataError, Diverged with one line each; Interrupted after Ctrl-C, with the checkpoint saved.
    """
    out = Path(out)
    if not config.data.train:
        raise ConfigError("no training data: give --train DATA or data.train in the config")
    _prepare(out, config, resume)
    frames = read(config, config.data.train, "training", say)
    given = read(config, config.data.validation, "validation", say) if config.data.validation else []
    test = read(config, config.data.test, "test", say) if config.data.test else []
    every = [*frames, *given, *test]
    previous = usable(previous, config.model, every, say) if previous else None
    source = load_start(config.model, every) if config.model.start_from else previous
    _audit(config, [*frames, *given], test, say, source.model.cutoff if source else config.model.descriptor.cutoff)
    for frame in every:
        require_finite(frame)
    training, validation = (frames, given) if given else divide(frames, config)
    model = source.model if source else new_model(config.model, _elements(config.model, training, [*validation, *test]))
    _check_losses(config, training)
    e0, how = (np.asarray(source.statistics.e0), "") if source else _e0(config.model, training, model.elements)
    with jax.enable_x64(True):
        potential, summary = _train(
            config, model, training, validation, e0, out, resume=resume, say=say, how=how, source=source,
            moved=source is not previous,
        )  # fmt: skip
    judgement = None
    if potential.committee is not None:
        potential = calibrated(
            potential, validation, data="validation", precision=config.training.precision, earlier=earlier
        )  # fmt: skip
        judgement = judge(potential, validation, test, out / "calibration.png", precision=config.training.precision)
        say(about(potential, judgement))
    comparisons = _compare(potential, training, validation, test, config)
    errors = {name: comparisons[name].errors() if name in comparisons else None for name in ("train", "validation", "test")}
    info = {"training": summary, "errors": {k: _brief(v) for k, v in errors.items() if v}}
    potential = replace(potential, info=info, golden=_golden(potential, training))
    save(potential, out / "model.adatom")
    metrics = {**errors, "training": summary, "labels_e0": summary["e0"], "uncertainty": judgement}
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False).encode())
    _plot(out, comparisons)
    return FitResult(potential, errors, out)


def read(config: FitConfig, paths: Sequence[str], what: str, say: Say) -> list[Frame]:
    """Frames of some files with the config's label keys; says what was found."""
    d = config.data
    keys = LabelKeys(d.energy_key or None, d.forces_key or None, d.stress_key or None, d.virial_key or None)
    frames, coverage = read_frames(paths, keys=keys, group_key=d.group_key or None)
    say(f"{what}: {coverage.summary()}")
    return frames


def divide(frames: Sequence[Frame], config: FitConfig) -> tuple[list[Frame], list[Frame]]:
    """Training and validation frames; all for training where the fraction is zero or there are fewer than ten."""
    d = config.data
    if d.validation_fraction == 0.0 or len(frames) < 10:
        return list(frames), []
    a, b = split(frames, method=d.split, fraction=d.validation_fraction, seed=config.training.seed)
    known = set(elements_of([frames[i] for i in a]))
    rare = [i for i in b if d.split == "random" and not known.issuperset(elements_of([frames[i]]))]
    a, b = np.union1d(a, np.array(rare, dtype=a.dtype)), np.setdiff1d(b, rare)  # all frames of an element: to training
    return [frames[i] for i in a], [frames[i] for i in b]


def _prepare(out: Path, config: FitConfig, resume: bool) -> None:
    """Make the folder; refuse to overwrite another run, or to resume one with another config."""
    saved = out / "config.toml"
    if resume:
        if not saved.exists():
            raise ConfigError(f"{out}: nothing to resume (no config.toml)")
        changed = _differences(load_config(saved).model_dump(mode="json"), config.model_dump(mode="json"))
        changed = [c for c in changed if not c.startswith(MAY_CHANGE)]
        if changed:
            raise ConfigError(f"{out}: cannot resume with another config; changed: {', '.join(changed)[:300]}")
        return
    if (out / "model.adatom").exists() or (out / "checkpoint.zip").exists():
        raise ConfigError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made a folder ({error.strerror})") from error
    write_atomically(saved, dump_config(config).encode())


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} ({old!r} -> {new!r})"]


def _audit(config: FitConfig, frames: Sequence[Frame], test: Sequence[Frame], say: Say, cutoff: float) -> None:
    if config.data.audit == "off":
        return
    report = audit(frames, cutoff=cutoff)
    findings = [f for f in report.findings if f.severity != "info"]
    shared = audit_leakage(frames, test, cutoff=cutoff, geometry=report.geometry) if test else []
    findings += [f for f in shared if f.severity != "info"]
    for finding in findings:
        say(f"audit: {finding.text()}")
    if report.errors and config.data.audit == "refuse":
        raise DataError(
            f"the audit found {len(report.errors)} error(s), first: {report.errors[0].message}; repair the data, or go on with "
            "--set data.audit=warn"
        )


def _elements(section: ModelSection, training: Sequence[Frame], others: Sequence[Frame]) -> tuple[int, ...]:
    found = elements_of(training)
    elements = section.elements or found
    missing = sorted(set(found) - set(elements))
    if missing:
        raise ConfigError(f"model.elements is {list(elements)}, but the training data have {', '.join(missing)} too")
    unseen = sorted(set(elements) - set(found))
    if unseen:
        raise ConfigError(f"model.elements has {', '.join(unseen)}, which no training frame has: nothing can be learnt of it")
    for frame in others:
        unknown = set(elements_of([frame])) - set(elements)
        if unknown:
            raise DataError(f"{frame.source} has {', '.join(sorted(unknown))}, which no training frame has")
    return tuple(sorted(atomic_numbers[s] for s in elements))


def _check_losses(config: FitConfig, training: Sequence[Frame]) -> None:
    """A term that was given weight needs labels; the default weight of a term without labels is simply without effect."""
    default = LossConfig()  # a resolved config and the template say it too
    for term in ("energy", "forces", "stress"):
        names = (f"{term}_start", f"{term}_end")
        wanted = any(getattr(config.loss, n) != getattr(default, n) for n in names)
        weight = max(getattr(config.loss, n) for n in names)
        have = any(getattr(f.labels, term) is not None for f in training)
        if weight > 0 and not have and (wanted or term == "energy"):
            raise ConfigError(f"loss.{term} has weight {weight:g}, but no training frame has a label of {term}")


def _e0(section: ModelSection, training: Sequence[Frame], elements: tuple[int, ...]) -> tuple[np.ndarray, str]:
    symbols = [chemical_symbols[z] for z in elements]
    if isinstance(section.e0, dict):
        missing = [s for s in symbols if s not in section.e0]
        if missing:
            raise ConfigError(f"model.e0 lacks {', '.join(missing)}")
        return np.array([section.e0[s] for s in symbols]), "given"
    isolated = isolated_e0(training) if section.e0 != "least_squares" else {}
    missing = [s for s in symbols if s not in isolated]
    if not missing:
        return np.array([isolated[s] for s in symbols]), "isolated atoms"
    if section.e0 == "isolated_atoms":
        raise ConfigError(f"model.e0 is isolated_atoms, but there is no isolated-atom frame of {', '.join(missing)}")
    values, rank = least_squares_e0(training, symbols)
    return np.array([values[s] for s in symbols]), f"least squares; {rank.summary()}"


def _train(
    config: FitConfig, model: FittedModel, training: Sequence[Frame], validation: Sequence[Frame], e0: np.ndarray, out: Path,
    *, resume: bool, say: Say, how: str, source: Potential | None, moved: bool,
) -> tuple[Potential, dict[str, Any]]:  # fmt: skip
    precision = config.training.precision
    every = [*training, *validation]
    items = neighbourhoods(every, model.elements, model.cutoff)
    buckets = make_buckets(every, items, config.training.max_buckets)
    train_rows, valid_rows = _rows(buckets, len(training))
    if not all(len(rows) for rows in train_rows):  # a bucket of validation frames only: one bucket for all
        buckets = make_buckets(every, items, 1)
        train_rows, valid_rows = _rows(buckets, len(training))
    if source:
        network = source.params["network"]
        statistics, how = source.statistics, "the potential before"
        if moved:
            statistics, how = starting_statistics(source, config.model, training, precision)
        shortest = shortest_distances(items[: len(training)], model.elements)
        statistics = replace(statistics, min_distance=np.minimum(np.asarray(statistics.min_distance), shortest))
    else:
        assert isinstance(model, Model)
        network = model.init(jax.random.key(config.training.seed))
        statistics = make_statistics(model, network, training, items[: len(training)], buckets, e0)
    form, begin, back = conditioned(model, network, training, buckets)
    problem = Problem(form, statistics, buckets, train_rows, valid_rows, config.loss, config.training, constants(begin))
    pairs = sum(len(x.pairs.i) for x in items) / max(sum(len(x.structure) for x in items), 1)
    potential = Potential(model, {"network": network, "statistics": statistics})
    say(describe(statistics, model.elements) + f"  (E0 from {how})")
    say(
        f"model: {_form(model)}, cutoff {model.cutoff} Å, "
        f"{pairs:.0f} neighbours an atom, {potential.n_parameters} parameters; {len(training)} frames to train on, "
        f"{len(validation)} to validate; {problem.epochs} epochs of {problem.steps_per_epoch} steps, "
        f"{len(buckets)} sizes to compile, seed {config.training.seed}"
    )
    with progress("training", unit="steps") as report:
        first = trainable(begin, precision) if source else begin
        best, summary = train(problem, first, out, resume=resume, report=report, say=say)
    best = jax.device_get(back(merge(begin, best)))
    problem = replace(problem, model=model, fixed=constants(network))
    summary |= {
        "seed": config.training.seed, "frames_train": len(training), "frames_validation": len(validation), "e0": how,
        "jax": jax.__version__, "backend": jax.default_backend(),
    }  # fmt: skip
    potential = Potential(model, {"network": best, "statistics": statistics})
    if config.uncertainty.kind != "none" and can_have_committee(config.uncertainty, network, say):
        began = time.monotonic()
        with progress("committee", unit="steps") as report:
            committee = make_committee(
                config.uncertainty, problem, best, out / "members", resume=resume, report=report, say=say,
                previous=source.committee if source else None,
            )  # fmt: skip
        potential = replace(potential, committee=committee)
        summary["committee_seconds"] = round(time.monotonic() - began, 1)
    return potential, summary


def _form(model: FittedModel) -> str:
    """Of its descriptor, or of what program it comes from."""
    return type(model.config.descriptor).__name__.removesuffix("Config") if isinstance(model, Model) else family_of(model)


def _rows(buckets: Sequence[Bucket], n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of every bucket the rows of frames below n, and of the others."""
    numbers = [b.frame[: len(b)] for b in buckets]
    return [np.flatnonzero(x < n) for x in numbers], [np.flatnonzero(x >= n) for x in numbers]


def _compare(
    potential: Potential, training: Sequence[Frame], validation: Sequence[Frame], test: Sequence[Frame], config: FitConfig
) -> dict[str, Comparison]:
    """Training and validation frames share their compilations; test frames are evaluated as `adatom test` does."""
    n, comparisons = len(training), {}
    with progress("errors", unit="frames") as report:
        both = compare(potential, [*training, *validation], precision=config.training.precision, progress=report)
    comparisons["train"] = both.part(0, n)
    if validation:
        comparisons["validation"] = both.part(n, n + len(validation))
    if test:
        with progress("errors on test", unit="frames") as report:
            comparisons["test"] = compare(potential, test, precision=config.training.precision, progress=report)
    return comparisons


def _golden(potential: Potential, frames: Sequence[Frame]) -> Golden:
    """The smallest frame of several atoms, with the energy and forces this machine gets in float64."""
    frame = min(frames, key=lambda f: (len(f.structure) < 2, len(f.structure)))
    out = Evaluator(potential, precision="float64", skin=0.0, compressed=False, test=False)(frame.structure)
    return Golden(frame.structure, out.energy, out.forces)


def _brief(errors: dict[str, Any]) -> dict[str, Any]:
    return {k: errors[k] for k in ("frames", "energy", "forces", "stress", "units")}


def _plot(out: Path, comparisons: dict[str, Comparison]) -> None:
    plots.learning_curve(out / "log.jsonl", out / "learning_curve.png")
    name = next(n for n in ("test", "validation", "train") if n in comparisons)
    plots.parity(comparisons[name], out / "parity.png")
