"""Our own models in the forms of other programs, written as their files, and what those programs say of them.

    ADATOM_DEEPMD_PYTHON=… ADATOM_N2P2_PROGRAM=… ADATOM_CALORINE_PYTHON=… python tests/potential/interop/ours.py

writes ours_numbers.json beside this file; `engines.py` says what the variables are. Without limits that the other programs have
no place for, so that nothing but rounding may differ.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from adatom.potential.interop import convert
from adatom.potential.model import FittingNetConfig, Model, ModelConfig
from adatom.potential.potential import Potential
from adatom.potential.structure import Structure

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))
FILES = {"deepmd": "model.dp", "n2p2": "model", "nep": "nep.txt"}
NAMES = {
    "deepmd": ("one element", "two elements, nets of neighbours", "three elements, nets of pairs"),
    "n2p2": ("one element, narrow", "two elements, wide"),
    "nep": ("two elements",),
}
SMALL = 0.001
ELEMENTS = {"one element": (14,), "two elements": (8, 1), "three elements": (14, 1, 8)}


def make(family: str, name: str) -> Potential:
    """Random weights; of NEP, whose form our own models have not, a random file read, its free atoms' energies moved."""
    from helpers import deep_potential, make_params, symmetry_functions

    elements = ELEMENTS[name.split(",")[0]]
    if family == "nep":
        import nep_reference

        from adatom.potential.interop.nep import read

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "nep.txt").write_text(nep_reference.text_of("one network, flexible zbl"))
            potential = read(Path(folder) / "nep.txt")
        moved = dataclasses.replace(potential.statistics, e0=np.array([-3.1, 0.7]))
        return dataclasses.replace(potential, params={**potential.params, "statistics": moved})
    descriptor = deep_potential(one_side="pairs" not in name, activation="gelu" if len(elements) == 2 else "tanh")
    if family == "n2p2":
        descriptor = symmetry_functions(angular_kind="narrow" if "narrow" in name else "wide")
    net = FittingNetConfig(widths=(7, 5), activation="tanh")
    model = Model(ModelConfig(elements=elements, descriptor=descriptor, fitting_net=net, isolated_limit=False, repulsion=False))
    params = make_params(model, seed=len(name))
    if family == "deepmd":  # whose features are small, and whose forces are differences of energies
        s = params["statistics"]
        mean, std = SMALL * s.feature_mean, SMALL * s.feature_std
        params["statistics"] = dataclasses.replace(s, e0=0.05 * s.e0, feature_mean=mean, feature_std=std)
    return Potential(model, params)


def structures(family: str, elements: tuple[int, ...]) -> list[Structure]:
    """A triclinic cell, atoms at random, none too close; for n2p2, whose forces are wrong otherwise, longer than the cutoff."""
    from helpers import awkward_structures

    s = awkward_structures(elements, seed=4)["triclinic"]
    if family != "n2p2":
        return [s]
    size = 1.25 if len(elements) > 1 else 1.5
    moves = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3) @ s.cell
    positions = (s.positions[None] + moves).reshape(-1, 3) * size
    positions = positions + np.random.default_rng(0).normal(0.0, 0.05, positions.shape)
    return [Structure(np.tile(s.numbers, 8), positions, 2.0 * size * s.cell, s.pbc)]


def main() -> None:
    from engines import PROGRAMS, run

    path = HERE / "ours_numbers.json"
    numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for family, variable in PROGRAMS.items():
        if variable not in os.environ:
            continue
        numbers[family] = {}
        for name in NAMES[family]:
            potential = make(family, name)
            with tempfile.TemporaryDirectory() as folder:
                convert.write(potential, family, Path(folder) / FILES[family])
                found = run(
                    family, os.environ[variable], Path(folder) / FILES[family], structures(family, potential.model.elements)
                )
            numbers[family][name] = [
                {"energy": x.energy, "forces": x.forces.tolist(), "virial": None if x.virial is None else x.virial.tolist()}
                for x in found
            ]
            print(family, name, found[0].energy, np.abs(found[0].forces).max())
    path.write_text(json.dumps(numbers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
