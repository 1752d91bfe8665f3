"""Descriptors: an atom's surroundings as numbers that do not change under rotation, translation or exchange of like atoms."""

from adatom.potential.descriptors.deep_potential import DeepPotential, DeepPotentialConfig
from adatom.potential.descriptors.moments import Moments, MomentsConfig
from adatom.potential.descriptors.symmetry_functions import SymmetryFunctions, SymmetryFunctionsConfig

__all__ = ["DeepPotential", "DeepPotentialConfig", "Moments", "MomentsConfig", "SymmetryFunctions", "SymmetryFunctionsConfig"]
