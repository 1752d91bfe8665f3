"""The moments model evaluated by `moments.hpp`: packing of its parameters, and the call from a jitted function.

The kernel takes the whole padded graph, from positions to forces, and keeps what is large in the caches of a core. It has no
derivatives: training, committees and whatever else differentiates use the `Model` it was made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.graph import Graph
from adatom.potential.kernels.build import compiled
from adatom.potential.model import EnergyModel, Model, Params, repulsion_radius
from adatom.potential.units import COULOMB

Array = jax.Array
PAD = 16
"""Rows of matrices are padded to multiples of it, as `kPad` in the header."""
ACTIVATIONS = ("tanh", "silu", "gelu", "softplus")


class Rows(NamedTuple):
    """energies (a,) eV without E0; forces (a, 3) eV/Å; virials (a, 3, 3) eV; nearest (a, t) Å. Zero, and far, on padding."""

    energies: Array
    forces: Array
    virials: Array
    nearest: Array


@dataclass(frozen=True)
class KernelMoments:
    """An EnergyModel equal to `model` to rounding. Params are those of the model plus {"kernel": flat array (numbers,)}."""

    model: Model

    @property
    def elements(self) -> tuple[int, ...]:
        return self.model.elements

    @property
    def cutoff(self) -> float:
        return self.model.cutoff

    def atomic_energies(self, params: Params, vectors: Array, slots: Any, atoms: Any) -> Array:
        """As `Model.atomic_energies`, by JAX."""
        return self.model.atomic_energies(params, vectors, slots, atoms)

    def rows(self, params: Params, graph: Graph) -> Rows:
        """Everything about the atoms of a graph, in the dtype of params["kernel"]."""
        numbers = jnp.asarray(params["kernel"])
        config, (a, k), t = self.model.config, graph.neighbours.shape, len(self.elements)
        d = config.descriptor
        assert isinstance(d, MomentsConfig)
        sizes = [
            t, d.n_radial, d.n_channels, d.order, d.four_body, config.isolated_limit, config.repulsion,
            ACTIVATIONS.index(config.fitting_net.activation), *config.fitting_net.widths,
        ]  # fmt: skip
        dtype = numbers.dtype
        shapes = [(a,), (a, 3), (a, 3, 3), (a, t), (a * k, 3)]
        call = jax.ffi.ffi_call(f"adatom_moments_{dtype.name}", [jax.ShapeDtypeStruct(s, dtype) for s in shapes])
        wide = jnp.float64
        out = call(
            numbers, jnp.asarray(graph.positions, dtype=wide), jnp.asarray(graph.cell, dtype=wide),
            jnp.asarray(graph.structure), jnp.asarray(graph.atom_mask), jnp.asarray(graph.neighbours),
            jnp.asarray(graph.shifts).transpose(1, 2, 0),  # as the device's neighbour list has them in memory: no copy
            jnp.asarray(graph.mask), jnp.asarray(graph.reverse), sizes=np.array(sizes, dtype=np.int64),
            atoms=np.array(graph.atom_capacity, dtype=np.int64), slots=np.array(graph.slot_capacity, dtype=np.int64),
        )  # fmt: skip
        return Rows(*out[:4])


def kernel(model: EnergyModel, params: Params, precision: str) -> tuple[KernelMoments, Params] | None:
    """The compiled model and its params; None for other models, on other devices, and where nothing can be compiled."""
    if not isinstance(model, Model) or not isinstance(model.config.descriptor, MomentsConfig):
        return None
    if jax.default_backend() != "cpu" or compiled().library is None:
        return None
    return KernelMoments(model), {**params, "kernel": pack(model, params).astype(precision)}


def pack(model: Model, params: Params) -> np.ndarray:
    """All numbers of the model in the order README.md gives: (numbers,) float64."""
    config, network, statistics = model.config.descriptor, params["network"], params["statistics"]
    assert isinstance(config, MomentsConfig)
    t, elements = len(model.elements), np.array(model.elements, dtype=float)
    centres = np.linspace(0.6, config.cutoff, config.n_radial)
    outer = np.asarray(repulsion_radius(np.asarray(statistics.min_distance, dtype=float), model.elements))
    power = elements**0.23
    parts = [
        np.array([config.cutoff, 0.5 / (centres[1] - centres[0]) ** 2]), centres, outer,
        COULOMB * elements[:, None] * elements[None, :], (power[:, None] + power[None, :]) / 0.46850,
    ]  # fmt: skip
    for p in range(config.order + 1):
        w = np.asarray(network["descriptor"][f"radial_{p}"], dtype=float).reshape(t, config.n_radial, config.n_channels)
        parts += [_rows(w), _rows(w.transpose(0, 2, 1))]
    for s in range(t):
        net = network["fitting"][f"species_{s}"]
        last = net["energy"]
        parts.append(np.array([statistics.shift[s], statistics.scale[s], np.asarray(last["bias"])[0]], dtype=float))
        parts += [np.asarray(statistics.feature_mean[s], dtype=float), 1.0 / np.asarray(statistics.feature_std[s], dtype=float)]
        for n in range(len(model.config.fitting_net.widths)):
            layer = net["hidden"][f"layer_{n}"]
            w = np.asarray(layer["kernel"], dtype=float)
            parts += [_rows(w), np.asarray(layer["bias"], dtype=float), _rows(w.T)]
        parts.append(np.asarray(last["kernel"], dtype=float))
    return np.concatenate([_rows(x.reshape(1, -1)).reshape(-1) for x in parts])


def _rows(x: np.ndarray) -> np.ndarray:
    """The last axis padded with zeros."""
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % PAD)])
