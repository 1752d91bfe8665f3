"""Neural network potentials of n2p2 and RuNNer."""

from adatom.potential.interop.n2p2.config import N2p2Config
from adatom.potential.interop.n2p2.model import N2p2Model
from adatom.potential.interop.n2p2.reader import read, recognise
from adatom.potential.interop.n2p2.writer import as_n2p2, write

__all__ = ["N2p2Config", "N2p2Model", "as_n2p2", "read", "recognise", "write"]
