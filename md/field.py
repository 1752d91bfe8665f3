"""The potential as molecular dynamics needs it: forces, virial and closest neighbour of the packed atoms.

Atoms move on the potential's own forces. What the potential knows about their error, the spread of its committee's members
(`adatom.potential.committee`; in calibrated units where there is a calibration), is found at chosen steps. Several potentials
with the same network sizes are a committee too: atoms move on the first, as in DP-GEN.

With a bias τ atoms move on E − τ σ_E instead, σ_E the members' spread of a structure's energy: towards what the committee does
not know (hyperactive learning: van der Oord et al., npj Comput. Mater. 9, 168 (2023)). Forces and virial are its derivatives and
τ is constant, so that E − τ σ_E and the kinetic energy together are conserved; it is what the table calls potential energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adatom.md.neighbours import NeighbourList
from adatom.md.system import System
from adatom.potential.committee import slope, spread
from adatom.potential.device import atoms_at_once
from adatom.potential.evaluator import Precision, fastest, self_test
from adatom.potential.graph import Graph
from adatom.potential.model import EnergyModel
from adatom.potential.model_file import load
from adatom.potential.potential import Potential
from adatom.potential.predict import Prediction, predict

Array = jax.Array
Source = str | Path | Potential | EnergyModel


class Forces(NamedTuple):
    """forces (a, 3) eV/Å; energy (s,) eV; virial (s, 3, 3) = V·stress eV; nearest (a, t) Å; spread (a,) eV/Å."""

    forces: Array
    energy: Array
    virial: Array
    nearest: Array
    spread: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Field:
    """params {"network", "statistics"}; members: the part of them in which a committee's members differ, with a leading axis, or
    None; scale () of their spread; shortest_seen (t, t) Å in the training data, 0 where unknown.

    `fast` are the parameters for `fast_model`, compiled or compressed, good for distances of at least `compressed_from` Å. bias:
    τ () or None.
    """

    params: Any
    fast: Any
    e0: Array
    members: Any
    scale: Array
    shortest_seen: Array
    model: EnergyModel = field(metadata={"static": True})
    fast_model: EnergyModel | None = field(metadata={"static": True})
    compressed_from: float = field(metadata={"static": True})
    precision: Precision = field(metadata={"static": True})
    bias: Any = None

    @property
    def cutoff(self) -> float:
        return self.model.cutoff

    def evaluate(
        self, system: System, neighbours: NeighbourList, positions: Array, cell: Array, *, due: Array | None = None,
        before: Array | None = None,
    ) -> Forces:  # fmt: skip
        """Forces, and the spread (a,) where `due` (); else what it was `before` (a,), by default zero."""
        graph = neighbours.graph(system, positions, cell)

        def one(model: EnergyModel, params: Any) -> Prediction:
            return predict(model, params, graph, e0=self.e0, dtype=jnp.dtype(self.precision), block=atoms_at_once())

        if self.fast_model is None:
            out = one(self.model, self.params)
        elif not self.compressed_from:
            out = one(self.fast_model, self.fast)
        else:
            quick = one(self.fast_model, self.fast)
            near = jnp.where(system.atom_mask, quick.nearest.min(axis=1), jnp.inf).min()
            out = lax.cond(near < self.compressed_from, lambda: one(self.model, self.params), lambda: quick)
        known = jnp.zeros(len(positions), dtype=positions.dtype) if before is None else before
        if self.members is not None and due is not None:
            known = lax.cond(due, lambda: self._spread(system, graph), lambda: known)
        if self.bias is not None:
            out = self._biased(out, graph)
        volume = jnp.abs(jnp.linalg.det(cell))
        real = system.atom_mask[:, None]
        return Forces(
            jnp.where(real, out.forces.astype(positions.dtype), 0.0), out.energy, out.stress * volume[:, None, None],
            jnp.where(real, out.nearest, 2.0 * self.cutoff).astype(positions.dtype),
            known,
        )  # fmt: skip

    def _biased(self, out: Prediction, graph: Graph) -> Prediction:
        found = slope(self.model, self.params, self.members, graph, dtype=jnp.dtype(self.precision), block=atoms_at_once())
        forces = out.forces - self.bias.astype(out.forces.dtype) * found.forces
        energy, stress = out.energy - self.bias * found.sigma, out.stress - self.bias * found.stress
        return replace(out, energy=energy, forces=forces, stress=stress)

    def _spread(self, system: System, graph: Graph) -> Array:
        """(a,) eV/Å."""
        known = spread(self.model, self.params, self.members, graph, dtype=jnp.dtype(self.precision), block=atoms_at_once())
        return jnp.where(system.atom_mask, self.scale * known.forces, 0.0)


def make_field(sources: Source | Sequence[Source], *, precision: Precision, bias: float = 0.0) -> Field:
    """From a Potential, a path of one, an analytic model, or several potentials that differ in their parameters only.

    bias: τ, for which there must be a committee. Raises ValueError for members that differ in more, RuntimeError where this
    machine computes wrong forces (self-test).
    """
    listed = list(sources) if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]
    if not listed:
        raise ValueError("no potential given")
    loaded = [load(x) if isinstance(x, str | Path) else x for x in listed]
    first, one = loaded[0], jnp.ones(())
    if not isinstance(first, Potential):
        if len(loaded) > 1:
            raise ValueError("a committee needs trained potentials")
        t = len(first.elements)
        zero: Any = np.zeros((t, t))
        return Field((), (), zero[0], None, one, zero, first, None, 0.0, precision)
    potentials = [x for x in loaded if isinstance(x, Potential)]
    if len(potentials) < len(loaded) or any(x.model != first.model for x in potentials):
        raise ValueError("the members of a committee must have the same elements, cutoff, descriptor and network sizes")
    for x in potentials:
        self_test(x, precision)
    with jax.enable_x64(True):
        packed = fastest(first.model, first.params, precision)
    fast_model, fast = packed or (None, ())
    distance = np.asarray(first.statistics.min_distance)
    seen: Any = np.where(np.isfinite(distance), distance, 0.0)
    members: Any = None
    if len(potentials) > 1:
        members = jax.tree.map(lambda *x: np.stack(x), *[x.params for x in potentials])
    elif first.committee is not None:
        members, one = {"network": first.committee.members}, jnp.asarray(first.committee.scales[1])
    shortest = fast_model.shortest if fast_model else 0.0
    e0: Any = np.asarray(first.statistics.e0)
    if bias and members is None:
        raise ValueError("a bias towards uncertainty needs a committee: a potential fitted with one, or several potentials")
    tau = np.asarray(bias, dtype=np.float64) if bias else None
    return Field(first.params, fast, e0, members, one, seen, first.model, fast_model, shortest, precision, tau)
