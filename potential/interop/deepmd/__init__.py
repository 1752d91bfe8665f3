"""DeePMD-kit: `.dp` and `.yaml` models, read (`reading`), run (`model`) and written (`writing`)."""

from adatom.potential.interop.deepmd.reading import read
from adatom.potential.interop.deepmd.tree import recognise
from adatom.potential.interop.deepmd.writing import write

__all__ = ["read", "recognise", "write"]
