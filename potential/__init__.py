"""The energy function and what is needed to evaluate it.

from adatom.potential import AdatomCalculator, load
"""

from ase.calculators.calculator import register_calculator_class

from adatom.potential.calculator import AdatomCalculator
from adatom.potential.evaluator import Evaluator, ExtrapolationWarning
from adatom.potential.model_file import ModelFileError, load, save
from adatom.potential.potential import Potential
from adatom.potential.structure import Structure, from_atoms

register_calculator_class("adatom", AdatomCalculator)

__all__ = [
    "AdatomCalculator",
    "Evaluator",
    "ExtrapolationWarning",
    "ModelFileError",
    "Potential",
    "Structure",
    "from_atoms",
    "load",
    "save",
]
