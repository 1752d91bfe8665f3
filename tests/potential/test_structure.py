"""Reading structures from ASE: what cannot be evaluated is refused by name."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from numpy.testing import assert_array_equal

from adatom.potential.structure import from_atoms


def broken(change):
    atoms = bulk("Si", cubic=True)
    change(atoms)
    return atoms


def nan_positions(a):
    a.positions[[3, 5]] = np.nan


BAD = {
    "has no atoms": lambda: ase.Atoms(),
    "frame 7: 2 atoms have NaN or infinite positions, the first is atom 3": lambda: broken(nan_positions),
    "atom 2 has atomic number 0, which is no element": lambda: broken(lambda a: a.numbers.__setitem__(2, 0)),
    "the cell has NaN": lambda: broken(lambda a: a.cell.__setitem__((0, 0), np.inf)),
    r"pbc is \[True, True, True\] but lattice vector 1 has no length": lambda: broken(lambda a: a.cell.__setitem__(1, 0)),
    "lie in one plane": lambda: broken(lambda a: a.cell.__setitem__(2, a.cell[0] + a.cell[1])),
    r"the two periodic lattice vectors are parallel": lambda: ase.Atoms("H", cell=np.ones((3, 3)), pbc=[1, 0, 1]),
}


@pytest.mark.parametrize("message", BAD)
def test_structures_that_cannot_be_evaluated(message):
    with pytest.raises(ValueError, match=message) as caught:
        from_atoms(BAD[message](), name="frame 7")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("frame 7")


def test_structures_are_copies_and_go_back_to_ase():
    atoms = molecule("CH3CH2OH")
    atoms.pbc = [False, True, False]
    atoms.cell[1] = [0.0, 9.0, 0.0]
    s = from_atoms(atoms)
    assert s.symbols == "C2H6O"
    assert len(s) == 9
    assert np.isnan(s.volume)
    atoms.positions += 1.0
    back = s.to_atoms()
    assert_array_equal(back.positions + 1.0, atoms.positions)
    assert_array_equal(back.pbc, atoms.pbc)
    assert from_atoms(bulk("Cu", a=4.0)).volume == pytest.approx(16.0)
