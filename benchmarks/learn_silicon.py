"""Silicon learnt from real DFT by one command: `adatom learn` with GPAW, judged on frames that no exploration has seen.

    python benchmarks/learn_silicon.py --python INTERPRETER_WITH_GPAW [--out silicon-learn]      again to go on

Diamond-like cells of 7 to 9 atoms with the settings of `fitting/examples`: PBE, plane waves to 300 eV, 3×3×3 k-points. The test
frames are that set's of these sizes: strained, rattled, thermal (of a Born model), vacancies, interstitials, made by a script
that knows nothing of this one. One of them is labelled again, to see that the settings are the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from learning import campaign, keep  # noqa: E402

RESULTS = HERE / "results" / "learn_silicon.json"
LATTICE = 5.47
"""Å, of diamond silicon in PBE."""
EXAMPLES = HERE.parent / "fitting" / "examples" / "silicon.extxyz.gz"
KINDS = ("Diamond_strained", "Diamond_rattled", "Diamond_thermal", "Vacancy", "Interstitial")
CONFIG = """
seed = 1
[start]
test = ["test.extxyz"]
labels = 16
[explore]
prototypes = {si = "si.extxyz"}
temperatures_K = [300, 900, 1500]
pressures_GPa = [0.0, 10.0]
runs = 20
duration_ps = 0.3
growth = 1.5
max_duration_ps = 3.0
timestep_fs = 1.0
interval = 10
[[explore.structures]]
kind = "strained"
atoms = 8
count = 12
max_strain = 0.06
displacement_A = 0.03
volumes = [0.9, 0.95, 1.05, 1.1]
[[explore.structures]]
kind = "rattled"
atoms = 8
count = 16
displacement_A = 0.1
max_strain = 0.02
[[explore.structures]]
kind = "rattled"
config_type = "rattled more"
atoms = 8
count = 16
displacement_A = 0.18
max_strain = 0.02
[[explore.structures]]
kind = "vacancies"
atoms = 8
displacement_A = 0.1
count = 16
[[explore.structures]]
kind = "interstitials"
atoms = 8
displacement_A = 0.1
count = 16
[select]
labels = 9
[label]
calculator = "gpaw"
python = "PYTHON"
workers = WORKERS
timeout_minutes = 20
[label.arguments]
mode = {name = "pw", ecut = 300}
xc = "PBE"
kpts = {size = [3, 3, 3], gamma = false}
occupations = {name = "fermi-dirac", width = 0.1}
nbands = "125%"
eigensolver = {name = "rmm-diis"}
convergence = {density = 1e-5, energy = 1e-6}
symmetry = {point_group = false}
maxiter = 80
[fit.loss]
stress_start = 10.0
stress_end = 10.0
[fit.training]
max_buckets = 1
[fit.uncertainty]
kind = "deep"
members = 4
effort = 0.25
[stop]
iterations = ITERATIONS
"""


def test_frames() -> list[Any]:
    """Of the example set, the cells of 7 to 9 atoms of `KINDS`."""
    import ase.io

    return [x for x in ase.io.read(EXAMPLES, ":") if x.info["config_type"] in KINDS and 7 <= len(x) <= 9]


def check_settings(config: Path, folder: Path, frame: Any) -> None:
    """The label of a test frame made anew is the label it has, to 1 meV/atom and 5 meV/Å; SystemExit otherwise."""
    import numpy as np

    from adatom.fitting.active.config import load_config
    from adatom.fitting.active.labelling import label
    from adatom.fitting.active.ledger import Ledger

    settings = load_config(config).label
    with Ledger(folder / "check.sqlite", settings=settings.fingerprint) as ledger:
        ledger.add(frame, iteration=0, origin={})
        label(ledger, settings, folder / "check-labels", say=print)
        (found,) = ledger.rows("done")
    again = found.to_atoms()
    energy = 1e3 * abs(again.get_potential_energy() - frame.get_potential_energy()) / len(frame)
    forces = 1e3 * float(np.abs(again.get_forces() - frame.get_forces()).max())
    print(f"a test frame labelled again: {energy:.2g} meV/atom, {forces:.2g} meV/Å apart")
    if energy > 1.0 or forces > 5.0:
        raise SystemExit("these are not the settings of the test frames")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has GPAW")
    parser.add_argument("--out", type=Path, default=Path("silicon-learn"))
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    import ase.io
    from ase.build import bulk

    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "si.extxyz", bulk("Si", cubic=True, a=LATTICE))
    text = CONFIG.replace("PYTHON", str(Path(options.python).absolute())).replace("WORKERS", str(options.workers))
    text = text.replace("ITERATIONS", str(options.iterations))
    tests = test_frames()
    ase.io.write(folder / "test.extxyz", tests)
    (folder / "learn.toml").write_text(text)
    check_settings(folder / "learn.toml", folder, next(x for x in tests if x.info["config_type"] == "Diamond_rattled"))
    keep(RESULTS, campaign(folder, text))


if __name__ == "__main__":
    main()
