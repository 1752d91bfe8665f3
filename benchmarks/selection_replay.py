"""Which rule of selection needs the fewest labels? A replay over a pool whose labels are all known.

    python benchmarks/selection_replay.py                    three seeds, all rules; an hour on one core
    python benchmarks/selection_replay.py --seeds 1 --rounds 2 --rules random-all determinant

The pool is what an exploration of fcc copper visits: `adatom learn`'s structures (strained, rattled, vacancies, surfaces, close
pairs, melts), each moved by ASE's EMT at 300 to 2500 K; so are the test frames, from other seeds. Every rule starts from the same
labels, and after each round a committee is trained anew, as in a campaign. Rules:

random-all    any frame of the pool                       random      any candidate of the window: DP-GEN's
highest       the candidates of largest deviation         farthest    farthest points among them, features of `look`
determinant   largest determinant among them, same features

Labels needed are read off where the RMSE of test forces first falls to what random-all reaches in the end, interpolated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

RULES = ("random-all", "random", "highest", "farthest", "determinant")
TEMPERATURES = (300.0, 800.0, 1400.0, 2500.0)
FIRST, STEPS, MEMBERS = 10, 800, 4
RESULTS = HERE / "results" / "selection_replay.json"


def visited(seed: int, frames_each: int) -> list[Any]:
    """Frames of short EMT trajectories, labelled."""
    from ase import units
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from adatom.fitting.active import generators as g

    entries = [
        g.Bulk(atoms=16), g.Strained(atoms=8, count=4), g.Rattled(atoms=8, count=4), g.Vacancies(atoms=16, count=2),
        g.Surfaces(atoms=12, thickness_A=5.0, periodic=True, vacuum_A=8.0), g.ClosePairs(atoms=8),
        g.Melt(atoms=16, temperature_K=2500.0),
    ]  # fmt: skip
    rng, out = np.random.default_rng(seed), []
    for n, atoms in enumerate(g.generate(entries, {"cu": bulk("Cu", cubic=True)}, seed)):
        kelvin = atoms.info.get("md_temperature_K", TEMPERATURES[(n + seed) % len(TEMPERATURES)])
        atoms.calc = EMT()
        MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
        dynamics = Langevin(atoms, 2.0 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, rng=rng)
        for _ in range(frames_each):
            copy = atoms.copy()
            copy.calc = EMT()
            copy.get_stress()
            out.append(copy)
            dynamics.run(20)
    return out


class Pool:
    """The pool and the test frames, neighbours found once; programs are compiled once, for all rules and rounds."""

    def __init__(self, seed: int, frames_each: int) -> None:
        import jax

        from adatom.fitting.active.frames import frame_of
        from adatom.fitting.batches import make_buckets, neighbourhoods
        from adatom.fitting.config import LossConfig, TrainingConfig
        from adatom.fitting.e0 import least_squares_e0
        from adatom.fitting.statistics import make_statistics
        from adatom.fitting.train import Problem
        from adatom.potential.model import Model, ModelConfig

        self.seed = seed
        self.atoms, test = visited(100 + seed, frames_each), visited(200 + seed, max(3, frames_each // 4))
        frames = [frame_of(x) for x in (*self.atoms, *test)]
        self.n = len(self.atoms)
        config = ModelConfig.model_validate({
            "elements": (29,), "fitting_net": {"widths": (32, 32)},
            "descriptor": {"type": "moments", "cutoff": 4.5, "n_radial": 6, "n_channels": 8, "order": 2, "four_body": False},
        })  # fmt: skip
        self.model = Model(config)
        items = neighbourhoods(frames, config.elements, self.model.cutoff)
        (bucket,) = make_buckets(frames, items, 1)
        where = np.argsort(bucket.frame[: len(bucket)])  # row of each frame in the bucket
        self.row, self.test_rows = where[: self.n], where[self.n :]
        rng = np.random.default_rng(seed)
        self.first = rng.permutation(self.n)[:FIRST].tolist()
        known = [frames[k] for k in self.first]
        e0 = np.array([least_squares_e0(known, ["Cu"])[0]["Cu"]])
        with jax.enable_x64(True):
            statistics = make_statistics(self.model, self.model.init(jax.random.key(seed)), known, items[: self.n], [bucket], e0)
        training = TrainingConfig(batch_atoms=128, seed=seed, checkpoint_seconds=1e9)
        none = np.arange(0)
        self.problem = Problem(self.model, statistics, [bucket], [none], [none], LossConfig(), training)

    def trained(self, chosen: list[int], out: Path) -> tuple[Any, dict[str, float | None]]:
        """A potential with its committee, and its errors on the test frames."""
        import jax

        from adatom.fitting.config import UncertaintyConfig
        from adatom.fitting.members import make_committee
        from adatom.fitting.train import evaluate, rmse, train
        from adatom.potential.potential import Potential

        problem = dataclasses.replace(self.problem, train=[self.row[chosen]])
        epochs = max(1, round(STEPS / problem.steps_per_epoch))
        training = problem.training.model_copy(update={"epochs": epochs, "evaluate_every": epochs})
        problem = dataclasses.replace(problem, training=training)
        with jax.enable_x64(True):
            network, _ = train(
                problem, self.model.init(jax.random.key(self.seed)), out, resume=False, report=_quiet, say=_quiet
            )  # fmt: skip
            kind = UncertaintyConfig(kind="deep", members=MEMBERS, effort=0.5)
            committee = make_committee(kind, problem, network, out / "members", resume=False, report=_quiet, say=_quiet)
            errors = rmse(evaluate(problem, network, [self.test_rows]))
        params = {"network": network, "statistics": self.problem.statistics}
        return Potential(self.model, params, committee=committee), errors


def _quiet(*_: Any) -> None:
    pass


def select(pool: Pool, rule: str, potential: Any, chosen: list[int], count: int, seed: int) -> list[int]:
    """The next labels."""
    from adatom.fitting.active.choose import choose
    from adatom.fitting.active.look import look
    from adatom.fitting.active.selection import Window

    rest = [k for k in range(pool.n) if k not in set(chosen)]
    if rule == "random-all":
        return np.random.default_rng(seed).permutation(rest)[:count].tolist()
    seen = look(potential, pool.atoms)
    deviation = seen.deviation[rest]
    window = Window(float(np.quantile(seen.deviation[chosen], 0.5)), float(np.inf))
    frames = [pool.atoms[k] for k in rest]
    found = choose(
        frames, deviation, seen.features[rest], seen.features[chosen], window=window, rule=rule, count=count, seed=seed
    )
    return [rest[k] for k in found.chosen]


def needed(curve: list[tuple[int, float]], target: float) -> float | None:
    """Labels at which the error first falls to the target, linear in between; None where it does not."""
    for (n0, e0), (n1, e1) in zip(curve, curve[1:], strict=False):
        if e1 <= target:
            return float(n0 + (n1 - n0) * min(1.0, max(0.0, (e0 - target) / max(e0 - e1, 1e-12))))
    return None


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--labels", type=int, default=10, help="a round")
    parser.add_argument("--frames", type=int, default=25, help="of each trajectory")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    pin(options.core)
    began, curves = time.process_time(), {}
    print(f"{date.today()}; device: {cpu_name()}; commit {commit()}\n")
    print("| seed | rule | labels: force RMSE, meV/Å |\n|---|---|---|")
    for seed in range(options.seeds):
        pool = Pool(seed, options.frames)
        for rule in options.rules:
            chosen, curve = list(pool.first), []
            for n in range(options.rounds + 1):
                with tempfile.TemporaryDirectory() as out:
                    potential, errors = pool.trained(chosen, Path(out))
                curve.append((len(chosen), float(errors["forces_rmse"] or 0.0)))
                if n < options.rounds:
                    chosen += select(pool, rule, potential, chosen, options.labels, 1000 * seed + n)
            curves[f"{seed} {rule}"] = curve
            print(f"| {seed} | {rule} | {', '.join(f'{n}: {e:.0f}' for n, e in curve)} |", flush=True)
    print("\n| rule | labels for the error that random-all ends with, by seed | ratio to random-all |\n|---|---|---|")
    for rule in options.rules:
        found = [needed(curves[f"{s} {rule}"], curves[f"{s} {options.rules[0]}"][-1][1]) for s in range(options.seeds)]
        ends = [curves[f"{s} {options.rules[0]}"][-1][0] for s in range(options.seeds)]
        ratio = [x / y for x, y in zip(found, ends, strict=True) if x is not None]
        cells = ", ".join("–" if x is None else f"{x:.0f}" for x in found)
        print(f"| {rule} | {cells} | {f'{np.mean(ratio):.2f}' if ratio else '–'} |")
    print(f"\n{pool.n} frames in a pool; {(time.process_time() - began) / 60:.1f} CPU minutes")
    if options.seeds >= 3 and tuple(options.rules) == RULES:
        RESULTS.write_text(json.dumps({"date": str(date.today()), "commit": commit(), "curves": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()
