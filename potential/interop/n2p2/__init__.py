"""Neural network potentials of n2p2 and RuNNer."""

from adatom.potential.interop.n2p2.config import N2P2Config
from adatom.potential.interop.n2p2.model import N2P2Model
from adatom.potential.interop.n2p2.reader import read, recognise

__all__ = ["N2P2Config", "N2P2Model", "read", "recognise"]
