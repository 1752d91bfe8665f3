"""NEP models written as `nep.txt`, every number in as many digits as it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from adatom.potential.interop.nep.config import INVARIANTS, NepConfig
from adatom.potential.interop.nep.model import NepModel
from adatom.potential.model_file import write_atomically
from adatom.potential.potential import Potential

SATURATED = 20.0  # tanh(20) is 1 in double precision


def write(potential: Potential, path: Path) -> None:
    """Write a potential as `nep.txt`. ValueError where it is not a NEP model.

    Energies of free atoms that differ between elements, for which NEP3 and NEP4 have one common bias, become the weights of
    one neuron more that is always saturated; NEP3, with one network for all, becomes NEP4 then.
    """
    model = potential.model
    if not isinstance(model, NepModel):
        raise ValueError("only a NEP model (imported, or fitted on from one) can be written as nep.txt")
    c, t, network = model.config, len(model.elements), potential.params["network"]
    constants = network["constants"]
    nets = [np.asarray(network[k], dtype=np.float64) for k in ("hidden_weights", "hidden_biases", "output_weights")]
    bias = -(np.asarray(potential.statistics.e0, dtype=np.float64) + np.asarray(constants["offset"]))
    version, neurons, own = c.version, c.neurons, np.zeros(t)
    if version == 5:
        common, own = 0.0, bias
    elif (bias == bias[0]).all():
        common = bias[0]
    else:
        version, neurons, common = 4, neurons + 1, bias[0]
        w0, b0, w1 = (np.broadcast_to(x, (t, *x.shape[1:])) for x in nets)
        nets = [
            np.concatenate([w0, np.zeros((t, 1, w0.shape[2]))], axis=1),
            np.concatenate([b0, np.full((t, 1), -SATURATED)], axis=1),
            np.concatenate([w1, (common - bias)[:, None]], axis=1),
        ]
    numbers = []
    for n, (w0, b0, w1) in enumerate(zip(*nets, strict=True)):
        numbers += [w0.ravel(), b0, w1] + ([own[n : n + 1]] if version == 5 else [])
    numbers += [np.array([common])]
    numbers += [np.asarray(network[k], dtype=np.float64).transpose(2, 3, 0, 1).ravel() for k in ("radial", "angular")]
    numbers += [np.asarray(constants["scaler"], dtype=np.float64)]
    if "zbl" in constants:
        numbers += [np.asarray(constants["zbl"], dtype=np.float64)[np.triu_indices(t)].ravel()]
    lines = _header(c, version, neurons) + [repr(x) for x in np.concatenate(numbers).tolist()]
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode("ascii"))


def _header(c: NepConfig, version: int, neurons: int) -> list[str]:
    zbl, symbols = c.zbl, " ".join(chemical_symbols[z] for z in c.elements)
    lines = [f"nep{version}{'_zbl' if zbl else ''} {len(c.elements)} {symbols}"]
    typewise = zbl is not None and zbl.halved  # the older form, with all factors in the line of the cutoffs
    if zbl:
        factor = "" if zbl.factor is None or typewise else f" {zbl.factor!r}"
        lines.append("zbl 0 0" if zbl.flexible else f"zbl {zbl.inner!r} {zbl.outer!r}{factor}")
    pairs = list(zip(c.radial_cutoffs, c.angular_cutoffs, strict=True))
    pairs = pairs[:1] if len(set(pairs)) == 1 else pairs
    cutoff = " ".join(f"{r!r} {a!r}" for r, a in pairs) + f" {c.max_neighbours[0]} {c.max_neighbours[1]}"
    if c.factors or typewise:
        radial, angular = c.factors or (0.0, 0.0)
        cutoff += f" {radial!r} {angular!r} {zbl.factor if zbl and typewise else 0.0!r}"
    flags = [int(x in c.invariants) for x in INVARIANTS]
    while len(flags) > 2 and not flags[-1]:
        flags.pop()
    flags[0] *= 2
    return [
        *lines,
        f"cutoff {cutoff}",
        f"n_max {c.n_max[0]} {c.n_max[1]}",
        f"basis_size {c.basis_size[0]} {c.basis_size[1]}",
        f"l_max {c.l_max} {' '.join(map(str, flags))}",
        f"ANN {neurons} 0",
    ]
