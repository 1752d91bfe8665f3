"""Entry point of the group `ase.plugins`: lets ASE's plug-in registry (3.29 and later) find the calculator by name.

Imported by ASE only; older versions ignore the group and find the calculator through `register_calculator_class`.
"""

from ase._4.plugins.plugin import CalculatorPlugin

adatom_plugin = CalculatorPlugin(
    name="adatom",
    citation="adatom: machine-learned interatomic potentials in JAX",
    implementation="adatom.potential.calculator.AdatomCalculator",
)

__ase_plugins__ = {adatom_plugin}
