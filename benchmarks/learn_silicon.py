"""Silicon learnt from real DFT by one command: `adatom learn` with GPAW, judged on frames that no exploration has seen.

    python benchmarks/learn_silicon.py --python INTERPRETER_WITH_GPAW [--out silicon-learn]      again to go on

Diamond-like cells of 7 to 9 atoms, plane waves to 250 eV, 2×2×2 k-points: labels of seconds, converged for the differences
between these cells and not for publication. The test frames come from another potential: molecular dynamics with Tersoff's (Phys.
Rev. B 38, 9902 (1988)) at other temperatures and volumes, and strains and rattles of other seeds. They are labelled
first, in a ledger of their own, with the same settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402

RESULTS = HERE / "results" / "learn_silicon.json"
LATTICE = 5.47
"""Å, of diamond silicon in PBE."""
CONFIG = """
seed = 1
[start]
test = ["test.extxyz"]
labels = 16
[explore]
prototypes = {si = "si.extxyz"}
temperatures_K = [300, 900, 1500]
runs = 18
duration_ps = 0.5
growth = 1.5
max_duration_ps = 3.0
timestep_fs = 1.0
interval = 10
[[explore.structures]]
kind = "strained"
atoms = 8
count = 6
displacement_A = 0.03
volumes = [0.88, 0.94, 1.06, 1.12]
[[explore.structures]]
kind = "rattled"
atoms = 8
count = 6
displacement_A = 0.15
[[explore.structures]]
kind = "vacancies"
atoms = 8
displacement_A = 0.05
count = 3
[[explore.structures]]
kind = "interstitials"
atoms = 8
displacement_A = 0.05
count = 2
[[explore.structures]]
kind = "melt"
atoms = 8
temperature_K = 3000.0
[select]
labels = 12
[label]
calculator = "gpaw"
python = "PYTHON"
workers = 1
timeout_minutes = 10
[label.arguments]
mode = {name = "pw", ecut = 250}
xc = "PBE"
kpts = {size = [2, 2, 2], gamma = false}
occupations = {name = "fermi-dirac", width = 0.1}
convergence = {density = 1e-5, energy = 1e-5}
symmetry = {point_group = false}
maxiter = 100
[fit.model.descriptor]
type = "moments"
cutoff = 4.8
n_radial = 8
n_channels = 12
order = 3
[fit.model.fitting_net]
widths = [32, 32]
[fit.training]
epochs = 500
batch_atoms = 96
max_buckets = 1
[fit.uncertainty]
kind = "deep"
members = 4
effort = 0.25
[stop]
iterations = ITERATIONS
"""


def tersoff() -> Any:
    from ase.calculators.tersoff import Tersoff, TersoffParameters

    silicon = TersoffParameters(
        A=1830.8, B=471.18, lambda1=2.4799, lambda2=1.7322, lambda3=0.0, beta=1.1e-6, gamma=1.0, m=3.0, n=0.78734,
        c=1.0039e5, d=16.217, h=-0.59825, R=2.85, D=0.15,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): silicon})


def test_frames() -> list[Any]:
    """26 frames: MD at 500, 1200, 2500 K at three volumes (of a crystal, a vacancy, an interstitial), strains, rattles."""
    import numpy as np
    from ase import units
    from ase.build import bulk
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from adatom.fitting.active import builders, generators

    crystal, rng, out = bulk("Si", cubic=True, a=LATTICE), np.random.default_rng(20261126), []
    starts = {
        "bulk": crystal, "vacancy": builders.without(crystal, 1, "", rng),
        "interstitial": builders.with_interstitials(crystal, "Si", 1, 1, rng),
    }  # fmt: skip
    for name, start in starts.items():
        for kelvin, scale in ((500.0, 0.98), (1200.0, 1.0), (2500.0, 1.03)):
            atoms = builders.scaled(start, scale**3)
            atoms.calc = tersoff()
            MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * kelvin, rng=rng)
            dynamics = Langevin(atoms, 1.0 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False)
            for _ in range(2):
                dynamics.run(150)
                copy = atoms.copy()
                copy.info = {"config_type": f"{name}_{kelvin:.0f}K"}
                out.append(copy)
    entries = [
        generators.Strained(atoms=8, count=4, max_strain=0.06, volumes=(), config_type="strained"),
        generators.Rattled(atoms=8, count=4, displacement_A=0.1, config_type="rattled"),
    ]
    return out + generators.generate(entries, {"si": crystal}, 4711)


def label_test(config: Path, folder: Path) -> None:
    """test.extxyz beside the config; nothing where it is there."""
    from adatom.fitting.active.config import load_config
    from adatom.fitting.active.labelling import label
    from adatom.fitting.active.ledger import Ledger

    (folder / "test.extxyz").touch()  # named by the config, which is read for its calculator
    settings = load_config(config).label
    with Ledger(folder / "test.sqlite", settings=settings.fingerprint) as ledger:
        for atoms in test_frames() if not ledger.rows() else []:
            ledger.add(atoms, iteration=0, origin=dict(atoms.info))
        label(ledger, settings, folder / "test-labels", say=print)
        print(ledger.table())
        ledger.export(folder / "test.extxyz")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has GPAW")
    parser.add_argument("--out", type=Path, default=Path("silicon-learn"))
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args(arguments)
    import ase.io
    from ase.build import bulk

    from adatom.fitting.active.report import UNITS, reports, table

    folder, began = options.out, time.time()
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "si.extxyz", bulk("Si", cubic=True, a=LATTICE))
    config = folder / "learn.toml"
    python = str(Path(options.python).absolute())
    config.write_text(CONFIG.replace("PYTHON", python).replace("ITERATIONS", str(options.iterations)))
    label_test(config, folder)
    subprocess.run([sys.executable, "-m", "adatom.fitting.cli", "learn", str(config)], check=True)
    found = reports(folder / "learn")
    print(f"\n{date.today()}; device: {cpu_name()}; commit {commit()}; {(time.time() - began) / 60:.0f} minutes in this call")
    print(f"{table(found)}\n{UNITS}")
    content = {"date": str(date.today()), "device": cpu_name(), "commit": commit(), "iterations": found}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
