"""How far models that know hot elements and near-static binaries are from hot alloys, with another potential in DFT's place.

    python benchmarks/hot_alloys.py DATA [--visits 3e5] [--only NAME …] [--quick]

UNEP-v1 (Song et al., Nat. Commun. 15, 10208 (2024)) gives energies, forces and stresses to a part of the structures of Mo, Ta, W
in DATA/nbmotaw/train.extxyz.gz, and to alloys of all three from its own molecular dynamics at 300, 1200 and 3000 K, on which
errors are reported: what the published test asks for, without its labels. One core. --quick: everything tiny. Writes
`results/hot_alloys.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402

VARIANTS = {"the default, SHARE 0.25": 0.25, "SHARE 0.125": 0.125, "SHARE 1": 1.0, "nothing shared": None}
PART = {"AIMD": 60, "SS": 110, "Elastic": 15, "Surface": 5}
"""Training frames of each config_type."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--visits", type=float, default=3e5)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    from adatom.fitting.cli import _set_up_jax

    _set_up_jax()
    import jax
    from ase.io import write

    from adatom.fitting import sharing
    from adatom.fitting.config import load_config
    from adatom.fitting.fit import fit
    from adatom.potential import model

    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / f"{n}.extxyz") for n in ("train", "hot")]
        training, hot = frames(a.data, a.quick)
        write(names[0], training)
        write(names[1], hot)
        epochs = max(1, round(a.visits / sum(map(len, training)) / 0.95))
        settings = ["uncertainty.kind=none", "data.audit=off", "training.evaluate_every=100000", f"training.epochs={epochs}"]
        config = load_config(None, settings, {"data.train": names[:1], "data.test": names[1:]})
        alike = model.alike
        for name in a.only:
            share, began = VARIANTS[name], time.process_time()
            groups = alike if share else lambda _: ()
            model.alike = sharing.alike = groups  # type: ignore[attr-defined]
            sharing.SHARE = share or 0.0
            jax.clear_caches()  # it is compiled in
            errors = fit(config, Path(folder) / name, say=lambda _: None).errors
            found = {"like the training frames": errors["validation"], **errors["test"]["by_config_type"]}
            found = {k: {q: x[q]["mae"] for q in ("forces", "energy")} for k, x in found.items()}
            rows[name] = {**found, "cpu_seconds": round(time.process_time() - began, 1)}
            print(f"| {name} |", *(f"{x['forces']:.0f} / {x['energy']:.1f} |" for x in found.values()), flush=True)
    if a.quick:
        return
    report = {
        "date": date.today().isoformat(), "cpu": cpu_name(), "commit": commit(), "visits": a.visits,
        "units": {"forces": "meV/Å", "energy": "meV/atom"}, "mae": rows,
    }  # fmt: skip
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (HERE / "results" / "hot_alloys.json").write_text(text, encoding="utf-8")


def frames(data: Path, quick: bool) -> tuple[list, list]:
    """Labelled ase.Atoms: to train on, and hot alloys."""
    import gzip
    import io

    import numpy as np
    from ase.build import bulk
    from ase.io import read
    from ase.md.langevin import Langevin
    from ase.units import fs, kB

    from adatom.potential import AdatomCalculator
    from adatom.potential.interop import convert

    (path,) = (data / "models" / "nep").glob("*UNEP-v1*")
    teacher = convert.read(path)
    with gzip.open(data / "nbmotaw" / "train.extxyz.gz", "rt", encoding="utf-8") as f:
        text = f.read()
    by_type = defaultdict(list)
    for x in read(io.StringIO(text), ":", format="extxyz"):
        if "Nb" not in x.symbols:
            by_type[x.info["config_type"]].append(x)
    rng = np.random.default_rng(0)
    training = []
    for name, every in by_type.items():
        n = min(PART[name.split("_")[1]] // (10 if quick else 1) + 1, len(every))
        training += [every[i] for i in sorted(rng.choice(len(every), n, replace=False))]
    hot = []
    for temperature in (300, 1200, 3000):
        for _ in range(1 if quick else 2):
            atoms = bulk("W", "bcc", a=3.225, cubic=True).repeat(2 if quick else 4)
            atoms.symbols = rng.permutation(np.resize(["Mo", "Ta", "W"], len(atoms)))
            atoms.calc = AdatomCalculator(teacher)
            width = np.sqrt(2.0 * kB * temperature * atoms.get_masses()[:, None])  # half goes into the lattice
            atoms.set_momenta(width * rng.normal(size=(len(atoms), 3)))
            dynamics = Langevin(atoms, 2 * fs, temperature_K=temperature, friction=0.02, fixcm=False, rng=rng)
            for _ in range(2):
                dynamics.run(3 if quick else 150)
                copy = atoms.copy()
                copy.info["config_type"] = f"{temperature} K"
                hot.append(copy)
    return labelled(teacher, training), labelled(teacher, hot)


def labelled(teacher, structures: list) -> list:
    """The same structures with its energies, forces and stresses: few at a time, in arrays of few shapes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from adatom.fitting.metrics import ATOMS
    from adatom.potential.graph import batch, neighbourhood
    from adatom.potential.predict import predict
    from adatom.potential.structure import from_atoms

    model = teacher.model
    evaluate = jax.jit(lambda p, g: predict(model, p, g, e0=p["statistics"].e0, dtype=jnp.float32))
    groups, out = defaultdict(list), []
    for x in structures:
        groups[min(k for k in (2, 16, 64, 128) if k >= len(x))].append(x)
    with jax.enable_x64(True):
        for most, every in groups.items():
            size = max(1, ATOMS // 4 // most)
            items = [neighbourhood(from_atoms(x), model.elements, model.cutoff) for x in every]
            atoms, slots = np.max([i.atom_counts for i in items], axis=0) * size, np.max([i.slot_counts for i in items], axis=0)
            for first in range(0, len(every), size):
                part = slice(first, first + size)
                graph, rows = batch(items[part], atom_capacity=atoms, slot_capacity=slots, n_structures=size)
                found = evaluate(teacher.params, graph)
                ends = np.cumsum([len(x) for x in every[part]])
                forces = np.split(np.asarray(found.forces)[rows], ends[:-1])
                for x, e, f, s in zip(every[part], found.energy, forces, np.asarray(found.stress), strict=False):
                    new = x.copy()
                    new.info = {"config_type": x.info["config_type"]}
                    voigt = s[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
                    new.calc = SinglePointCalculator(new, energy=float(e), forces=f, stress=voigt)
                    out.append(new)
    return out


if __name__ == "__main__":
    main()
