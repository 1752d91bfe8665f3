"""NEP, the neuroevolution potential of GPUMD: `nep.txt` files read, evaluated, trained on and written.

NEP3, NEP4 and NEP5 energy models, with ZBL (universal, flexible, with cutoffs by type), any number of elements.
"""

from adatom.potential.interop.nep.reader import read, recognise
from adatom.potential.interop.nep.writer import write

__all__ = ["read", "recognise", "write"]
