"""The potential as molecular dynamics needs it: forces, virial and closest neighbour of the packed atoms.

Several potentials with the same network sizes are a committee: atoms move on the mean, and the spread of the forces is kept,

    spread_i = √⟨|F_i − ⟨F_i⟩|²⟩     (the force deviation of DP-GEN: Zhang et al., Phys. Rev. Materials 3, 023804 (2019)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adatom.md.neighbours import NeighbourList
from adatom.md.system import System
from adatom.potential.compression import compress
from adatom.potential.evaluator import BLOCK, Precision, self_test
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
    """params, fast: with a leading axis of members; e0 (members, t) eV; shortest_seen (t, t) Å in the training data, 0 where
    unknown.

    `fast` are the compressed parameters for `fast_model`, good for distances of at least `compressed_from` Å.
    """

    params: Any
    fast: Any
    e0: Array
    shortest_seen: Array
    model: EnergyModel = field(metadata={"static": True})
    fast_model: EnergyModel | None = field(metadata={"static": True})
    compressed_from: float = field(metadata={"static": True})
    precision: Precision = field(metadata={"static": True})
    members: int = field(metadata={"static": True})

    @property
    def cutoff(self) -> float:
        return self.model.cutoff

    def evaluate(self, system: System, neighbours: NeighbourList, positions: Array, cell: Array) -> Forces:
        """Mean over the members, and their spread."""
        graph = neighbours.graph(system, positions, cell)

        def one(model: EnergyModel, params: Any, e0: Array) -> Prediction:
            return predict(model, params, graph, e0=e0, dtype=jnp.dtype(self.precision), block=BLOCK)

        def member(own: tuple[Any, Any, Array]) -> Prediction:
            params, fast, e0 = own
            if self.fast_model is None:
                return one(self.model, params, e0)
            out = one(self.fast_model, fast, e0)
            near = jnp.where(system.atom_mask, out.nearest.min(axis=1), jnp.inf).min()
            return lax.cond(near < self.compressed_from, lambda: one(self.model, params, e0), lambda: out)

        every = (self.params, self.fast, self.e0)
        if self.members == 1:
            out = member(jax.tree.map(lambda x: x[0], every))
            forces, energy, stress, nearest = out.forces, out.energy, out.stress, out.nearest
            spread = jnp.zeros(len(forces), dtype=positions.dtype)
        else:
            all_of = lax.map(member, every)
            forces, energy, stress = (x.mean(axis=0) for x in (all_of.forces, all_of.energy, all_of.stress))
            nearest = all_of.nearest[0]
            away = (all_of.forces - forces[None]).astype(positions.dtype)
            spread = jnp.sqrt((away * away).sum(axis=-1).mean(axis=0))
        volume = jnp.abs(jnp.linalg.det(cell))
        real = system.atom_mask[:, None]
        return Forces(
            jnp.where(real, forces.astype(positions.dtype), 0.0), energy, stress * volume[:, None, None],
            jnp.where(real, nearest, 2.0 * self.cutoff).astype(positions.dtype), jnp.where(system.atom_mask, spread, 0.0),
        )  # fmt: skip


def make_field(sources: Source | Sequence[Source], *, precision: Precision) -> Field:
    """From a Potential, a path of one, an analytic model, or several potentials that differ in their parameters only.

    Raises ValueError for members that differ in more, RuntimeError where this machine computes wrong forces (self-test).
    """
    listed = list(sources) if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]
    if not listed:
        raise ValueError("no potential given")
    loaded = [load(x) if isinstance(x, str | Path) else x for x in listed]
    first = loaded[0]
    if not isinstance(first, Potential):
        if len(loaded) > 1:
            raise ValueError("a committee needs trained potentials")
        t = len(first.elements)
        zero: Any = np.zeros((t, t))
        return Field((), (), zero[:1], zero, first, None, 0.0, precision, 1)
    potentials = [x for x in loaded if isinstance(x, Potential)]
    if len(potentials) < len(loaded) or any(x.model != first.model for x in potentials):
        raise ValueError("the members of a committee must have the same elements, cutoff, descriptor and network sizes")
    for x in potentials:
        self_test(x, precision)
    with jax.enable_x64(True):
        packed = [compress(x.model, x.params, precision) for x in potentials]
    fast, fast_model, shortest = (), None, 0.0
    if all(x is not None and x[0] == packed[0][0] for x in packed):  # type: ignore[index]
        fast = jax.tree.map(lambda *x: np.stack(x), *[x[1] for x in packed])  # type: ignore[index]
        fast_model = packed[0][0]  # type: ignore[index]
        shortest = fast_model.shortest
    params = jax.tree.map(lambda *x: np.stack(x), *[x.params for x in potentials])
    seen = np.max([np.where(np.isfinite(d := np.asarray(x.statistics.min_distance)), d, 0.0) for x in potentials], axis=0)
    e0: Any = np.stack([np.asarray(x.statistics.e0) for x in potentials])
    return Field(params, fast, e0, seen, first.model, fast_model, shortest, precision, len(potentials))
