"""Molecular dynamics through ASE's integrators: what is conserved, what is sampled, and how a run ends when it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from adatom.md import Interrupted, SimulationFailed, read_log, run
from adatom.md.thermo import Thermo, min_distance


def copper(repeat: int = 2, seed: int = 0) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True, a=3.6) * (repeat, repeat, repeat)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    return atoms


class Springs(Calculator):
    """½ k |r − r₀|² for every atom, all the same: canonical averages are known. No stress, no free_energy."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, origin: np.ndarray, k: float = 5.0, bad_call: int | None = None, value: float = np.nan) -> None:
        super().__init__()
        self.origin, self.k, self.bad_call, self.value, self.calls = origin, k, bad_call, value, 0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        u = self.atoms.positions - self.origin
        self.results = {"energy": 0.5 * self.k * float((u * u).sum()), "forces": -self.k * u}
        self.calls += 1
        if self.calls == self.bad_call:
            self.results["forces"][3] = self.value


class Cluster(Springs):
    """½ k w² + 10 w⁴ with w = u − ū for every atom: conserves the total momentum, and is chaotic."""

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        Calculator.calculate(self, atoms, properties, system_changes)
        w = self.atoms.positions - self.origin
        w -= w.mean(axis=0)
        squares = (w * w).sum(axis=1, keepdims=True)
        gradient = (self.k + 40.0 * squares) * w
        energy = float((0.5 * self.k * squares + 10.0 * squares**2).sum())
        self.results = {"energy": energy, "forces": gradient.mean(axis=0) - gradient}


def particles(n: int = 8, kind: type[Springs] = Springs, **options: Any) -> ase.Atoms:
    origin = 3.0 * np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2, np.arange(n) // 4], axis=1)
    atoms = ase.Atoms(f"Ar{n}", positions=origin)
    atoms.calc = kind(origin, **options)
    return atoms


def test_nve_conserves_energy_and_momentum(tmp_path: Path) -> None:
    summary = run(
        copper(), ensemble="nve", temperature_K=300.0, steps=300, timestep_fs=2.0, interval=5, log=tmp_path / "log.csv"
    )
    total = read_log(tmp_path / "log.csv")["total_eV"]
    kinetic = read_log(tmp_path / "log.csv")["kinetic_eV"]
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)
    np.testing.assert_allclose(summary.atoms.get_momenta().sum(axis=0), 0.0, atol=1e-9)
    assert summary.drift is not None
    assert abs(summary.drift.slope) < max(5.0 * summary.drift.error, 1e-3)
    assert summary.drift.rms < 1e-3


def test_nve_is_second_order_and_reversible() -> None:
    def wobble(timestep_fs: float) -> float:
        steps = round(400 / timestep_fs)
        options: dict[str, Any] = {"ensemble": "nve", "temperature_K": 600.0, "interval": 1}
        rows = run(copper(1), timestep_fs=timestep_fs, steps=steps, **options).rows
        return float(np.std([r.total_eV for r in rows]))

    assert wobble(4.0) / wobble(2.0) == pytest.approx(4.0, rel=0.25)
    there = run(copper(1), ensemble="nve", temperature_K=600.0, steps=50).atoms
    there.set_momenta(-there.get_momenta())
    back = run(there, ensemble="nve", steps=50).atoms
    np.testing.assert_allclose(back.positions, copper(1).positions, atol=1e-9)


@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_nvt_samples_the_canonical_distribution_of_springs(thermostat: Any) -> None:
    """8 atoms on springs (not translation invariant, so all 24 coordinates count): <E_kin> = <E_pot> = 12 k_B T."""
    atoms = particles()
    atoms.set_constraint([FixAtoms([])])  # momentum is not conserved here, and a constraint says so
    rows = run(
        atoms, ensemble="nvt", temperature_K=300.0, thermostat=thermostat, thermostat_time_fs=50.0, timestep_fs=4.0,
        steps=3000, interval=4, seed=1,
    ).rows[100:]  # fmt: skip
    ideal = 12.0 * units.kB * 300.0
    kinetic, potential = (np.array([getattr(r, name) for r in rows]) for name in ("kinetic_eV", "potential_eV"))
    assert kinetic.mean() == pytest.approx(ideal, rel=0.10)
    assert kinetic.var() == pytest.approx(ideal**2 / 12.0, rel=0.45)
    if thermostat == "langevin":  # equal springs under a global thermostat keep their share of the energy for ever
        assert potential.mean() == pytest.approx(ideal, rel=0.15)


@pytest.mark.parametrize("thermostat", ["langevin", "bussi", "nose-hoover"])
def test_nvt_counts_degrees_of_freedom_truly(thermostat: Any) -> None:
    """Free in space, 4 atoms have 9 internal degrees of freedom; ASE alone would heat them to 400 K."""
    atoms = particles(4, Cluster, k=2.0)
    summary = run(
        atoms, ensemble="nvt", temperature_K=300.0, thermostat=thermostat, thermostat_time_fs=80.0, timestep_fs=4.0,
        steps=4000, interval=4, seed=2,
    )  # fmt: skip
    momenta, masses = summary.atoms.get_momenta(), summary.atoms.get_masses()[:, None]
    assert np.mean([r.temperature_K for r in summary.rows[50:]]) == pytest.approx(300.0, rel=0.15)
    drifting = np.abs(momenta.sum(axis=0)).max() / np.sqrt(masses.sum() * units.kB * 300.0)
    assert (drifting > 1e-3) == (thermostat == "langevin")


@pytest.mark.parametrize("thermostat", ["bussi", "nose-hoover"])
def test_nvt_conserved_energy(thermostat: Any) -> None:
    summary = run(
        copper(), ensemble="nvt", temperature_K=300.0, thermostat=thermostat, timestep_fs=2.0, steps=300, interval=5
    )
    total = np.array([r.total_eV for r in summary.rows])
    conserved = np.array([r.conserved_eV for r in summary.rows])
    assert np.ptp(conserved) < 0.05 * np.ptp(total)


@pytest.mark.parametrize("barostat", ["isotropic", "flexible"])
def test_npt_holds_the_pressure(barostat: Any, tmp_path: Path) -> None:
    summary = run(
        copper(), ensemble="npt", temperature_K=300.0, pressure_GPa=5.0, barostat=barostat, barostat_time_fs=150.0,
        thermostat_time_fs=80.0, timestep_fs=4.0, steps=400, interval=5, log=tmp_path / "log.csv", seed=1,
    )  # fmt: skip
    table = read_log(tmp_path / "log.csv")
    late = table["pressure_GPa"][30:]
    assert late.mean() == pytest.approx(5.0, abs=0.8)
    assert summary.volume_mean < 0.985 * copper().get_volume()
    assert np.ptp(table["conserved_eV"]) < 0.1 * np.ptp(table["total_eV"])
    skewed = np.abs(summary.atoms.cell.array - np.diag(summary.atoms.cell.lengths())).max() > 1e-3
    assert skewed == (barostat == "flexible")


def test_molecule_and_table_of_undefined_quantities(tmp_path: Path) -> None:
    ethanol = molecule("CH3CH2OH")
    ethanol.calc = EMT()
    summary = run(ethanol, ensemble="nvt", temperature_K=100.0, steps=20, timestep_fs=0.25, log=tmp_path / "log.csv")
    table = read_log(tmp_path / "log.csv")
    assert tuple(table) == Thermo._fields
    assert table["step"].tolist() == [0, 10, 20]
    assert np.isnan(table["pressure_GPa"]).all()
    assert np.isnan(table["volume_A3"]).all()
    assert np.isnan(table["conserved_eV"]).all()
    assert summary.drift is None
    assert table["min_distance_A"][0] == pytest.approx(min(d for d in ethanol.get_all_distances().ravel() if d))


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_seed_decides_everything(ensemble: Any) -> None:
    pressure = 0.0 if ensemble == "npt" else None

    def end(seed: int) -> np.ndarray:
        atoms = copper(1)
        options: dict[str, Any] = {"temperature_K": 300.0, "pressure_GPa": pressure, "steps": 10}
        return run(atoms, ensemble=ensemble, seed=seed, **options).atoms.positions

    np.testing.assert_array_equal(end(1), end(1))
    assert np.abs(end(1) - end(2)).max() > 1e-4


def test_argument_is_not_changed() -> None:
    atoms = copper(1)
    before = atoms.copy()
    run(atoms, ensemble="nve", temperature_K=300.0, steps=3)
    np.testing.assert_array_equal(atoms.positions, before.positions)
    assert not atoms.get_momenta().any()


@pytest.mark.parametrize("suffix", [".traj", ".extxyz", ".xyz"])
def test_trajectory_is_whole_and_goes_on(suffix: str, tmp_path: Path) -> None:
    start = copper(1)
    start.info["REF_energy"] = -1.0
    start.arrays["REF_forces"] = np.ones((4, 3))
    path = tmp_path / f"out{suffix}"
    straight = run(start, ensemble="nve", temperature_K=300.0, steps=25, trajectory=path, interval=10).atoms
    frames = ase.io.read(path, ":")
    exact = suffix == ".traj"
    assert len(frames) == 4
    np.testing.assert_allclose(frames[-1].positions, straight.positions, atol=1e-12 if exact else 1e-8)
    np.testing.assert_allclose(frames[-1].get_momenta(), straight.get_momenta(), atol=1e-12 if exact else 1e-8)
    for frame in frames:
        assert "REF_energy" not in frame.info
        assert "REF_forces" not in frame.arrays
        results = frame.calc.results
        frame.calc = EMT()
        assert results["energy"] == pytest.approx(frame.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(results["forces"], frame.get_forces(), atol=1e-6)
        np.testing.assert_allclose(results["stress"], frame.get_stress(), atol=1e-7)
    middle = frames[2]  # step 20, velocities and all
    again = run(middle, ensemble="nve", steps=5)
    np.testing.assert_allclose(again.atoms.positions, straight.positions, atol=1e-10 if exact else 1e-6)
    assert again.velocities == "those of the structure"


def test_interrupt_saves_a_state_to_go_on_from(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 20
        if done == 13:
            raise KeyboardInterrupt

    path = tmp_path / "out.extxyz"
    options: dict[str, Any] = {"ensemble": "nve", "timestep_fs": 2.0}
    with pytest.raises(Interrupted, match=r"after step 13 of 20; go on from .*restart.traj with 7 more steps") as caught:
        run(copper(1), temperature_K=300.0, steps=20, trajectory=path, progress=stop, **options)
    assert len(ase.io.read(path, ":")) == 2
    start = ase.io.read(caught.value.saved)
    start.calc = EMT()
    straight = run(copper(1), temperature_K=300.0, steps=20, **options)
    np.testing.assert_allclose(run(start, steps=7, **options).atoms.positions, straight.atoms.positions, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"step 12 of 100: (velocity|force) is not finite: atom 3 \(Ar\)"),
        (5000.0, r"exploded: atom 3 \(Ar\)"),
    ],
)
def test_guard_names_step_and_atom_and_saves(value: float, message: str, tmp_path: Path) -> None:
    path = tmp_path / "out.traj"
    atoms = particles(bad_call=13, value=value)
    with pytest.raises(SimulationFailed, match=message) as caught:
        run(atoms, ensemble="nve", temperature_K=300.0, steps=100, trajectory=path, interval=5)
    good, bad = ase.io.read(caught.value.saved, ":")
    assert caught.value.saved == tmp_path / "out.traj.failed.extxyz"
    assert good.info["step"] == 10
    assert bad.info["step"] in (12, 13)
    assert np.isfinite(good.positions).all()
    assert len(ase.io.read(path, ":")) == 3


def test_guard_against_heat() -> None:
    atoms = particles(k=-1.0)  # hills instead of valleys
    with pytest.raises(SimulationFailed, match=r"temperature is \d+ K \(limit 20000 K\), hottest: atoms "):
        run(atoms, ensemble="nve", temperature_K=300.0, steps=5000, timestep_fs=2.0)


def test_calculator_that_gives_up_is_reported() -> None:
    class Refuses(Springs):
        def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            if self.calls == 5:
                raise ValueError("atoms on top of each other")

    with pytest.raises(SimulationFailed, match=r"step 4 of 9: ValueError: atoms on top of each other$") as caught:
        run(particles(kind=Refuses), ensemble="nve", temperature_K=300.0, steps=9)
    assert caught.value.step == 4
    assert caught.value.saved is None
    assert len(caught.value.frames) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"ensemble": "nvp"}, "ensemble must be one of nve, nvt, npt, not 'nvp'"),
    ({"thermostat": "berendsen"}, "thermostat must be one of langevin, nose-hoover, bussi"),
    ({"barostat": "berendsen"}, "barostat must be one of isotropic, flexible"),
    ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"interval": 0}, "interval must be a whole number"),
    ({"seed": -1}, "seed must be a whole number of at least 0"),
    ({"timestep_fs": -1.0}, "timestep_fs must be positive, not -1.0"),
    ({"timestep_fs": float("nan")}, "timestep_fs must be positive, not nan"),
    ({"thermostat_time_fs": 0.0}, "thermostat_time_fs must be at least two timesteps"),
    ({"barostat_time_fs": 1.0}, "barostat_time_fs must be at least two timesteps"),
    ({"ensemble": "nvt", "temperature_K": None}, "nvt needs temperature_K"),
    ({"temperature_K": -3.0}, "temperature_K must be positive, not -3.0"),
    ({"temperature_K": None}, "the structure has no velocities: give temperature_K"),
    ({"pressure_GPa": 1.0}, "pressure_GPa is for npt only"),
    ({"ensemble": "npt"}, "npt needs pressure_GPa"),
    ({"trajectory": Path("out.dcd")}, "suffix must be one of .traj, .xyz, .extxyz"),
    ({"trajectory": Path("nowhere/out.traj")}, "there is no folder nowhere"),
    ({"trajectory": Path("a.xyz"), "log": Path("a.xyz")}, "trajectory and log are both a.xyz"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    options = {"ensemble": "nve", "temperature_K": 300.0, "steps": 5} | change
    with pytest.raises(ValueError, match=message) as caught:
        run(copper(1), **options)
    assert "\n" not in str(caught.value)


def test_bad_structures() -> None:
    npt: dict[str, Any] = {"ensemble": "npt", "temperature_K": 300.0, "pressure_GPa": 0.0, "steps": 5}
    atoms = copper(1)
    atoms.pbc = [True, True, False]
    with pytest.raises(ValueError, match="npt needs a cell periodic in three directions"):
        run(atoms, **npt)
    atoms = particles()
    atoms.set_cell([9.0] * 3)
    atoms.pbc = True
    with pytest.raises(ValueError, match="npt needs stress, which Springs does not have"):
        run(atoms, **npt)
    atoms = copper(1)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="FixAtoms constraints work with nve, langevin and bussi only"):
        run(atoms, **npt)
    with pytest.raises(ValueError, match="no calculator"):
        run(bulk("Cu"), ensemble="nve", temperature_K=1.0, steps=1)
    with pytest.raises(ValueError, match="a single atom has no thermostat but langevin"):
        run(particles(1), ensemble="nvt", thermostat="bussi", temperature_K=300.0, steps=1)
    atoms = copper(1)
    atoms.positions[2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite positions, the first is atom 2"):
        run(atoms, ensemble="nve", temperature_K=1.0, steps=1)


def test_long_timestep_and_moving_centre_of_mass_warn() -> None:
    with pytest.warns(UserWarning, match="30 fs is longer than atomic vibrations"):
        run(particles(k=0.01), ensemble="nve", temperature_K=10.0, steps=1, timestep_fs=30.0)
    atoms = copper(1)
    atoms.set_momenta(np.ones((4, 3)))
    with pytest.warns(UserWarning, match="centre of mass moves"):
        end = run(atoms, ensemble="nvt", thermostat="nose-hoover", temperature_K=10.0, steps=1).atoms
    np.testing.assert_allclose(end.get_momenta().sum(axis=0), 0.0, atol=1e-12)
    end = run(atoms, ensemble="nve", steps=1).atoms  # nve is left as it is
    np.testing.assert_allclose(end.get_momenta().sum(axis=0), 4.0, atol=1e-9)


def test_existing_files_are_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "out.traj"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already: choose another name or allow overwriting"):
        run(copper(1), ensemble="nve", temperature_K=300.0, steps=1, trajectory=path)
    assert path.read_text() == "precious"
    run(copper(1), ensemble="nve", temperature_K=300.0, steps=1, trajectory=path, overwrite=True)
    assert len(ase.io.read(path, ":")) == 2


def test_fixed_atoms_stay(tmp_path: Path) -> None:
    atoms = copper(1)
    atoms.set_constraint(FixAtoms([1]))
    end = run(atoms, ensemble="nvt", temperature_K=300.0, steps=20, trajectory=tmp_path / "out.traj").atoms
    np.testing.assert_array_equal(end.positions[1], atoms.positions[1])
    assert np.abs(end.positions[0] - atoms.positions[0]).max() > 1e-3
    assert ase.io.read(tmp_path / "out.traj").constraints


def test_read_log_refuses_other_files_and_skips_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a table written by adatom md: its first line is 'a,b'"):
        read_log(path)
    path.write_text(",".join(Thermo._fields) + "\n" + "1," * 9 + "1\n2,0.")
    assert read_log(path)["step"].tolist() == [1]
    path.write_text("")
    with pytest.raises(ValueError, match="is not a table"):
        read_log(path)


def test_min_distance_sees_images_and_lonely_atoms() -> None:
    assert min_distance(ase.Atoms("H", cell=[2.5, 7, 7], pbc=True), 1.0) == pytest.approx(2.5)
    assert np.isnan(min_distance(ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 50.0]]), 3.0))
    assert min_distance(ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 9.0]]), 0.5) == pytest.approx(9.0)
