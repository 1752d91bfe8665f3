"""`adatom learn`: explore, select, label, train, until almost nothing new is found.

    DIR/config.toml      what is run (a copy, to be continued with)       DIR/ledger.sqlite  every calculation, the truth
    DIR/data.extxyz      all labels so far                                DIR/report.html    every iteration in tables and plots
    DIR/labels/          folders of the calculations                      DIR/model.adatom   the potential of the last iteration
    DIR/iteration-000/   selected.extxyz, report.json
    DIR/iteration-001/   fit/, explore/, selected.extxyz, new_labels.json, report.json
    DIR/iteration-007/   of the iteration after the last: fit/ to all labels, final.json

An iteration is: fit to all labels → explore → select → label → judge. Each stage ends with a file that is whole or not there,
and follows from seed and iteration, so that a campaign that was killed goes on where it was: a fit from its checkpoint, labels
from the ledger, an exploration from its beginning.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import jax
import numpy as np

from adatom.fitting.active.bias import strength
from adatom.fitting.active.choose import choose
from adatom.fitting.active.config import LearnConfig
from adatom.fitting.active.explore import duration_ps, explore, starting_structures
from adatom.fitting.active.frames import atoms_of, divided, first_structures, read, save_frames
from adatom.fitting.active.judge import earlier, judge_new_labels
from adatom.fitting.active.labelling import label
from adatom.fitting.active.ledger import Ledger, exclusive
from adatom.fitting.active.look import look
from adatom.fitting.active.report import write_report
from adatom.fitting.active.selection import Window, adaptive_thresholds, diluted
from adatom.fitting.active.stop import ASKED, STOP_FILE, Stopwatch, finished
from adatom.fitting.config import ConfigError, FitConfig
from adatom.fitting.dataset import read_frames
from adatom.fitting.fit import fit
from adatom.potential.model_file import load, write_atomically
from adatom.potential.potential import Potential

Say = Callable[[str], None]
MANY_MAPPINGS = 25_000


class Campaign:
    """One directory, which this process has for itself."""

    def __init__(self, config: LearnConfig, directory: Path, ledger: Ledger, say: Say) -> None:
        self.config, self.directory, self.ledger, self.say = config, directory, ledger, say
        self.clock = Stopwatch(directory / "seconds.json")
        self.given = read_frames(config.start.data)[0] if config.start.data else []
        if config.start.test:
            read_frames(config.start.test)  # for its errors, before any work is done

    def run(self) -> str:
        """To the end; returns why it ended."""
        (self.directory / STOP_FILE).unlink(missing_ok=True)  # asked of a loop that is gone
        counts = self.ledger.counts()
        if left := counts["queued"] + counts["running"]:
            self.say(f"{left} labels were left: they come first")
            self._bring_in()
        n = 0
        while True:
            folder = self.directory / f"iteration-{n:03d}"
            folder.mkdir(exist_ok=True)
            done = _read(folder / "report.json")
            if done is None:
                done = self._first(folder) if n == 0 else self._iteration(n, folder)
                write_atomically(folder / "report.json", json.dumps(done, indent=1).encode())
                write_report(self.directory)
                _forget_programs()
            if reason := finished(self.config, self.directory, n, done):
                if reason != ASKED and done["labels"]["done"]:
                    self._last(n + 1)
                return reason
            n += 1

    def _first(self, folder: Path) -> dict[str, Any]:
        """Labels to begin with: structures of the generators, the most different ones first."""
        selected = folder / "selected.extxyz"
        if not selected.exists():
            wanted = self.config.start.labels
            made = starting_structures(self.config.explore, self.config.seed) if wanted else []
            save_frames(selected, first_structures(made, wanted))
        outcome = self._label(0, selected)
        if not self._labelled() and not self.given:
            raise ConfigError(f"none of the first structures could be labelled: look at {self.directory / 'labels'}")
        return {"iteration": 0, "labels": outcome, **self._spent()}

    def _last(self, n: int) -> None:
        """The fit of an iteration that does not come: to all labels. A campaign that goes on after all goes on from it."""
        folder = self.directory / f"iteration-{n:03d}"
        folder.mkdir(exist_ok=True)
        about = self._trained(n, folder)[2] | {"labels": dict.fromkeys(("done", "failed", "rejected"), 0), **self._of()}
        write_atomically(folder / "final.json", json.dumps(about | self._spent(), indent=1).encode())

    def _of(self) -> dict[str, Any]:
        """What a last fit depends on."""
        return {"fit": self.config.fit.model_dump(mode="json"), "labels_total": self.ledger.counts()["done"]}

    def _trained(self, n: int, folder: Path) -> tuple[Potential, Window, dict[str, Any]]:
        """The potential of an iteration, its window, and what is reported of it."""
        potential = self._fit(n, folder)
        metrics = json.loads((folder / "fit" / "metrics.json").read_text())
        window = self._window(metrics)
        about: dict[str, Any] = {"iteration": n, "window_eV_A": list(window), "frames_train": metrics["training"]["frames_train"]}
        about |= {name: _rmse(metrics[name]) for name in ("train", "validation", "test") if metrics.get(name)}
        known = potential.committee.calibration if potential.committee else None
        about["calibration"] = known.model_dump(mode="json") if known else None
        return potential, window, about

    def _iteration(self, n: int, folder: Path) -> dict[str, Any]:
        began = time.time()
        potential, window, about = self._trained(n, folder)
        summary = folder / "explored.json"  # written after selected.extxyz
        if not summary.exists():
            write_atomically(summary, json.dumps(self._explore(n, folder, potential, window)).encode())
        about["explored"] = json.loads(summary.read_text())
        self.clock.mark()
        outcome = self._label(n, folder / "selected.extxyz")
        new = [c for c in self.ledger.rows("done", settings=self.ledger.settings) if c.iteration == n]
        about["new_labels"] = judge_new_labels(potential, [c.to_atoms() for c in new], folder / "new_labels.json")
        return about | {"labels": outcome, "seconds": round(time.time() - began, 1), **self._spent()}

    def _fit(self, n: int, folder: Path) -> Potential:
        out, model = folder / "fit", folder / "fit" / "model.adatom"
        last = _read(folder / "final.json")
        if last is not None and any(last[key] != value for key, value in self._of().items()):
            shutil.rmtree(out, ignore_errors=True)
            for name in ("train.extxyz", "validation.extxyz", "final.json"):
                (folder / name).unlink(missing_ok=True)
        if not model.exists():
            before = self.directory / f"iteration-{n - 1:03d}" / "fit" / "model.adatom"
            previous = load(before) if self.config.fit.start == "previous" and before.exists() else None
            config = self._fit_config(n, folder, goes_on=previous is not None)
            known = earlier([self.directory / f"iteration-{k:03d}" / "new_labels.json" for k in range(n)])
            self.say(f"iteration {n}: fit" + (", from the potential before" if previous else ""))
            fit(
                config, out, resume=(out / "config.toml").exists(), say=lambda line: None, previous=previous, earlier=known
            )  # fmt: skip
        self.clock.mark()
        write_atomically(self.directory / "model.adatom", model.read_bytes())
        return load(model)

    def _fit_config(self, n: int, folder: Path, *, goes_on: bool) -> FitConfig:
        """To all labels so far, which are written to files that stay as they are."""
        data, held = folder / "train.extxyz", folder / "validation.extxyz"
        if not data.exists():
            every = [*[atoms_of(x) for x in self.given], *self._labelled()]
            if self.config.fit.start == "previous":
                every, validation = divided(every, self.config.fit.validation_fraction)
                save_frames(held, validation)
            save_frames(data, every)
        atoms = sum(len(x) for x in read(data))
        return self.config.fit_config(
            data, held if held.exists() and held.stat().st_size else None, iteration=n, atoms=atoms, goes_on=goes_on
        )  # fmt: skip

    def _window(self, metrics: dict[str, Any]) -> Window:
        s = self.config.select
        if s.upper_eV_A:
            return Window(s.lower_eV_A, s.upper_eV_A)
        errors = metrics.get("validation") or metrics["train"]
        return adaptive_thresholds(1e-3 * errors["forces"]["rmse"])

    def _explore(self, n: int, folder: Path, potential: Potential, window: Window) -> dict[str, Any]:
        c = self.config
        self.say(f"iteration {n}: explore, {c.explore.runs} runs of {duration_ps(c.explore, n):g} ps")
        known = [*[atoms_of(x) for x in self.given], *self._labelled()]
        bias = strength(potential, known, c.explore.bias_ratio)
        found = explore(
            potential, c.explore, seed=c.seed, iteration=n, upper=window.upper, lower=window.lower, folder=folder / "explore",
            bias=bias,
        )  # fmt: skip
        new = [k for k, x in enumerate(found.frames) if self.ledger.find(x) is None]
        frames = [found.frames[k] for k in new]
        seen = look(potential, frames)
        choice = choose(
            frames, seen.deviation, seen.features, look(potential, known).features, window=window, rule=c.select.rule,
            count=self._allowed(), seed=c.seed + n, quiet=c.select.quiet,
        )  # fmt: skip
        for k in choice.chosen:
            frames[k].info["deviation_eV_A"] = float(seen.deviation[k])
        save_frames(folder / "selected.extxyz", [frames[k] for k in choice.chosen])
        unseen = (found.sigma < window.lower).sum() - (found.deviation < window.lower).sum()
        share = diluted(choice.fractions, int(unseen))
        ended = [x for x in found.ended if x]
        self.say(
            f"iteration {n}: {share.frames} frames, {100 * share.accurate:.1f} % accurate, {100 * share.candidate:.1f} % "
            f"candidates, {100 * share.failed:.1f} % beyond; {len(ended)} of {len(found.ended)} runs ended early; "
            f"{len(choice.chosen)} selected"
        )
        return {
            "frames": share.frames, "accurate": share.accurate, "candidate": share.candidate, "failed": share.failed,
            "rejected": choice.rejected, "beyond": choice.beyond, "selected": len(choice.chosen), "runs": len(found.ended),
            "bias": bias,
            "ended_early": {x: ended.count(x) for x in sorted(set(ended))},
            "deviation": np.histogram(found.sigma, bins=40)[0].tolist() if len(found.sigma) else [],
            "deviation_range": [float(found.sigma.min()), float(found.sigma.max())] if len(found.sigma) else [0.0, 0.0],
        }  # fmt: skip

    def _allowed(self) -> int:
        """Labels this iteration may ask for."""
        left = self.config.stop.labels - self.ledger.counts()["done"]
        return max(0, min(self.config.select.labels, left))

    def _label(self, n: int, selected: Path) -> dict[str, int]:
        """How many calculations of the iteration are in which state in the end."""
        frames = read(selected)
        for atoms in frames:
            self.ledger.add(atoms, iteration=n, origin=dict(atoms.info))
        if frames:
            self.say(f"iteration {n}: label {len(frames)} structures")
        self._bring_in()
        counts = self.ledger.counts(iteration=n)
        return {state: counts[state] for state in ("done", "failed", "rejected")}

    def _bring_in(self) -> None:
        """All that is queued or runs."""
        label(self.ledger, self.config.label, self.directory / "labels", say=self.say)
        self.ledger.export(self.directory / "data.extxyz")

    def _labelled(self) -> list[ase.Atoms]:
        """In an order that no kill or failure changes."""
        done = self.ledger.rows("done", settings=self.ledger.settings)
        return [c.to_atoms() for c in sorted(done, key=lambda c: (c.iteration, c.hash))]

    def _spent(self) -> dict[str, Any]:
        rows = self.ledger.rows("done", "failed", "rejected")
        hours = sum((c.seconds or 0.0) * (c.cores or 1) for c in rows) / 3600.0
        return {"labels_total": self.ledger.counts()["done"], "core_hours": hours, "hours": self.clock.mark() / 3600.0}


def learn(config: LearnConfig, directory: str | Path, *, say: Say = print) -> str:
    """Start a campaign in a directory, or go on with the one that is there; returns why it ended.

    Raises ConfigError, DataError, LabelError, LedgerError with one line each; KeyboardInterrupt leaves everything to go on from.
    """
    directory = Path(directory)
    with exclusive(directory), Ledger(directory / "ledger.sqlite", settings=config.label.fingerprint) as ledger:
        try:
            return Campaign(config, directory, ledger, say).run()
        finally:
            write_report(directory)


def _forget_programs() -> None:
    """Where there are many: they are mappings of memory, of which Linux gives a process 65,530 (XLA dies beyond)."""
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MANY_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def _rmse(errors: dict[str, Any]) -> dict[str, float | None]:
    """meV/atom, meV/Å, GPa."""
    return {name: errors[name]["rmse"] for name in ("energy", "forces", "stress")}


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None
