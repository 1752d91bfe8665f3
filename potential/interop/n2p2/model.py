"""The energy of an atom in a neural network potential of n2p2 or RuNNer.

    E_i = E_0 + o + c · N(s · (G_i − G_0) + S_min)

G symmetry functions, N the element's network (Behler, Parrinello, PRL 98, 146401 (2007)). E_0 is in the statistics. In
network["constants"] are o [eV], which differs between members of a committee, c [eV], one over n2p2's conv_energy, and per
element scaling.data: minimum, maximum, mean and sigma of each G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from adatom.potential.descriptors.symmetry_functions import sections
from adatom.potential.geometry import distances
from adatom.potential.interop.n2p2.compiled import available, compiled_sums, in_cpp
from adatom.potential.interop.n2p2.config import RADIAL, WEIGHTED, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.moments import by_moments, wide_sums
from adatom.potential.interop.n2p2.radial import radial_part
from adatom.potential.interop.n2p2.triplets import shell, triplet_sums
from adatom.potential.model import ByConfig, Faster

Array = jax.Array
ACTIVATIONS = {
    "l": lambda x: x,
    "t": jnp.tanh,
    "s": jax.nn.sigmoid,
    "p": jax.nn.softplus,
    "r": jax.nn.relu,
    "g": lambda x: jnp.exp(-0.5 * x * x),
    "c": jnp.cos,
    "S": lambda x: 1.0 - jax.nn.sigmoid(x),
    "e": lambda x: jnp.exp(-x),
    "h": lambda x: x * x,
}


@dataclass(frozen=True)
class N2p2Model(ByConfig):
    """An EnergyModel. Params: {"network": {"constants", element: {layer: kernel, bias}}, "statistics"}.

    compiled: angular functions in C++ where it has them, equal to rounding, with no second derivatives: `quick` makes it so.
    """

    config: N2p2Config
    compiled: bool = False

    def init(self, key: Array) -> dict[str, Any]:
        """Fresh networks, float32, weights N(0, 1/inputs); functions not scaled, energies in eV."""
        offset = jnp.zeros(len(self.elements), dtype=jnp.float32)
        network: dict[str, Any] = {"constants": {"energy": jnp.ones((), dtype=jnp.float32), "offset": offset}}
        for z, functions, net in zip(self.elements, self.config.functions, self.config.networks, strict=True):
            name, widths = chemical_symbols[z], (len(functions), *net.widths, 1)
            table = jnp.tile(jnp.asarray([0.0, 1.0, 0.0, 1.0], dtype=jnp.float32), (len(functions), 1))
            network["constants"][name], network[name] = table, {}
            for n, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
                key, own = jax.random.split(key)
                kernel = jax.random.normal(own, (a, b), dtype=jnp.float32) / np.float32(np.sqrt(a))
                network[name][f"layer_{n}"] = {"kernel": kernel, "bias": jnp.zeros(b, dtype=jnp.float32)}
        return network

    def atomic_energies(self, params: dict[str, Any], vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """Energies without E_0 from vectors (3, n, k): (n,) eV."""
        network, groups, start = params["network"], [], 0
        energy, offset = (jnp.asarray(network["constants"][k]).astype(vectors.dtype) for k in ("energy", "offset"))
        for t, n in enumerate(atoms):
            if n:
                g = self.symmetry_functions(t, vectors[:, start : start + n], slots)
                table = jnp.asarray(network["constants"][chemical_symbols[self.elements[t]]])
                groups.append(offset[t] + energy * self._network(t, network, self.scaled(g, table)))
                start += n
        return jnp.concatenate(groups)

    def symmetry_functions(self, t: int, vectors: Array, slots: Sequence[int]) -> Array:
        """Of atoms of element t: vectors (3, n, k) -> (n, functions), not scaled, in the order of the configuration."""
        functions, r, parts = self.config.functions[t], distances(vectors), sections(slots)
        steps: dict[float, Array] = {}
        out = jnp.zeros((r.shape[0], len(functions)), dtype=r.dtype)

        def add(out: Array, values: Array, chosen: Sequence[int], neighbours: tuple[int, ...]) -> Array:
            """Put values (n, chosen) where they belong; weighted functions sum over elements."""
            place = np.zeros((len(chosen), len(functions)))
            for row, q in enumerate(chosen):
                place[row, q] = float(np.prod(neighbours)) if functions[q].kind in WEIGHTED else 1.0
            return out + jnp.matmul(values, jnp.asarray(place, dtype=r.dtype), precision="highest")

        for z, part in zip(self.elements, parts, strict=True):
            chosen = [q for q, f in enumerate(functions) if f.kind in RADIAL and f.neighbours in ((z,), ())]
            if chosen and part.stop > part.start:
                values = [radial_part(r, functions[q], self.config, steps)[:, part].sum(axis=-1) for q in chosen]
                out = add(out, jnp.stack(values, axis=1), chosen, (z,))
        wide = {q: f for q, f in enumerate(functions) if isinstance(f, Gaussian) and by_moments(f)}
        if wide:
            shells = sorted({shell(f) for f in wide.values()})
            g = jnp.stack([radial_part(r, next(f for f in wide.values() if shell(f) == s), self.config) for s in shells])
            own = [shells.index(shell(f)) for f in wide.values()]
            sums = wide_sums(vectors / r[None], g, own, list(wide.values()), parts)
        in_c = {q: f for q, f in enumerate(functions) if self.compiled and in_cpp(f)}
        for pair, (t1, t2) in enumerate(combinations_with_replacement(range(len(parts)), 2)):
            elements = self.elements[t1], self.elements[t2]
            here = [q for q, f in enumerate(functions) if f.kind not in RADIAL and f.neighbours in (elements, ())]
            if not slots[t1] or not slots[t2]:
                continue
            chosen = [q for q in here if q in in_c]
            if chosen:
                gaussians = [in_c[q] for q in chosen]
                out = add(out, compiled_sums(vectors, (parts[t1], parts[t2]), gaussians, self.config), chosen, elements)
            chosen = [q for q in here if q not in wide and q not in in_c]
            if chosen:
                three = [functions[q] for q in chosen]
                out = add(out, triplet_sums(vectors, r, (parts[t1], parts[t2]), three, self.config), chosen, elements)
            chosen = [q for q in here if q in wide]
            if chosen:
                out = add(out, sums[pair][:, np.array([list(wide).index(q) for q in chosen])], chosen, elements)
        return out

    def scaled(self, g: Array, table: Array) -> Array:
        """(n, f) symmetry functions and their minimum, maximum, mean and sigma (f, 4) -> the network's input."""
        c = self.config
        least, most, mean, sigma = table.T
        span = {"scale": most - least, "scale_center": most - least, "scale_sigma": sigma}.get(c.scaling)
        if c.scaling == "none":
            return g
        x = g - (least if c.scaling == "scale" else mean).astype(g.dtype)[None]
        if span is None:
            return x
        return c.scale_min + x * ((c.scale_max - c.scale_min) / span).astype(g.dtype)[None]

    def _network(self, t: int, network: dict[str, Any], x: Array) -> Array:
        layers = network[chemical_symbols[self.elements[t]]]
        for n, name in enumerate(self.config.networks[t].activations):
            kernel, bias = (jnp.asarray(layers[f"layer_{n}"][k]).astype(x.dtype) for k in ("kernel", "bias"))
            y = jnp.matmul(x, kernel, precision="highest") + bias[None]
            if self.config.normalize_nodes:
                y = y / float(kernel.shape[0])
            x = ACTIVATIONS[name](y)
        return x[:, 0]


@dataclass(frozen=True)
class QuickN2p2(Faster):
    """An EnergyModel equal to an N2p2Model to rounding, for inference on a CPU: its triplets are summed in C++."""

    model: N2p2Model
    shortest: float = 0.0

    def atomic_energies(self, params: dict[str, Any], vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """As `N2p2Model.atomic_energies`."""
        return self.model.atomic_energies(params, vectors, slots, atoms)


def quick(model: N2p2Model, params: dict[str, Any]) -> tuple[QuickN2p2, dict[str, Any]] | None:
    """The model with its triplets in C++, and its params; None where it has none that C++ sums, or there is no compiler."""
    return (QuickN2p2(replace(model, compiled=True)), params) if available(model.config) else None
