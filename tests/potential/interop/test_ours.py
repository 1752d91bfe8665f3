"""Our own models, written for DeePMD-kit, n2p2 and GPUMD, are there what they are here.

`ours_numbers.json` has what those programs said about the files (`ours.py`). Where an environment variable of `engines.py`
names a program, it says it again, of the files as they are written now.
"""

import json
import os

import engines
import numpy as np
import ours
import pytest
from helpers import evaluate_all
from numpy.testing import assert_allclose

from adatom.potential.interop import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
CASES = [(family, name) for family, names in ours.NAMES.items() for name in names]
NUMBERS = json.loads((ours.HERE / "ours_numbers.json").read_text(encoding="utf-8"))


def compare(potential, structures, said):
    """Energies of networks, forces and virials to 1e-10 of the largest."""
    got = evaluate_all(potential.model, potential.params, structures)
    e0 = np.asarray(potential.statistics.e0)
    for s, r, (energy, forces, virial) in zip(structures, got, said, strict=True):
        size = np.abs(r.energies - e0[[potential.model.elements.index(z) for z in s.numbers]]).max()
        assert np.abs(forces).max() > 1e-3
        assert_allclose(r.energy, energy, rtol=0, atol=1e-10 * size + 1e-15 * abs(energy))
        assert_allclose(r.forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
        assert_allclose(r.stress * s.volume, virial, rtol=0, atol=1e-10 * np.abs(virial).max())


@pytest.mark.parametrize(("family", "name"), CASES)
def test_read_again_they_are_what_the_program_said(family, name, tmp_path):
    potential, path = ours.make(family, name), tmp_path / ours.FILES[family]
    convert.write(potential, family, path)
    structures = ours.structures(family, potential.model.elements)
    said = [engines.Numbers(x["energy"], np.array(x["forces"]), np.array(x["virial"])) for x in NUMBERS[family][name]]
    compare(convert.read(path, family), structures, said)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_program_says_so(family, name, tmp_path):
    program = os.environ.get(engines.PROGRAMS[family])
    if program is None:
        pytest.skip(f"{engines.PROGRAMS[family]} names no program of {family}")
    potential, path = ours.make(family, name), tmp_path / ours.FILES[family]
    convert.write(potential, family, path)
    structures = ours.structures(family, potential.model.elements)
    compare(potential, structures, engines.run(family, program, path, structures))
