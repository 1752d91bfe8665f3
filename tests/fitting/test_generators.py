"""Starting structures: what they contain, distances, voids in closed form, reproducibility, refusals in one line."""

from __future__ import annotations

import tomllib
from collections import Counter

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from adatom.fitting.active import builders
from adatom.fitting.active.generators import Generator, generate
from adatom.fitting.active.selection import broken

ADAPTER: TypeAdapter[Generator] = TypeAdapter(Generator)
CU, W, MG, NACL = bulk("Cu", cubic=True), bulk("W"), bulk("Mg"), bulk("NaCl", "rocksalt", a=5.64, cubic=True)
KINDS = ["bulk", "strained", "rattled", "surfaces", "vacancies", "interstitials", "close_pairs", "dimers"]


def entry(**settings):
    return ADAPTER.validate_python(settings)


def made(prototype=CU, seed=0, **settings):
    return generate([entry(**settings)], {"it": prototype}, seed)


def shortest(atoms: ase.Atoms) -> float:
    """Of all pairs, in units of the sum of covalent radii."""
    i, j, d = neighbour_list("ijd", atoms, 5.0)
    radii = covalent_radii[atoms.numbers]
    return float((d / (radii[i] + radii[j])).min())


def surroundings(atoms: ase.Atoms) -> set[tuple[float, ...]]:
    """Distances to all neighbours within 6 Å, of every atom: the same for the same crystal."""
    i, d = neighbour_list("id", atoms, 6.0)
    return {tuple(np.sort(d[i == a]).round(4)) for a in range(len(atoms))}


@pytest.mark.parametrize(
    ("prototype", "wished", "atoms", "skewness"),
    [
        (CU, 32, 32, 0.0), (CU, 50, 40, 0.12), (bulk("Cu"), 32, 32, 0.0), (bulk("Cu"), 108, 108, 0.0), (W, 54, 54, 0.0),
        (bulk("Si"), 64, 64, 0.0), (bulk("Si"), 9, 8, 0.5), (W, 1, 1, 0.3), (CU, 3, 4, 0.0), (MG, 64, 64, 0.22),
    ],
)  # fmt: skip
def test_supercells_are_cubic_and_not_larger_than_wished(prototype, wished, atoms, skewness) -> None:
    cell = builders.supercell(prototype, wished)
    assert len(cell) <= max(wished, len(prototype))
    assert atoms is None or len(cell) == atoms
    assert cell.get_volume() / len(cell) == pytest.approx(prototype.get_volume() / len(prototype))
    lengths, angles = cell.cell.cellpar()[:3], cell.cell.cellpar()[3:]
    assert np.ptp(lengths) <= skewness * lengths.mean() + 1e-6
    assert np.abs(angles - 90.0).max() <= 90.0 * skewness + 1e-6
    assert surroundings(cell) == surroundings(prototype)  # the same crystal


def test_turned_prototypes_become_cubic_too() -> None:
    turned = bulk("Mg")
    turned.rotate(40.0, (1, 2, 3), rotate_cell=True)
    a, b = builders.supercell(turned, 64), builders.supercell(MG, 64)
    assert len(a) == len(b)
    np.testing.assert_allclose(np.sort(a.cell.lengths()), np.sort(b.cell.lengths()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_works_with_its_defaults_says_what_it_is_and_can_be_written(kind, tmp_path) -> None:
    structures = generate([entry(kind=kind), entry(kind=kind, config_type="mine", prototypes=["b"])], {"a": CU, "b": NACL}, 0)
    assert {x.info["config_type"] for x in structures} == {kind, "mine"}
    for atoms in structures:
        assert isinstance(atoms.info["origin"], str)
        assert atoms.calc is None
        assert not atoms.constraints
        assert kind in ("close_pairs", "dimers") or broken(atoms) is None, atoms.info
    origins = Counter(x.info["origin"] for x in structures)
    assert kind == "dimers" or {o.split(":")[0] for o in origins} == {"a", "b"}
    ase.io.write(tmp_path / "x.extxyz", structures)
    again = ase.io.read(tmp_path / "x.extxyz", ":")
    assert [x.info for x in again] == [x.info for x in structures]


def test_reproducible_by_seed_and_independent_of_what_follows() -> None:
    entries = [entry(kind="rattled"), entry(kind="vacancies", count=3), entry(kind="strained")]
    first = generate(entries, {"a": CU, "b": W}, 3)
    again = generate(entries, {"a": CU, "b": W}, 3)
    assert all((a.positions == b.positions).all() and (a.cell == b.cell).all() for a, b in zip(first, again, strict=True))
    other = generate(entries, {"a": CU, "b": W}, 4)
    assert (first[0].positions != other[0].positions).any()
    fewer = generate(entries[:2], {"a": CU, "b": W}, 3)
    assert all((a.positions == b.positions).all() for a, b in zip(fewer, first, strict=False))
    assert (CU.positions == bulk("Cu", cubic=True).positions).all()  # prototypes stay as they were


def test_strained() -> None:
    structures = made(kind="strained", atoms=32, count=40, max_strain=0.04, volumes=[0.8, 1.2])
    cell = builders.supercell(CU, 32).cell.array
    strains = np.array([np.linalg.solve(cell, x.cell.array) - np.eye(3) for x in structures[:40]])
    np.testing.assert_allclose(strains, np.swapaxes(strains, 1, 2), atol=1e-12)
    assert np.abs(strains).max() <= 0.04
    assert np.abs(strains).max(axis=0).min() > 0.03  # every component is used
    assert [x.get_volume() / np.linalg.det(cell) for x in structures[40:]] == pytest.approx([0.8, 1.2])
    inside = np.array([x.get_scaled_positions() for x in structures])
    np.testing.assert_allclose(inside, np.broadcast_to(inside[0], inside.shape), atol=1e-9)


def test_rattled_has_the_width_and_keeps_distances() -> None:
    structures = made(kind="rattled", atoms=108, count=10, displacement_A=0.1)
    whole = builders.supercell(CU, 108)
    moved = np.array([x.positions - whole.positions for x in structures])
    assert moved.std() == pytest.approx(0.1, rel=0.05)
    assert abs(moved.mean()) < 0.01
    wild = made(kind="rattled", atoms=32, count=10, displacement_A=0.4, closest=0.65)
    assert min(shortest(x) for x in wild) >= 0.65
    assert np.std([x.positions - builders.supercell(CU, 32).positions for x in wild]) > 0.3
    with pytest.raises(ValueError, match=r"structures\[0\] \(rattled\), prototype 'it': displacements of 3 Å keep bringing"):
        made(kind="rattled", displacement_A=3.0, closest=0.9)
    squeezed = CU.copy()
    squeezed.set_cell(CU.cell * 0.6, scale_atoms=True)
    with pytest.raises(ValueError, match="before displacement"):
        made(squeezed, kind="rattled")


@pytest.mark.parametrize(("miller", "spacing"), [((1, 0, 0), 0.5), ((1, 1, 0), 8**-0.5), ((1, 1, 1), 3**-0.5)])
def test_surfaces(miller, spacing) -> None:
    a = CU.cell[0, 0]
    for periodic in (False, True):
        (slab,) = made(kind="surfaces", miller=[miller], thickness_A=9.0, vacuum_A=12.0, atoms=64, periodic=periodic)
        assert slab.pbc.tolist() == [True, True, periodic]
        assert len(slab) <= 64
        heights = np.unique(slab.positions[:, 2].round(4))
        np.testing.assert_allclose(np.diff(heights), spacing * a, atol=1e-3)  # d_hkl of fcc
        assert len(heights) * spacing * a >= 9.0 - 1e-6
        assert slab.cell[2, 2] - np.ptp(heights) == pytest.approx(12.0, abs=1e-3)
        assert abs(slab.cell[2, :2]).max() < 1e-9
        assert shortest(slab) == pytest.approx(shortest(CU))
        area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
        assert len(slab) / (area * len(heights) * spacing * a) == pytest.approx(len(CU) / CU.get_volume())  # the bulk's density


def test_vacancies() -> None:
    structures = made(NACL, kind="vacancies", atoms=64, vacancies=3, count=20, element="Na")
    assert {x.get_chemical_formula() for x in structures} == {"Cl32Na29"}
    assert len({tuple(x.positions.ravel().round(3)) for x in structures}) > 15
    with pytest.raises(ValueError, match="no Cu in"):
        made(NACL, kind="vacancies", element="Cu")
    with pytest.raises(ValueError, match="make the supercell larger"):
        made(W, kind="vacancies", atoms=1)


def test_voids_in_closed_form() -> None:
    """fcc: octahedral a/2, one an atom, and tetrahedral √3 a/4, two; bcc: tetrahedral √5 a/4, six; also in a skewed cell."""
    for atoms, sizes in (
        (CU.repeat(2), {0.5: 32, 3**0.5 / 4.0: 64}),
        (bulk("Cu").repeat((2, 2, 3)), {0.5: 12, 3**0.5 / 4.0: 24}),
        (bulk("W", cubic=True).repeat(2), {5**0.5 / 4.0: 96}),
    ):
        where, radius = builders.voids(atoms)
        a = (atoms.get_volume() / len(atoms) * (4 if atoms[0].symbol == "Cu" else 2)) ** (1.0 / 3.0)
        found = Counter((radius / a).round(6))
        assert found == {round(s, 6): n for s, n in sizes.items()}
        assert (np.diff(radius.round(6)) <= 0.0).all()
        noisy = atoms.copy()
        noisy.rattle(1e-6, seed=0)  # corners that were one point are several now
        assert len(builders.voids(noisy)[1]) == len(radius)
        probe = atoms + ase.Atoms("H", positions=[where[0]])
        assert probe.get_distances(-1, range(len(atoms)), mic=True).min() == pytest.approx(radius[0])


def test_interstitials_take_the_largest_void_then_the_next() -> None:
    octahedral, tetrahedral = made(kind="interstitials", atoms=32, count=2)
    for atoms, size in ((octahedral, 0.5), (tetrahedral, 3**0.5 / 4.0)):
        assert len(atoms) == 33
        assert atoms.get_distances(-1, range(32), mic=True).min() == pytest.approx(size * CU.cell[0, 0])
    (two,) = made(kind="interstitials", atoms=32, count=1, interstitials=2, elements=["H"])
    assert two.get_chemical_formula() == "H2Cu32"
    assert two.get_distance(32, 33, mic=True) > 1.8
    both = made(NACL, kind="interstitials", count=1)
    assert [x.get_chemical_formula() for x in both] == ["Cl33Na32", "Cl32Na33"]


def test_alloys_have_the_composition_and_the_volume() -> None:
    al = bulk("Al", cubic=True)
    volumes = {"Al": 16.5, "Mg": 23.0}
    mixtures = [{"Al": 0.9, "Mg": 0.1}, {"Al": 1, "Mg": 1}]
    structures = made(al, kind="alloy", atoms=32, compositions=mixtures, count=3, volumes_A3=volumes)
    assert [x.get_chemical_formula() for x in structures] == ["Al29Mg3"] * 3 + ["Al16Mg16"] * 3
    assert structures[0].get_volume() == pytest.approx(29 * 16.5 + 3 * 23.0)
    assert (structures[0].numbers != structures[1].numbers).any()
    (half,) = made(NACL, kind="alloy", atoms=64, compositions=[{"Na": 0.5, "K": 0.5}], element="Na", count=1)
    assert half.get_chemical_formula() == "Cl32K16Na16"
    assert half.get_volume() == pytest.approx(8 * NACL.get_volume())
    thirds = made(kind="alloy", atoms=32, compositions=[{"Cu": 1, "Ni": 1, "Pd": 1}], count=1)[0]
    assert sorted(Counter(thirds.numbers.tolist()).values()) == [10, 11, 11]
    for wrong, message in (
        ({"compositions": [{"Cu": 0.0}]}, "amounts"),
        ({"compositions": [{"Xq": 1.0}]}, "'Xq' is not the symbol"),
        ({"compositions": [{"Cu": 1.0, "Ni": 1.0}], "volumes_A3": {"Cu": 11.8}}, "volumes are given for Cu, but not for Ni"),
    ):
        with pytest.raises(ValueError, match=message):
            made(kind="alloy", **wrong)


def test_sites_of_an_alloy_are_random() -> None:
    structures = made(kind="alloy", atoms=32, compositions=[{"Cu": 3, "Ni": 1}], count=400)
    nickel = np.mean([x.numbers == 28 for x in structures], axis=0)
    assert np.abs(nickel - 0.25).max() < 4.0 * np.sqrt(0.25 * 0.75 / 400)


def test_close_pairs_and_dimers() -> None:
    pairs = made(kind="close_pairs", atoms=32, count=3, shortest=0.5, longest=0.7)
    assert [shortest(x) for x in pairs] == pytest.approx([0.5, 0.6, 0.7])
    whole = builders.supercell(CU, 32)
    np.testing.assert_allclose(pairs[0].get_center_of_mass(), whole.get_center_of_mass())
    assert (np.linalg.norm(pairs[0].positions - whole.positions, axis=1) > 1e-9).sum() == 2
    dimers = made(NACL, kind="dimers", count=3, shortest=0.5, longest=1.5)
    assert [x.get_chemical_formula() for x in dimers] == ["Cl2"] * 3 + ["ClNa"] * 3 + ["Na2"] * 3
    radii = covalent_radii[11] + covalent_radii[17]
    assert [x.get_distance(0, 1) for x in dimers[3:6]] == pytest.approx([0.5 * radii, radii, 1.5 * radii])
    alone = generate([entry(kind="dimers", pairs=[("H", "O")], periodic=True, box_A=12.0)], {}, 0)
    assert all(x.pbc.all() and x.get_distance(0, 1) == pytest.approx(x.get_distance(0, 1, mic=True)) for x in alone)
    with pytest.raises(ValueError, match="does not fit into a periodic box of 4 Å"):
        generate([entry(kind="dimers", pairs=[("Na", "Cl")], periodic=True, box_A=4.0)], {}, 0)
    with pytest.raises(ValueError, match="make the supercell larger"):
        made(W, kind="close_pairs", atoms=1)


def test_melts_carry_their_instruction() -> None:
    (melt,) = made(kind="melt", temperature_K=2500.0, expansion=0.04, atoms=32)
    assert melt.info["md_temperature_K"] == 2500.0
    assert melt.info["md_duration_ps"] == 10.0
    assert melt.info["config_type"] == "melt"
    assert melt.get_volume() / (8 * CU.get_volume()) == pytest.approx(1.04**3)


def test_molecules_can_be_rattled_but_not_strained() -> None:
    water = ase.Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    assert all(not x.pbc.any() and len(x) == 3 for x in made(water, kind="rattled", displacement_A=0.05))
    for kind in ("strained", "surfaces", "interstitials"):
        with pytest.raises(ValueError, match=rf"\({kind}\), prototype 'it': .*needs a cell periodic in three directions"):
            made(water, kind=kind)


def test_toml_and_refusals() -> None:
    class Explore(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        structures: tuple[Generator, ...] = ()

    text = """
    [[structures]]
    kind = "surfaces"
    miller = [[1, 1, 1]]

    [[structures]]
    kind = "alloy"
    compositions = [{Cu = 0.5, Ni = 0.5}]
    """
    config = Explore.model_validate(tomllib.loads(text))
    assert [x.kind for x in config.structures] == ["surfaces", "alloy"]
    assert Explore.model_validate(config.model_dump(mode="json")) == config
    for wrong, place in (
        ({"kind": "bulky"}, "bulky"), ({"kind": "bulk", "atom": 3}, "atom"), ({"kind": "bulk", "atoms": 0}, "atoms"),
        ({"kind": "melt"}, "temperature_K"), ({"kind": "surfaces", "miller": []}, "miller"),
        ({"kind": "rattled", "displacement_A": -1.0}, "displacement_A"), ({"kind": "dimers", "pairs": [("H", "Q")]}, "'Q'"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=place):
            Explore.model_validate({"structures": [wrong]})
    with pytest.raises(ValueError, match=r"structures\[0\] \(bulk\): no prototype 'x', there are a"):
        generate([entry(kind="bulk", prototypes=["x"])], {"a": CU}, 0)
    with pytest.raises(ValueError, match="there are no prototypes"):
        generate([entry(kind="bulk")], {}, 0)
    with pytest.raises(ValueError, match=r"\(0 0 0\) is no surface"):
        made(kind="surfaces", miller=[(0, 0, 0)])
