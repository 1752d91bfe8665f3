"""One call for a whole run: from files to tables, pictures and text."""

from __future__ import annotations

import csv
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib import image

from adatom.md.observables import analyse, blocking, fit_expansion, plot_blocking, plot_expansion, read_trajectory
from adatom.md.thermo import Thermo

LINE = 9.0


def crystal(rng: np.random.Generator, n_frames: int, *, npt: bool = False, velocities: bool = True) -> list[ase.Atoms]:
    """Sodium chloride whose atoms are independent oscillators at 9 THz, a frame every 0.01 ps."""
    start = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    phase, omega = rng.uniform(0.0, 2.0 * np.pi, (8, 3)), 2.0 * np.pi * LINE
    frames = []
    for k in range(n_frames):
        atoms, t = start.copy(), 0.01 * k
        atoms.positions += 0.1 * np.sin(omega * t + phase)
        if velocities:
            atoms.set_velocities(0.1 * omega * np.cos(omega * t + phase) / (1e3 * units.fs))
        if npt:
            atoms.set_cell(atoms.cell * (1.0 + 0.002 * rng.standard_normal()), scale_atoms=True)
        atoms.info.update(step=10 * k, time_ps=t)
        stress = 0.01 * rng.standard_normal(6)
        atoms.calc = SinglePointCalculator(atoms, energy=-20.0, forces=np.zeros((8, 3)), stress=stress)
        frames.append(atoms)
    return frames


def write_log(path: Path, frames: list[ase.Atoms], rng: np.random.Generator) -> None:
    """A table with the columns of a run; whatever is not set here is empty."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, Thermo._fields, restval="")
        writer.writeheader()
        for frame in frames:
            row = {"step": frame.info["step"], "time_ps": frame.info["time_ps"], "volume_A3": frame.get_volume()}
            row |= {"temperature_K": 300.0 + rng.standard_normal(), "potential_eV": -20.0 + rng.standard_normal()}
            row |= {"total_eV": -19.0 + rng.standard_normal(), "pressure_GPa": 0.1 * rng.standard_normal()}
            writer.writerow(row)


def read_csv(path: Path) -> dict[str, list[str]]:
    with open(path, encoding="utf-8") as f:
        header, *rows = list(csv.reader(f))
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_everything_from_a_run(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    frames = crystal(rng, 300, npt=suffix == "traj")
    run, log, out = tmp_path / f"run.{suffix}", tmp_path / "run.csv", tmp_path / "deep" / "analysis"
    ase.io.write(run, frames)
    write_log(log, frames, rng)
    found = analyse(run, log, out_dir=out, discard_ps=0.5, r_max=5.0)
    assert found.notes == ()
    assert found.frames == 250
    assert (found.start_ps, found.stop_ps) == pytest.approx((0.5, 2.99))
    assert found.rdf is not None
    shell = found.rdf.first_shell("Na", "Cl")
    assert shell is not None
    assert shell.coordination == pytest.approx(6.0, abs=0.1)
    assert found.density_of_states is not None
    dos = found.density_of_states
    assert dos.frequency_THz[np.argmax(dos.total)] == pytest.approx(LINE, abs=0.1)
    assert dos.degrees_of_freedom == 21.0
    assert found.diffusion is not None
    assert found.averages is not None
    assert found.averages.columns["temperature_K"].mean == pytest.approx(300.0, abs=0.3)
    assert found.averages.columns["temperature_K"].samples == 250
    assert found.stress is not None
    assert (found.fluctuations is not None) == (suffix == "traj")
    assert found.fluctuations is None or found.fluctuations.volume.samples == 250
    names = {"rdf", "msd", "vacf", "density_of_states", "averages"}
    assert {p.name for p in found.files} == {f"{n}.{k}" for n in names for k in ("csv", "png")}
    assert set(out.iterdir()) == set(found.files)  # no temporary files stay behind
    for path in found.files:
        if path.suffix == ".png":
            assert np.ptp(image.imread(path)) > 0.5
    assert list(read_csv(out / "rdf.csv")) == ["r_A", "g_Na-Na", "g_Cl-Na", "g_Cl-Cl", "n_Na-Na", "n_Na-Cl", "n_Cl-Na", "n_Cl-Cl"]
    msd = read_csv(out / "msd.csv")
    np.testing.assert_allclose(np.array(msd["msd_Na_A2"], dtype=float), found.msd.values["Na"], rtol=1e-7, atol=1e-12)  # type: ignore[union-attr]
    assert read_csv(out / "averages.csv")["quantity"] == list(found.averages.columns)
    text = found.text()
    for word in ("Cl4Na4", "temperature_K", "Cl around Na", "not diffusive there", "21 degrees of freedom", "no error bar"):
        assert word in text
    assert ("compressibility" in text) == (suffix == "traj")


def test_a_bare_trajectory_says_what_is_missing(tmp_path: Path) -> None:
    """A molecule without velocities, stress, times or cell; foreign frames of one interval."""
    rng = np.random.default_rng(1)
    frames = [ase.Atoms("H2O", rng.standard_normal((3, 3))) for _ in range(60)]
    ase.io.write(tmp_path / "run.extxyz", frames)
    with pytest.raises(ValueError, match="frame 0 has no time_ps; give the time between frames"):
        analyse(tmp_path / "run.extxyz", out_dir=tmp_path / "out")
    found = analyse(tmp_path / "run.extxyz", out_dir=tmp_path / "out", interval_ps=0.5)
    assert (found.rdf, found.vacf, found.density_of_states, found.averages, found.stress, found.fluctuations) == (None,) * 6
    assert found.msd is not None
    assert found.msd.time_ps[1] == 0.5
    assert {p.name for p in found.files} == {"msd.csv", "msd.png"}
    assert "note: no g(r): frame 0 has pbc [False, False, False]" in found.text()
    assert "note: no velocity autocorrelation: the trajectory has no velocities" in found.text()


def test_wrapped_trajectories_must_be_announced(tmp_path: Path) -> None:
    t = np.arange(80) * 0.05
    frames = [ase.Atoms("Ar2", [[3.0 * x, 0.0, 0.0], [5.0, 5.0, -2.0 * x]], cell=[10] * 3, pbc=True) for x in t]
    ase.io.write(tmp_path / "whole.extxyz", frames)
    for frame in frames:
        frame.wrap()
    ase.io.write(tmp_path / "run.extxyz", frames)
    with pytest.raises(ValueError, match="give wrapped=True"):
        analyse(tmp_path / "run.extxyz", out_dir=tmp_path / "out", interval_ps=0.05)
    assert not (tmp_path / "out").exists()
    wrapped = analyse(tmp_path / "run.extxyz", out_dir=tmp_path / "out", interval_ps=0.05, wrapped=True)
    whole = analyse(tmp_path / "whole.extxyz", out_dir=tmp_path / "out", interval_ps=0.05)
    assert wrapped.msd is not None
    assert whole.msd is not None
    np.testing.assert_allclose(wrapped.msd.values["Ar"], whole.msd.values["Ar"], atol=1e-6)


def test_the_last_step_of_a_run_is_left_out_where_it_does_not_fit(tmp_path: Path) -> None:
    frames = crystal(np.random.default_rng(2), 41)
    frames[-1].info["time_ps"] -= 0.004
    ase.io.write(tmp_path / "run.traj", frames)
    assert len(read_trajectory(tmp_path / "run.traj")) == 41
    found = analyse(tmp_path / "run.traj", out_dir=tmp_path)
    assert found.frames == 40
    assert analyse(tmp_path / "run.traj", out_dir=tmp_path).text() == found.text()  # replaces the files


def test_velocities_have_their_unit(tmp_path: Path) -> None:
    """Differences of positions are velocities in Å/ps."""
    ase.io.write(tmp_path / "run.extxyz", crystal(np.random.default_rng(3), 20))
    frames = read_trajectory(tmp_path / "run.extxyz")
    assert frames.velocities is not None
    slope = (frames.positions[2:] - frames.positions[:-2]) / 0.02
    omega_dt = 2.0 * np.pi * LINE * 0.01
    np.testing.assert_allclose(slope, frames.velocities[1:-1] * np.sin(omega_dt) / omega_dt, atol=1e-4)


def test_pictures_of_expansion_and_blocking(tmp_path: Path) -> None:
    t = np.array([100.0, 300.0, 500.0, 700.0])
    fit = fit_expansion(t, 100.0 + 0.01 * t, errors=np.full(4, 0.1), at_K=300.0, degree=1)
    plot_expansion(t, 100.0 + 0.01 * t, fit, tmp_path / "expansion.png", errors=np.full(4, 0.1))
    plot_blocking(blocking(np.random.default_rng(0).standard_normal(500)), tmp_path / "blocking.png")
    for name in ("expansion", "blocking"):
        assert np.ptp(image.imread(tmp_path / f"{name}.png")) > 0.5


def test_bad_files(tmp_path: Path) -> None:
    frames = crystal(np.random.default_rng(4), 3)
    ase.io.write(tmp_path / "mixed.extxyz", [frames[0], bulk("Al")])
    with pytest.raises(ValueError, match="frame 1 is Al, the first is"):
        analyse(tmp_path / "mixed.extxyz", out_dir=tmp_path / "out")
    ase.io.write(tmp_path / "run.extxyz", frames)
    with pytest.raises(ValueError, match="nothing is left: the last frame is at 0.02 ps"):
        analyse(tmp_path / "run.extxyz", out_dir=tmp_path / "out", discard_ps=1.0)
    (tmp_path / "msd.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="would be overwritten"):
        analyse(tmp_path / "run.extxyz", tmp_path / "msd.csv", out_dir=tmp_path)
    assert (tmp_path / "msd.csv").read_text(encoding="utf-8") == "mine"
