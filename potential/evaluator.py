"""Evaluate one structure after another, as molecular dynamics does: a Verlet list with a skin, and no recompilation.

The list holds all pairs closer than cutoff + skin. It stays valid while 2·max|u| ≤ σ_min(F)·(cutoff + skin) − cutoff, where F
is the deformation of the cell since the list was made, σ_min its smallest singular value and u what atoms moved beyond F:
no pair that was outside can then be inside the cutoff. Capacities only grow; when they must, one more compilation happens.
"""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from ase.data import chemical_symbols

from adatom.potential.committee import Spread, spread
from adatom.potential.compilation import jit
from adatom.potential.compression import Compressed, compress
from adatom.potential.device import atoms_at_once
from adatom.potential.families import family_of, neighbour_limits
from adatom.potential.graph import Graph, Neighbourhood, batch, neighbourhood
from adatom.potential.kernels import GpuMoments, KernelMoments, kernel, on_gpu
from adatom.potential.model import EnergyModel, Params
from adatom.potential.potential import Potential
from adatom.potential.predict import Prediction, predict
from adatom.potential.structure import Structure

Precision = Literal["float32", "float64"]
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}
_tested: set[tuple[int, str]] = set()


class ExtrapolationWarning(UserWarning):
    """The structure has something the training data never had."""


class NeighbourWarning(UserWarning):
    """Another program would drop neighbours that are counted here."""


class Evaluation(NamedTuple):
    """energy eV; energies (atoms,) eV; forces (atoms, 3) eV/Å; stress (3, 3) eV/Å³, None without a 3-D cell; nearest
    (atoms, species) Å, at most twice the cutoff."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None
    nearest: np.ndarray


class Uncertainty(NamedTuple):
    """Standard deviations, calibrated if the potential is: energy eV; energies (atoms,) eV; forces (atoms,) eV/Å, of vectors."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray


@partial(jit, static_argnames=("model", "dtype", "block"))
def _spread(model: EnergyModel, params: Any, members: Params, graph: Graph, dtype: str, block: int | None) -> Spread:
    return spread(model, params, members, graph, dtype=jnp.dtype(dtype), block=block)


@partial(jit, static_argnames=("model", "dtype", "block"))
def _predict(model: EnergyModel, params: Any, graph: Graph, dtype: str, block: int | None) -> Prediction:
    return predict(model, params, graph, e0=params["statistics"].e0, dtype=jnp.dtype(dtype), block=block)


def fastest(
    model: EnergyModel, params: Params, precision: Precision
) -> tuple[KernelMoments | GpuMoments | Compressed, Params] | None:
    """What is evaluated in place of the model: a compiled kernel, a compressed model, or None where there is neither."""
    return kernel(model, params, precision) or on_gpu(model, params) or compress(model, params, precision)


def self_test(potential: Potential, precision: Precision) -> None:
    """Compare with the energy and forces stored when the potential was made; RuntimeError if this machine gets others.

    Catches miscompiled code (jax-ml/jax#39103 is one) before it makes a trajectory. Done once per potential and process.
    """
    golden = potential.golden
    if golden is None or (id(potential), precision) in _tested:
        return
    got = Evaluator(potential, precision=precision, skin=0.0, test=False)(golden.structure)
    size = max(float(np.abs(golden.forces).max(initial=0.0)), 1.0)
    error = float(np.abs(got.forces - golden.forces).max(initial=0.0))
    shift = abs(got.energy - golden.energy) / len(golden.structure)
    if not (error <= TOLERANCE[precision] * size and shift <= TOLERANCE[precision]):
        raise RuntimeError(
            f"self-test failed: forces of the model's own reference structure are off by {error:.1e} eV/Å and its energy by "
            f"{shift:.1e} eV/atom. jaxlib {jaxlib.__version__} miscompiles this model here; install another version of jax"
        )
    _tested.add((id(potential), precision))
    weakref.finalize(potential, _tested.discard, (id(potential), precision))


class Evaluator:
    """Call it with a Structure. `n_builds` counts neighbour lists, `n_shapes` array shapes (compilations) so far.

    compressed: by the compiled kernel or the compressed model where there is one, `kernel` and `compression` (or None).
    block: atoms worked on at a time; 0: as many as suit the device, None: all.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        precision: Precision = "float32",
        skin: float = 0.5,
        block: int | None = 0,
        compressed: bool = True,
        test: bool = True,
    ) -> None:
        if precision not in TOLERANCE:
            raise ValueError(f"precision must be 'float32' or 'float64', not {precision!r}")
        if not skin >= 0.0:
            raise ValueError(f"skin must not be negative, got {skin}")
        self.potential, self.precision, self.skin = potential, precision, float(skin)
        self.block = atoms_at_once() if block == 0 else block
        self.n_builds, self.n_shapes = 0, 0
        self._reference: Structure | None = None
        self._graph: Graph | None = None
        self._rows = np.zeros(0, dtype=np.int64)
        self._species = np.zeros(0, dtype=np.int32)
        self._slots: np.ndarray | None = None
        self._shapes: set[tuple[Any, ...]] = set()
        self._warned, self._limited = np.inf, False
        if test:
            self_test(potential, precision)
        with jax.enable_x64(True):
            self._exact = potential.model, jax.device_put(potential.params)
            self._members = jax.device_put({"network": potential.committee.members}) if potential.committee else None
            found = fastest(potential.model, potential.params, precision) if compressed else None
            fast = found and found[0]
            self.compression = None if isinstance(fast, KernelMoments | GpuMoments) else fast
            self.kernel = fast if isinstance(fast, KernelMoments) else None
            self._fast = self._exact if found is None else (found[0], jax.device_put(found[1]))

    def __call__(self, structure: Structure) -> Evaluation:
        """Raises ValueError for elements the model does not know and for atoms on top of each other."""
        with jax.enable_x64(True):
            graph = self._prepared(structure)
            model, params = self._fast
            out = _predict(model, params, graph, self.precision, self.block)
            if self.compression and float(jnp.min(out.nearest)) < self.compression.shortest:
                out = _predict(*self._exact, graph, self.precision, self.block)
            energies, forces, nearest = (np.asarray(x)[self._rows] for x in (out.atomic_energies, out.forces, out.nearest))
            stress = np.asarray(out.stress[0]) if structure.pbc.all() else None
            energy = float(out.energy[0])
        self._check(structure, nearest, forces)
        return Evaluation(energy, energies, forces.astype(np.float64), stress, nearest)

    def uncertainty(self, structure: Structure) -> Uncertainty:
        """How sure the potential is. Raises ValueError where it has no committee."""
        committee = self.potential.committee
        if committee is None:
            raise ValueError("the potential knows nothing about its own error: fit it with [uncertainty] kind other than 'none'")
        with jax.enable_x64(True):
            out = _spread(*self._exact, self._members, self._prepared(structure), self.precision, self.block)
            energies, forces = (np.asarray(x, dtype=np.float64)[self._rows] for x in (out.atomic_energies, out.forces))
            a, b = committee.scales
            return Uncertainty(a * float(out.energy[0]), a * energies, b * forces)

    def _prepared(self, structure: Structure) -> Graph:
        """The structure in the list that is kept, or in a new one."""
        if not self._valid(structure):
            self._build(structure)
        assert self._graph is not None
        positions = np.zeros(self._graph.positions.shape)
        positions[self._rows] = structure.positions
        return dataclasses.replace(self._graph, positions=positions, cell=structure.cell[None])

    def _valid(self, structure: Structure) -> bool:
        ref, cutoff = self._reference, self.potential.model.cutoff
        if ref is None or not np.array_equal(ref.numbers, structure.numbers) or not np.array_equal(ref.pbc, structure.pbc):
            return False
        if np.array_equal(ref.cell, structure.cell):
            moved, shrink = structure.positions - ref.positions, 1.0
        elif ref.pbc.all():
            deformation = np.linalg.solve(ref.cell, structure.cell)
            moved = structure.positions - ref.positions @ deformation
            shrink = float(np.linalg.svd(deformation, compute_uv=False).min())
        else:
            return False
        reach = np.sqrt((moved * moved).sum(axis=1).max())
        return bool(2.0 * reach <= shrink * (cutoff + self.skin) - cutoff)

    def _build(self, structure: Structure) -> None:
        model = self.potential.model
        near = neighbourhood(structure, model.elements, model.cutoff + self.skin)
        room = np.where(near.slot_counts > 0, 4 * np.ceil((near.slot_counts * 1.05 + 1) / 4), 0).astype(np.int64)
        if self._slots is None or len(self._species) != len(near.species) or (near.slot_counts > self._slots).any():
            self._slots = room if self._slots is None else np.maximum(room, self._slots)
        self._compare_with_limits(near)
        atoms = near.atom_counts
        if self.block is not None:
            atoms = np.where(atoms > self.block, self.block * np.ceil(atoms / self.block), atoms).astype(np.int64)
        graph, self._rows = batch([near], atom_capacity=atoms.tolist(), slot_capacity=self._slots.tolist())
        self._graph = jax.device_put(graph)
        reference = dataclasses.replace(structure, positions=structure.positions.copy(), cell=structure.cell.copy())
        self._reference, self._species = reference, near.species
        self._shapes.add((*graph.atom_capacity, *graph.slot_capacity))
        self.n_builds, self.n_shapes = self.n_builds + 1, len(self._shapes)

    def _compare_with_limits(self, near: Neighbourhood) -> None:
        """NeighbourWarning, once, where an atom has more neighbours of a species than the program the model comes from keeps."""
        model = self.potential.model
        limits = np.array(neighbour_limits(model) or [])
        if not len(limits) or self._limited or not (near.slot_counts > limits).any():
            return
        i, j, shifts = near.pairs
        d = near.structure.positions[j] - near.structure.positions[i] + shifts @ near.structure.cell
        close = (d * d).sum(axis=1) < model.cutoff**2
        counts = np.zeros((len(near.species), len(limits)), dtype=int)
        np.add.at(counts, (i[close], near.species[j[close]]), 1)
        atom, t = np.unravel_index(int((counts - limits).argmax()), counts.shape)
        if counts[atom, t] > limits[t]:
            self._limited = True
            warnings.warn(
                f"atom {atom} has {counts[atom, t]} neighbours of {self.potential.symbols[t]} within {model.cutoff:g} Å, sel is "
                f"{limits[t]:.0f}: {family_of(model)} would drop the farthest, here all count",
                NeighbourWarning,
                stacklevel=5,
            )

    def _check(self, structure: Structure, nearest: np.ndarray, forces: np.ndarray) -> None:
        seen = np.asarray(self.potential.statistics.min_distance)[self._species]
        margin = np.where(nearest < 1.5 * self.potential.model.cutoff, nearest - seen, np.inf)
        worst = float(margin.min(initial=np.inf))
        symbols = self.potential.symbols
        if nearest.min(initial=np.inf) < 1e-3 or not np.isfinite(forces).all():
            bad = np.flatnonzero((nearest < 1e-3).any(axis=1) | ~np.isfinite(forces).all(axis=1))
            names = ", ".join(f"{a} ({chemical_symbols[structure.numbers[a]]})" for a in bad[:4])
            raise ValueError(
                f"atoms on top of each other: {names}; their closest neighbour is {nearest[bad[0]].min():.4f} Å away"
            )
        if worst < -0.02 and worst < self._warned - 0.05:
            self._warned = worst
            atom, t = np.unravel_index(int(margin.argmin()), margin.shape)
            known = f"they go down to {seen[atom, t]:.2f} Å"
            known = known if np.isfinite(seen[atom, t]) else "they have no such pair"
            warnings.warn(
                f"extrapolation: atom {atom} ({chemical_symbols[structure.numbers[atom]]}) has a {symbols[t]} at "
                f"{nearest[atom, t]:.2f} Å, closer than the training data know: {known}",
                ExtrapolationWarning,
                stacklevel=3,
            )
