"""What a potential says about its own error is what its members say one by one; it travels with the file."""

import dataclasses
import json

import ase
import jax
import numpy as np
import pytest
from helpers import awkward_structures, make_potential, random_weights

from adatom.md import simulate
from adatom.potential import AdatomCalculator, ModelFileError, Potential, load, save
from adatom.potential.committee import Calibration, Committee, Coverage

ELEMENTS = (8, 14)
PARTS = {"deep": ("descriptor", "fitting"), "shallow": ("fitting",), "laplace": ("fitting",)}


def with_committee(kind="deep", *, scale=None, n=3):
    """Members with random weights in the parts of the network that this kind of committee has of its own."""
    potential = make_potential(ELEMENTS, golden=True)
    rng = np.random.default_rng(5)
    trees = [random_weights(potential.model, rng) for _ in range(n)]
    members = jax.tree.map(lambda *x: np.stack(x), *[{k: t[k] for k in PARTS[kind]} for t in trees])
    if kind == "laplace":
        members = {"fitting": {s: {"energy": x["energy"]} for s, x in members["fitting"].items()}}
    one = None
    if scale is not None:
        one = Coverage(scale=scale, nominal=(0.5,), factors=(0.7,), found=(0.52,), rank=0.6, samples=40)
    calibration = one and Calibration(energy=one.model_copy(update={"scale": 2.0 * scale}), forces=one, data="validation")
    return dataclasses.replace(potential, committee=Committee(kind, members, calibration))


def each_alone(potential: Potential) -> list[Potential]:
    out = []
    for m in range(potential.committee.size):
        own = jax.tree.map(lambda x, m=m: x[m], potential.committee.members)
        network = potential.params["network"]
        merged = {"descriptor": own.get("descriptor", network["descriptor"])}
        merged["fitting"] = {s: network["fitting"][s] | own["fitting"][s] for s in network["fitting"]}
        out.append(dataclasses.replace(potential, params=potential.params | {"network": merged}, golden=None, committee=None))
    return out


@pytest.mark.parametrize("kind", list(PARTS))
def test_spread_is_that_of_the_members(kind):
    potential = with_committee(kind, scale=1.7)
    s = awkward_structures(ELEMENTS)["triclinic"]
    atoms = ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
    energies, forces = [], []
    for alone in each_alone(potential):
        atoms.calc = AdatomCalculator(alone, dtype="float64")
        energies.append(atoms.get_potential_energies())
        forces.append(atoms.get_forces())
    away = np.array(forces) - np.mean(forces, axis=0)
    atoms.calc = AdatomCalculator(potential, dtype="float64")
    plain = atoms.get_forces()
    assert "energy_std" not in atoms.calc.results
    np.testing.assert_allclose(atoms.calc.get_property("energy_std", atoms), 3.4 * np.std(np.sum(energies, axis=1)), rtol=1e-8)
    np.testing.assert_allclose(atoms.calc.results["energies_std"], 3.4 * np.std(energies, axis=0), rtol=1e-8)
    expected = 1.7 * np.sqrt((away**2).sum(axis=2).mean(axis=0))
    np.testing.assert_allclose(atoms.calc.results["forces_std"], expected, rtol=1e-8)
    np.testing.assert_array_equal(atoms.get_forces(), plain)
    atoms.calc = AdatomCalculator(dataclasses.replace(potential, committee=None), dtype="float64")
    np.testing.assert_array_equal(atoms.get_forces(), plain)
    out = simulate(
        potential, atoms, ensemble="nve", temperature_K=1e-6, timestep_fs=1e-6, steps=5, interval=5, precision="float64",
        min_distance=0.0, on_stop="return",
    )  # fmt: skip
    np.testing.assert_allclose([r.max_spread_eV_A for r in out.rows], expected.max(), rtol=1e-6)


def test_looked_at_as_often_as_asked():
    """The limit counts where the committee is asked: at steps 0, 4, 8, …; between, the last answer stands."""
    potential = with_committee()
    s = awkward_structures(ELEMENTS)["molecule"]
    atoms = ase.Atoms(s.numbers, s.positions)
    given = dict(ensemble="nve", temperature_K=300.0, timestep_fs=0.2, precision="float64", min_distance=0.0, on_stop="return")
    rows = simulate(potential, atoms, steps=8, interval=1, spread_interval=4, **given).rows
    seen = np.array([r.max_spread_eV_A for r in rows])
    assert len(set(seen[:4])) == len(set(seen[4:8])) == 1
    assert len(set(seen)) == 3
    limit = 0.5 * (seen[0] + seen[4])
    if seen[4] > seen[0]:
        stop = simulate(potential, atoms, steps=8, interval=8, spread_interval=4, max_spread_eV_A=limit, **given).stop
        assert (stop.guard, stop.step) == ("spread", 4)


@pytest.mark.parametrize("scale", [None, 0.8])
def test_travels_with_the_file(tmp_path, scale):
    potential = with_committee("laplace", scale=scale)
    save(potential, tmp_path / "model.adatom")
    found = load(tmp_path / "model.adatom").committee
    assert (found.kind, found.size, found.calibration) == ("laplace", 3, potential.committee.calibration)
    jax.tree.map(np.testing.assert_array_equal, found.members, potential.committee.members)


def test_members_of_another_shape_are_refused(tmp_path):
    potential = with_committee()
    wrong = jax.tree.map(lambda x: np.concatenate([x, x], axis=-1), potential.committee.members)
    save(dataclasses.replace(potential, committee=Committee("deep", wrong)), tmp_path / "model.adatom")
    with pytest.raises(ModelFileError, match="committee's arrays do not have the shapes"):
        load(tmp_path / "model.adatom")


def test_none_to_ask():
    with pytest.raises(ValueError, match="knows nothing about its own error: fit it with"):
        AdatomCalculator(make_potential(ELEMENTS), uncertainty=True)
    assert json.dumps(with_committee(scale=1.0).committee.calibration.model_dump())
