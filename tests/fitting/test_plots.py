"""Pictures are written, whatever is missing in the data, and never half."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adatom.fitting import plots
from adatom.fitting.calibration import Errors, coverage
from adatom.fitting.metrics import Comparison
from adatom.md.thermo import Thermo
from adatom.potential.committee import Calibration


def errors(scale: float | None) -> dict[str, float | None]:
    return {f"{name}_rmse": scale for name in ("energy", "forces", "stress")}


def is_picture(path: Path) -> bool:
    content = path.read_bytes()
    return len(content) > 2000 and content.startswith((b"\x89PNG", b"%PDF", b"<?xml"))


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_learning_curve(tmp_path: Path, epochs: int, validation: bool) -> None:
    log, picture = tmp_path / "log.jsonl", tmp_path / "curve.png"
    lines = [
        {
            "epoch": n + 1,
            "train": errors(1 / (n + 1)) | {"stress_rmse": None},
            "validation": errors(2.0) if validation else None,
        }
        for n in range(epochs)
    ]
    log.write_text("".join(json.dumps(x) + "\n" for x in lines))
    plots.learning_curve(log, picture)
    assert is_picture(picture)
    assert {p.name for p in tmp_path.iterdir()} == {"log.jsonl", "curve.png"}


def comparison(types: tuple[str, ...], *, stress: int = 6) -> Comparison:
    """Frames of two atoms: an energy, six force components and `stress` components each."""
    rng = np.random.default_rng(0)
    columns = []
    for each in (1, 6, stress):
        n = each * len(types)
        columns.append((rng.normal(size=n), rng.normal(size=n), np.repeat(np.arange(len(types)), each)))
    return Comparison(columns[0], columns[1], columns[2], types)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ""])
def test_parity(tmp_path: Path, suffix: str) -> None:
    """Two types, no stress."""
    plots.parity(comparison(("liquid", "slab_" * 10, "liquid"), stress=0), tmp_path / f"parity{suffix}")
    assert is_picture(tmp_path / f"parity{suffix}")


@pytest.mark.parametrize("types", [1, 20])
def test_parity_of_one_and_of_many_types(tmp_path: Path, types: int) -> None:
    plots.parity(comparison(tuple(f"type {k}" for k in range(types)) * 3), tmp_path / "parity.png")
    assert is_picture(tmp_path / "parity.png")


def test_an_unknown_format_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="docx"):
        plots.parity(comparison(("default",) * 3), tmp_path / "parity.docx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("conserved", [True, False])
def test_dynamics(tmp_path: Path, conserved: bool) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for step in range(5):
        values = dict.fromkeys(Thermo._fields, float(rng.normal())) | {"step": step, "time_ps": 0.001 * step}
        rows.append(Thermo(**(values | ({} if conserved else {"conserved_eV": np.nan}))))  # type: ignore[arg-type]
    plots.dynamics(rows, tmp_path / "md.png", title="NVE", n_atoms=8)
    assert is_picture(tmp_path / "md.png")


@pytest.mark.parametrize("frames", [1, 40])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_calibration(tmp_path: Path, frames: int, spread: float) -> None:
    rng = np.random.default_rng(0)
    pairs = {}
    for name, n in (("energy", frames), ("forces", 5 * frames)):
        s = spread * rng.uniform(0.1, 1.0, n)
        pairs[name] = Errors(np.abs(rng.normal(0.0, 1.0, n)) * (s if spread else 1.0), s, np.arange(n) % frames)
    one = coverage(Errors(np.arange(1.0, 30.0), np.ones(29), np.arange(29)))
    known = Calibration(energy=one, forces=one, data="validation, 29 frames")
    found = {name: list(one.found) for name in pairs}
    plots.calibration(known, pairs, found, tmp_path / "calibration.png", on="40 test frames")
    assert is_picture(tmp_path / "calibration.png")
    del pairs["energy"], found["energy"]
    plots.calibration(known, pairs, found, tmp_path / "forces.png", on="40 test frames")
    assert is_picture(tmp_path / "forces.png")
