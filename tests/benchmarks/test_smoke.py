"""The benchmark scripts run at tiny size and print their tables. Nothing here is a measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from adatom.potential import Potential, save
from adatom.potential.model import Model, ModelConfig, Statistics


def run_script(root: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(root / ".typings")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning to a core needs Linux")
def test_calculator_speed(root: Path) -> None:
    text = run_script(
        root, "benchmarks/calculator_speed.py", "--atoms", "108", "--rounds", "1", "--steps", "2",
        "--subjects", "moments float32",
    )  # fmt: skip
    assert "device:" in text
    assert "| adatom moments | float32 |" in text
    assert "EMT (reference) | float64 |" in text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning to a core needs Linux")
def test_nve_drift(root: Path, tmp_path: Path) -> None:
    model = Model(ModelConfig(elements=(14,), descriptor={"type": "symmetry_functions", "cutoff": 4.0}))
    network = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    one = np.ones((1, model.config.descriptor.n_features(1)))
    statistics = Statistics(np.zeros(1), np.zeros(1), np.full(1, 1e-2), 0.0 * one, one, np.full((1, 1), 1.5))
    save(Potential(model, {"network": network, "statistics": statistics}), tmp_path / "random.adatom")
    text = run_script(
        root, "benchmarks/nve_drift.py", str(tmp_path / "random.adatom"), "--cells", "1", "--steps", "20",
        "--equilibration-steps", "5",
    )  # fmt: skip
    assert "8 Si atoms" in text
    assert "| float64 |" in text
    assert "| float32 |" in text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning to a core needs Linux")
def test_interop(root: Path, shared_data: Path) -> None:
    """Against our own float64, or against calorine where ADATOM_CALORINE_PYTHON names its interpreter."""
    engine = os.environ.get("ADATOM_CALORINE_PYTHON", "none")
    few = ["--only", "equality", "--cases", "radial only"]
    text = run_script(root, "benchmarks/interop.py", "nep", str(shared_data / "models"), "--engine", engine, *few)
    assert "| radial only | 5 |" in text
