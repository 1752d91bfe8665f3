"""Which elements replace each other in alloys."""

import pytest
from ase.data import atomic_numbers

from adatom.potential.alike import alike


@pytest.mark.parametrize(
    ("symbols", "groups"),
    [
        ("Nb Mo Ta W", ((0, 1, 2, 3),)),
        ("Cu Ni", ((0, 1),)),
        ("Si Ge", ((0, 1),)),
        ("H C N O", ()),
        ("O Ti", ()),
        ("Ga As", ()),
        ("O Ti Sr Ba", ((2, 3),)),
        ("Cu", ()),
    ],
)
def test_groups(symbols, groups):
    assert alike([atomic_numbers[s] for s in symbols.split()]) == groups
