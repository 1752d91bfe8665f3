"""Cu–Ni learnt from ASE's EMT by `adatom learn`: which part of the frames it explored had to be labelled?

    python benchmarks/learn_alloy.py [--out cuni-learn]      again to go on

The explored frames are those whose largest σ of a force was found and judged (`[explore] interval`: every 20 fs of every run), of
all iterations, those after the last new label included. Beside it stand the fractions of DP-GEN's Al, Mg and Al–Mg (Zhang, Lin,
Wang, Car and E, Phys. Rev. Materials 3, 023804 (2019)). The test frames are random alloys and pure crystals, with vacancies and
without, moved by EMT itself at 300 to 1400 K from other seeds. ASE's EMT reaches 5.9 Å: so does the potential.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from learning import campaign, keep  # noqa: E402

RESULTS = HERE / "results" / "learn_alloy.json"
COMPOSITIONS = ({"Cu": 1.0}, {"Ni": 1.0}, {"Cu": 3.0, "Ni": 1.0}, {"Cu": 1.0, "Ni": 1.0}, {"Cu": 1.0, "Ni": 3.0})
VOLUMES = {"Cu": 11.81, "Ni": 10.94}
"""Å³ an atom."""
CONFIG = """
seed = 1
[start]
test = ["test.extxyz"]
labels = 20
[explore]
prototypes = {fcc = "fcc.extxyz"}
temperatures_K = [300, 800, 1400]
pressures_GPa = [0.0, 5.0]
runs = 20
duration_ps = 2.0
growth = 5.0
max_duration_ps = 50.0
timestep_fs = 2.0
interval = 10
[[explore.structures]]
kind = "alloy"
atoms = 8
compositions = [{Cu = 1}, {Ni = 1}, {Cu = 3, Ni = 1}, {Cu = 1, Ni = 1}, {Cu = 1, Ni = 3}]
count = 4
displacement_A = 0.03
volumes_A3 = {Cu = 11.81, Ni = 10.94}
[[explore.structures]]
kind = "alloy"
atoms = 8
compositions = [{Cu = 1, Ni = 1}]
count = 5
displacement_A = 0.12
config_type = "rattled"
volumes_A3 = {Cu = 11.81, Ni = 10.94}
[[explore.structures]]
kind = "vacancies"
atoms = 8
count = 5
[select]
labels = 30
lower_eV_A = 0.1
upper_eV_A = 1.0
[label]
calculator = "emt"
workers = 1
[fit.model]
size = "small"
[fit.model.descriptor]
cutoff = 6.0
[fit.training]
max_buckets = 1
[fit.uncertainty]
kind = "deep"
members = 4
effort = 0.25
[stop]
accurate = 0.998
iterations = ITERATIONS
"""


def test_frames() -> list[Any]:
    """40 frames: each composition with and without a vacancy, at 300, 600, 1000, 1400 K."""
    import numpy as np
    from ase import units
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from adatom.fitting.active import builders

    rng, out = np.random.default_rng(4711), []
    for composition in COMPOSITIONS:
        for vacancies in (0, 1):
            for kelvin in (300.0, 600.0, 1000.0, 1400.0):
                atoms = builders.alloy(builders.supercell(bulk("Cu", cubic=True), 8), composition, "", VOLUMES, rng)
                atoms = builders.without(atoms, vacancies, "", rng) if vacancies else atoms
                atoms.calc = EMT()
                MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * kelvin, rng=rng)
                Langevin(atoms, 2.0 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False).run(150)
                copy = atoms.copy()
                copy.calc = EMT()
                copy.get_stress()
                copy.info["config_type"] = f"{'vacancy' if vacancies else 'bulk'}_{kelvin:.0f}K"
                out.append(copy)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuni-learn"))
    parser.add_argument("--iterations", type=int, default=6)
    options = parser.parse_args(arguments)
    import ase.io
    from ase.build import bulk

    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "fcc.extxyz", bulk("Cu", cubic=True))
    if not (folder / "test.extxyz").exists():
        ase.io.write(folder / "test.extxyz", test_frames())
    found = campaign(folder, CONFIG.replace("ITERATIONS", str(options.iterations)))
    explored, labelled = sum(r["explored"]["frames"] for r in found if "explored" in r), found[-1]["labels_total"]
    print(f"explored {explored} frames, labelled {labelled}: {100 * labelled / explored:.3f} %")
    keep(RESULTS, found, explored=explored, labelled=labelled)


if __name__ == "__main__":
    main()
