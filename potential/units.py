"""Units, all from ASE's constants: eV, Å, u inside; GPa, kbar, fs, K only at the borders."""

from ase import units

GPA = units.GPa
"""1 GPa in eV/Å³ (0.00624150907…); 1 eV/Å³ = 160.21766 GPa."""

KBAR = units.GPa / 10.0
"""1 kbar in eV/Å³."""

FS = units.fs
"""1 fs in ASE's time unit, Å·sqrt(u/eV)."""

COULOMB = units.Hartree * units.Bohr
"""e²/(4πε₀) in eV·Å (14.3996…)."""
