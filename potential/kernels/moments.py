"""The moments model evaluated by `moments.hpp`: packing of its parameters, and the call from a jitted function.

The kernel takes the whole padded graph, from positions to forces, and keeps what is large in the caches of a core. Energies,
forces and virials can be differentiated to the parameters, which is what training needs, and to nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.device import on_cpu
from adatom.potential.graph import Graph
from adatom.potential.kernels.build import compiled
from adatom.potential.model import EnergyModel, Faster, Model, Params, repulsion_radius
from adatom.potential.units import COULOMB

Array = jax.Array
Inputs = tuple[Array, ...]
"""positions (a, 3), cell (s, 3, 3), structure (a,), atom_mask (a,), neighbours (a, k), shifts (a, k, 3), mask (a, k) of a
graph."""
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
class KernelMoments(Faster):
    """An EnergyModel equal to `model` to rounding. Params are those of the model plus {"kernel": flat array (numbers,)}."""

    model: Model
    shortest: ClassVar[float] = 0.0

    def atomic_energies(self, params: Params, vectors: Array, slots: Any, atoms: Any) -> Array:
        """As `Model.atomic_energies`, by JAX."""
        return self.model.atomic_energies(params, vectors, slots, atoms)

    def rows(self, params: Params, graph: Graph) -> Rows:
        """Everything about the atoms of a graph, in the dtype of params["kernel"]; differentiable to these numbers only, and not
        by way of `nearest`."""
        d, config = self.model.config.descriptor, self.model.config
        assert isinstance(d, MomentsConfig)
        sizes = (
            len(self.elements), d.n_radial, d.n_channels, d.order, int(config.isolated_limit), int(config.repulsion),
            ACTIVATIONS.index(config.fitting_net.activation), len(d.within_order), *chain(*d.within_order),
            *config.fitting_net.widths,
        )  # fmt: skip
        wide = jnp.float64
        inputs = (
            jnp.asarray(graph.positions, dtype=wide), jnp.asarray(graph.cell, dtype=wide), jnp.asarray(graph.structure),
            jnp.asarray(graph.atom_mask), jnp.asarray(graph.neighbours),
            jnp.asarray(graph.shifts).transpose(1, 2, 0),  # as the device's neighbour list has them in memory: no copy
            jnp.asarray(graph.mask),
        )  # fmt: skip
        groups = sizes, tuple(graph.atom_capacity), tuple(graph.slot_capacity)
        return Rows(*_evaluate(*groups, jnp.asarray(params["kernel"]), inputs, jnp.asarray(graph.reverse)))


def _attributes(*groups: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {k: np.array(v, dtype=np.int64) for k, v in zip(("sizes", "atoms", "slots"), groups, strict=True)}


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _evaluate(
    sizes: tuple[int, ...], atoms: tuple[int, ...], slots: tuple[int, ...], numbers: Array, inputs: Inputs, reverse: Array
) -> tuple[Array, ...]:
    (a, k), dtype = inputs[4].shape, numbers.dtype
    shapes = [(a,), (a, 3), (a, 3, 3), (a, sizes[0]), (a * k, 3)]
    results = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    call = jax.ffi.ffi_call(f"adatom_moments_{dtype.name}", results, vmap_method="sequential")
    return tuple(call(numbers, *inputs, reverse, **_attributes(sizes, atoms, slots))[:4])


def _forward(
    sizes: tuple[int, ...], atoms: tuple[int, ...], slots: tuple[int, ...], numbers: Array, inputs: Inputs, reverse: Array
) -> tuple[tuple[Array, ...], tuple[Array, Inputs]]:
    return _evaluate(sizes, atoms, slots, numbers, inputs, reverse), (numbers, inputs)


def _backward(
    sizes: tuple[int, ...], atoms: tuple[int, ...], slots: tuple[int, ...], kept: tuple[Array, Inputs], bars: tuple[Array, ...]
) -> tuple[Array, None, None]:
    numbers, inputs = kept
    shape = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype)
    call = jax.ffi.ffi_call(f"adatom_moments_training_{numbers.dtype.name}", shape, vmap_method="sequential")
    return call(numbers, *inputs, *bars[:3], **_attributes(sizes, atoms, slots)), None, None


_evaluate.defvjp(_forward, _backward)


def kernel(model: EnergyModel, params: Params, precision: str) -> tuple[KernelMoments, Params] | None:
    """The compiled model and its params, which may be traced; None for other models, on other devices, and where nothing can be
    compiled."""
    if not isinstance(model, Model) or not isinstance(model.config.descriptor, MomentsConfig):
        return None
    if not on_cpu() or compiled().library is None:
        return None
    with jax.enable_x64(True):
        return KernelMoments(model), {**params, "kernel": pack(model, params, jnp.dtype(precision))}


def pack(model: Model, params: Params, dtype: Any) -> Array:
    """All numbers of the model in the order README.md gives: (numbers,). Differentiable to params["network"]."""
    config, network, statistics = model.config.descriptor, params["network"], params["statistics"]
    assert isinstance(config, MomentsConfig)
    t, elements = len(model.elements), np.array(model.elements, dtype=float)
    centres = config.centres
    outer = repulsion_radius(statistics.min_distance, model.elements)
    power = elements**0.23
    parts = [
        np.array([config.cutoff, 0.5 / (centres[1] - centres[0]) ** 2]), centres, outer,
        COULOMB * elements[:, None] * elements[None, :], (power[:, None] + power[None, :]) / 0.46850,
    ]  # fmt: skip
    for p in range(config.order + 1):
        w = network["descriptor"][f"radial_{p}"].reshape(t, config.n_radial, config.n_channels)
        parts += [_rows(w), _rows(w.transpose(0, 2, 1))]
    for s in range(t):
        net = network["fitting"][f"species_{s}"]
        last = net["energy"]
        three = statistics.shift[s], statistics.scale[s], last["bias"][0]
        parts.append(jnp.stack([jnp.asarray(x).astype(dtype) for x in three]))
        parts += [statistics.feature_mean[s], 1.0 / statistics.feature_std[s]]
        for n in range(len(model.config.fitting_net.widths)):
            layer = net["hidden"][f"layer_{n}"]
            parts += [_rows(layer["kernel"]), layer["bias"], _rows(layer["kernel"].T)]
        parts.append(last["kernel"])
    return jnp.concatenate([_rows(jnp.asarray(x).astype(dtype).reshape(-1)) for x in parts])


def _rows(x: Any) -> Array:
    """The last axis padded with zeros."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % PAD)])
