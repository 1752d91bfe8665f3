"""A campaign of `adatom learn` whose driver and workers are killed with SIGKILL at random: is it the one that was never killed?

    python benchmarks/learn_kills.py                      30 kills
    python benchmarks/learn_kills.py --kills 3            quick

Copper learnt from ASE's EMT, each label made to take a second. A kill takes the driver, a worker, or both. At the end the ledger
(states, iterations, energies, forces) and data.extxyz must equal those of an uninterrupted campaign, and no structure may have
been computed twice, unless its own calculation was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402

RESULTS = HERE / "results" / "learn_kills.json"
CONFIG = """
[start]
labels = 8
[explore]
temperatures_K = [300, 900]
runs = 4
duration_ps = 0.1
growth = 1.0
timestep_fs = 2.0
interval = 10
prototypes = {cu = "cu.extxyz"}
[[explore.structures]]
kind = "rattled"
atoms = 4
count = 12
max_strain = 0.03
[select]
lower_eV_A = 1e-5
upper_eV_A = 5.0
labels = 8
[label]
calculator = "slow_emt:SlowEMT"
workers = 2
attempts = 100
environment = {PYTHONPATH = "./", ADATOM_COUNTER = "./counter"}
[fit]
validation_fraction = 0.3
[fit.model.descriptor]
type = "symmetry_functions"
cutoff = 3.6
n_radial = 3
n_angular = 1
zetas = [1.0]
[fit.model.fitting_net]
widths = [8]
[fit.training]
epochs = 100
max_buckets = 1
checkpoint_seconds = 0.2
[fit.uncertainty]
kind = "deep"
members = 2
[stop]
iterations = 2
"""
CALCULATOR = '''
"""EMT that takes a second, and writes down what it has computed."""
import hashlib, os, time
from ase.calculators.emt import EMT

class SlowEMT(EMT):
    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        time.sleep(1.0)
        super().calculate(atoms, properties, system_changes)
        name = hashlib.sha256(self.atoms.positions.tobytes() + self.atoms.cell.tobytes()).hexdigest()
        with open(os.environ["ADATOM_COUNTER"], "a") as f:
            f.write(name + "\\n")
'''


def prepare(folder: Path) -> None:
    import ase.io
    from ase.build import bulk

    folder.mkdir()
    ase.io.write(folder / "cu.extxyz", bulk("Cu", cubic=True))
    (folder / "cu.toml").write_text(CONFIG)
    (folder / "slow_emt.py").write_text(CALCULATOR)


def start(folder: Path, cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ADATOM_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "adatom.fitting.cli", "learn", "cu.toml"]
    with open(folder / "output", "ab") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def workers(folder: Path) -> list[int]:
    """Processes that compute labels of this campaign."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "label_worker" in text and str(folder) in text:
            found.append(int(path.parent.name))
    return found


def ledger(folder: Path) -> list[str]:
    """What must not depend on kills, a line a calculation."""
    from adatom.fitting.active.config import load_config
    from adatom.fitting.active.ledger import Ledger

    with Ledger(folder / "cu" / "ledger.sqlite", settings=load_config(folder / "cu.toml").label.fingerprint) as found:
        rows = found.rows()
    forces = [None if c.forces is None else c.forces.tolist() for c in rows]
    return sorted(json.dumps([c.hash, c.state, c.iteration, c.label_energy, f]) for c, f in zip(rows, forces, strict=True))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed, cache = (Path(folder) / x for x in ("quiet", "killed", "cache"))
        for place in (quiet, killed):
            prepare(place)
        began = time.monotonic()
        if start(quiet, cache).wait():
            raise SystemExit((quiet / "output").read_text()[-2000:])
        whole = time.monotonic() - began
        again = start(killed, cache)
        kills: Counter[str] = Counter()
        while sum(kills.values()) < options.kills:
            time.sleep(rng.uniform(0.5, whole / options.kills))
            if again.poll() is not None:
                break
            target = rng.choice(["driver", "worker", "both"])
            running = workers(killed)
            if target != "driver" and running:
                os.kill(rng.choice(running), signal.SIGKILL)
                kills["workers"] += 1
            if target != "worker":
                again.kill()
                again.wait()
                kills["drivers"] += 1
                again = start(killed, cache)
        if again.wait():
            raise SystemExit((killed / "output").read_text()[-2000:])
        a, b = ledger(quiet), ledger(killed)
        same = a == b and (quiet / "cu" / "data.extxyz").read_bytes() == (killed / "cu" / "data.extxyz").read_bytes()
        counted = Counter((killed / "counter").read_text().split())
        twice = sum(n > 1 for n in counted.values())
        found = {
            "kills_of_the_driver": kills["drivers"], "of_workers": kills["workers"], "labels": len(b),
            "same_ledger_and_data": same, "computed_twice": twice,
        }  # fmt: skip
        print(f"{date.today()}; device: {cpu_name()}; commit {commit()}: {json.dumps(found)}")
        about = {"date": str(date.today()), "device": cpu_name(), "commit": commit(), "seed": options.seed}
        RESULTS.write_text(json.dumps(about | found, indent=1) + "\n")
        if not same or twice:
            raise SystemExit(f"{len(set(a) ^ set(b))} lines of the ledgers differ, {twice} structures were computed twice")


if __name__ == "__main__":
    main()
