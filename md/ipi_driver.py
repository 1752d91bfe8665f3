"""A potential as the force engine of i-PI: path integrals, replica exchange and whatever else i-PI does with it.

    serve("model.adatom", atoms, unix="adatom")        # <ffsocket mode="unix"> <address> adatom </address> </ffsocket>

i-PI is the server and moves the atoms; a driver connects, is sent cell and positions, and answers with energy, forces and virial.
The protocol is ASE's `SocketClient`; i-PI: Litman et al., J. Chem. Phys. 161, 062504 (2024). Several drivers may serve one run.
"""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from pathlib import Path

import ase
from ase.calculators.socketio import SocketClient

from adatom.potential.calculator import AdatomCalculator
from adatom.potential.evaluator import Precision
from adatom.potential.potential import Potential

PATIENCE_S = 60.0
"""How long to wait for i-PI to open its socket."""


def serve(
    potential: str | Path | Potential,
    atoms: ase.Atoms,
    *,
    unix: str | None = None,
    host: str | None = None,
    port: int | None = None,
    precision: Precision = "float32",
    patience_s: float = PATIENCE_S,
) -> int:
    """Answer i-PI until it ends; returns how many structures were evaluated.

    atoms: the same atoms in the same order as i-PI starts with (the protocol sends no elements), periodic as meant; not changed.
    unix: the address of a unix socket; or host (localhost if only the port is given) and port of an inet socket. The virial is
    sent where there is a cell periodic in three directions, else zeros.

    Raises ValueError for bad arguments and for structures that cannot be evaluated, at the beginning (before i-PI hears of this
    driver) or later, and ConnectionError where there is no i-PI after patience_s.
    """
    if (unix is None) == (host is None and port is None):
        raise ValueError("give the name of a unix socket, or host and port, as in <ffsocket> of i-PI's input")
    if unix is None and port is None:
        raise ValueError("host needs a port, as in <ffsocket> of i-PI's input")
    atoms = atoms.copy()
    atoms.calc = AdatomCalculator(potential, dtype=precision)
    solid = bool(atoms.pbc.all())
    atoms.get_potential_energy()
    client = _connected(unix, host or "localhost", port, patience_s)
    return sum(1 for _ in client.irun(atoms, use_stress=solid))


def _connected(unix: str | None, host: str, port: int | None, patience_s: float) -> SocketClient:
    until = time.monotonic() + patience_s
    while (client := _attempt(unix, host, port)) is None:
        if time.monotonic() > until:
            where = f"unix socket '{unix}'" if unix is not None else f"{host}:{port}"
            raise ConnectionError(f"no i-PI at {where} after {patience_s:g} s: is it running, with this address?")
        time.sleep(0.1)
    return client


def _attempt(unix: str | None, host: str, port: int | None) -> SocketClient | None:
    with warnings.catch_warnings(), suppress(FileNotFoundError, ConnectionRefusedError):
        warnings.simplefilter("ignore", ResourceWarning)  # ASE leaves the socket of a failed attempt to the garbage collector
        return SocketClient(host=host, port=port, unixsocket=unix)
    return None
