"""The scripts about molecular dynamics run at tiny size and print their tables. Nothing here is a measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from adatom.potential import Potential, save
from adatom.potential.model import Model, ModelConfig, Statistics

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning to a core needs Linux")


def run_script(root: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(root / ".typings")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


@linux
def test_md_speed(root: Path, tmp_path: Path) -> None:
    text = run_script(
        root, "benchmarks/md_speed.py", "--only", "a", "--quick", "--rounds", "1", "--atoms", "64",
        "--potentials", "Lennard-Jones 6 Å", "--json", str(tmp_path / "speed.json"),
    )  # fmt: skip
    assert "| potential | atoms | ASE | ours | ASE ÷ ours |" in text
    assert "| Lennard-Jones 6 Å | 64 |" in text
    assert "warning" not in text  # nothing compiles while the clock runs
    saved = json.loads((tmp_path / "speed.json").read_text())
    native, ase = saved["runs"]["a | native | Lennard-Jones 6 Å | 64"], saved["runs"]["a | ase | Lennard-Jones 6 Å | 64"]
    assert native[0]["cpu"] > 0.0
    assert native[0]["parts"]["model"] > 0.0
    assert 150.0 < native[0]["temperature_K"] < 1000.0
    assert 150.0 < ase[0]["temperature_K"] < 1000.0


def test_kill_resume(root: Path) -> None:
    text = run_script(root, "benchmarks/kill_resume.py", "--kills", "2", "--steps", "300", "--formats", ".extxyz")
    assert "| .extxyz | 2 |" in text
    assert text.rstrip().endswith("| yes |")


@linux
def test_md_memory(root: Path, tmp_path: Path) -> None:
    descriptor = {"type": "moments", "cutoff": 4.0, "n_radial": 4, "n_channels": 4, "order": 2, "contractions": ()}
    model = Model(ModelConfig(elements=(29,), descriptor=descriptor, fitting_net={"widths": (16,)}))
    network = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    one = np.ones((1, model.config.descriptor.n_features(1)))
    statistics = Statistics(np.zeros(1), np.zeros(1), np.full(1, 1e-2), 0.0 * one, one, np.full((1, 1), 1.5))
    save(Potential(model, {"network": network, "statistics": statistics}), tmp_path / "random.adatom")
    text = run_script(root, "benchmarks/md_memory.py", str(tmp_path / "random.adatom"), "--cells", "4", "--steps", "4")
    assert "256 Cu atoms" in text
    assert "limit 8: kept" in text
    assert "µs CPU per atom and step" in text


def test_md_validation_counts_what_it_cannot_judge(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from physical_validation.data import EnsembleData, ObservableData, SimulationData, SystemData, UnitData

    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from validation.ensembles import ratio
    from validation.rows import Row, verdict

    def run(temperature: float, mean: float) -> SimulationData:
        energy = np.random.default_rng(int(temperature)).normal(mean, 1.0, 50)
        seen = ObservableData(kinetic_energy=0.0 * energy, potential_energy=energy, total_energy=energy)
        return SimulationData(
            units=UnitData.units("GROMACS"), dt=0.001, system=SystemData(natoms=1), observables=seen,
            ensemble=EnsembleData("NVT", natoms=1, volume=1.0, temperature=temperature),
        )  # fmt: skip

    rows = [Row("check", "fine", 1.0, 0.0, 1.0, 1.0), Row("check", "far", 3.0, 0.0, 1.0, -3.0)]
    ratio(rows, ("apart",), run(60.0, 0.0), run(66.0, 100.0))
    assert rows[2].sigmas is None
    assert "| apart | – | 0 | 1 | σ | too few samples |" in capsys.readouterr().out
    assert verdict("some", rows) == "some: 3 rows, 1 NOT JUDGED, 1 beyond 2 σ, the worst -3.0 σ"


def test_device_speed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    text = run_script(
        root, "benchmarks/device_speed.py", "--atoms", "108", "--potentials", "small moments 4.2 Å", "--json", str(out)
    )
    assert "| small moments 4.2 Å | 108 |" in text
    (row,) = json.loads(out.read_text())["rows"]
    assert row["wall"] > 0.0
    assert row["parts"]["list"] > 0.0
