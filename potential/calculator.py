"""The potential as an ASE calculator: `atoms.calc = AdatomCalculator("model.adatom")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from adatom.potential.evaluator import Evaluator, Precision
from adatom.potential.model_file import load
from adatom.potential.potential import Potential
from adatom.potential.structure import from_atoms

DEVIATIONS = ("energy_std", "energies_std", "forces_std")


class AdatomCalculator(Calculator):
    """Energy, free_energy (equal), per-atom energies, forces, and stress (ASE's sign, Voigt xx yy zz yz xz xy, eV/Å³).

    model: path of an `.adatom` file, or a Potential. dtype: "float32" (sums of energies in float64) or "float64".
    skin: Å added to the cutoff of the neighbour list, which is kept until an atom may have crossed it. uncertainty: at every
    call; else where asked for by get_property: energy_std () eV, energies_std (atoms,) eV and forces_std (atoms,) eV/Å, standard
    deviations of the total energy, of atomic energies and of force vectors, of potentials that were fitted with a committee.
    Raises ValueError for elements the model does not know, NaN positions and atoms on top of each other; warns
    (ExtrapolationWarning) where atoms are closer than in the training data. Stress without a 3-D periodic cell raises
    ASE's PropertyNotImplementedError.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        dtype: Precision = "float32",
        skin: float = 0.5,
        block: int | None = 0,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        self.potential = model if isinstance(model, Potential) else load(model)
        if self.potential.committee is not None:
            self.implemented_properties = [*self.implemented_properties, *DEVIATIONS]
        elif uncertainty:
            raise ValueError("the potential knows nothing about its own error: fit it with [uncertainty] kind other than 'none'")
        self.uncertainty = uncertainty
        self.evaluator = Evaluator(self.potential, precision=dtype, skin=skin, block=block)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Called by ASE; fills `self.results` with everything at once."""
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        structure = from_atoms(self.atoms)
        if "stress" in properties and not structure.pbc.all():
            raise PropertyNotImplementedError(
                f"stress needs a cell periodic in three directions, pbc is {structure.pbc.tolist()}"
            )
        out = self.evaluator(structure)
        results: dict[str, Any] = {
            "energy": out.energy,
            "free_energy": out.energy,
            "energies": out.energies,
            "forces": out.forces,
        }
        if out.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(out.stress)
        if self.uncertainty or any(name in DEVIATIONS for name in properties):
            known = self.evaluator.uncertainty(structure)
            results |= {"energy_std": known.energy, "energies_std": known.energies, "forces_std": known.forces}
        self.results = results
