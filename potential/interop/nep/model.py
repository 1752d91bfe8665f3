"""The energy of an atom by NEP (Fan et al., J. Chem. Phys. 157, 114801 (2022); NEP4: Song et al., Nat. Commun. 15, 10208 (2024)).

    E_i = Σ_μ w1_μ tanh(Σ_ν w0_μν s_ν q_ν − b0_μ) + ½ Σ_j ZBL(r_ij)
    q_n = Σ_j g_n(r_ij),   q_nl = Σ_m A_nlm²,   A_nlm = Σ_j g_n(r_ij) Y_lm(r̂_ij),   g_n(r) = Σ_k c_nk^ij f_k(r)

and the invariants of more than two A. s are the scales of the descriptor. The common bias b1 (NEP5: and those of the elements)
is in E0, with its sign changed. Params["network"], t elements, w networks (1 in NEP3), n, k from 0, f features:
radial, angular (t, t, n, k) c_nk^ij, i first; hidden_weights (w, neurons, f), hidden_biases and output_weights (w, neurons);
constants: scaler (f,), offset (t,) eV added to E_i, and, of the flexible ZBL, zbl (t, t, 10): cutoffs, four factors and decays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.geometry import distances
from adatom.potential.interop.nep.config import Kind, NepConfig
from adatom.potential.interop.nep.functions import chebyshev, folded, zbl
from adatom.potential.interop.nep.harmonics import harmonics, norms, triple
from adatom.potential.model import ByConfig, Params

Array = jax.Array


@dataclass(frozen=True)
class NepModel(ByConfig):
    """A NEP3, NEP4 or NEP5 model of energies. Params: {"network": see above, "statistics": Statistics}."""

    config: NepConfig

    def init(self, key: Array) -> Params:
        """At random, float32; without a flexible ZBL until its table is filled."""
        c, t, w = self.config, len(self.elements), self.config.n_networks
        keys = jax.random.split(key, 5)

        def normal(n: int, shape: tuple[int, ...], width: float) -> Array:
            return width * jax.random.normal(keys[n], shape, dtype=jnp.float32)

        constants = {"scaler": jnp.ones(c.n_features, dtype=jnp.float32), "offset": jnp.zeros(t, dtype=jnp.float32)}
        if c.zbl and c.zbl.flexible:
            table = [0.0, 1.0] + [0.0, 1.0] * 4
            constants["zbl"] = jnp.broadcast_to(jnp.asarray(table, dtype=jnp.float32), (t, t, 10))
        return {
            "radial": normal(0, (t, t, c.n_max[0] + 1, c.basis_size[0] + 1), 0.3),
            "angular": normal(1, (t, t, c.n_max[1] + 1, c.basis_size[1] + 1), 0.3),
            "hidden_weights": normal(2, (w, c.neurons, c.n_features), c.n_features**-0.5),
            "hidden_biases": normal(3, (w, c.neurons), 0.1),
            "output_weights": normal(4, (w, c.neurons), c.neurons**-0.5),
            "constants": constants,
        }

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        network, dtype = params["network"], vectors.dtype
        q = self.descriptors(network, vectors, slots, atoms)
        groups = []
        for t, rows in _present(atoms):
            own, offset = min(t, self.config.n_networks - 1), network["constants"]["offset"][t].astype(dtype)
            w0, b0, w1 = (
                network[x][own].astype(dtype) for x in ("hidden_weights", "hidden_biases", "output_weights")
            )  # fmt: skip
            groups.append(jnp.tanh(q[rows] @ w0.T - b0[None]) @ w1 + offset)
        energy = jnp.concatenate(groups)
        return energy + self._repulsion(network, vectors, slots, atoms) if self.config.zbl else energy

    def descriptors(self, network: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """(3, n, k) vectors -> (n, features), scaled."""
        c, dtype, r = self.config, vectors.dtype, distances(vectors)
        if not sum(slots):
            return jnp.zeros((r.shape[0], c.n_features), dtype=dtype)

        def sums(kind: Kind, y: Array | None) -> Array:
            """Σ_j g_n (n, channels), or with harmonics y (n, m, k): Σ_j g_n Y (n, m, channels)."""
            size, inverse = c.basis_size[0 if kind == "radial" else 1], 1.0 / c.pair_cutoffs(kind)
            f = jnp.stack(chebyshev(r, _table(inverse, slots, atoms, dtype), size), axis=1)
            parts = {
                u: f[..., cut].sum(axis=-1) if y is None else jnp.einsum("nmk,nbk->nmb", y[..., cut], f[..., cut])
                for u, cut in _present(slots)
            }
            return jnp.concatenate([
                reduce(jnp.add, [x[rows] @ folded(network[kind][t, u].astype(dtype)).T for u, x in parts.items()])
                for t, rows in _present(atoms)
            ])  # fmt: skip

        q = [sums("radial", None)]
        if c.l_max:
            unit = vectors / r[None]
            y = jnp.stack(harmonics(unit[0], unit[1], unit[2], c.l_max), axis=1)
            q += self._invariants(sums("angular", y) * jnp.asarray(norms(c.l_max), dtype=dtype)[None, :, None])
        return jnp.concatenate(q, axis=1) * network["constants"]["scaler"].astype(dtype)[None]

    def _invariants(self, a: Array) -> list[Array]:
        """A (n, m, channels) -> features, each (n, channels)."""
        square = a * a
        out = [square[:, l * l - 1 : (l + 1) ** 2 - 1].sum(axis=1) for l in range(1, self.config.l_max + 1)]  # noqa: E741
        first = out[0]
        for name in self.config.invariants:
            if name == "1111":
                out.append(7.0 / 15.0 * first * first)
            else:
                l1, l2, l3 = (int(x) for x in name)
                out.append(reduce(jnp.add, [f * (a[:, i] * a[:, j] * a[:, k]) for i, j, k, f in triple(l1, l2, l3)]))
        return out

    def _repulsion(self, network: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        r, dtype = distances(vectors), vectors.dtype
        row, column = np.repeat(np.arange(len(atoms)), atoms)[:, None], np.repeat(np.arange(len(slots)), slots)[None]
        z = jnp.asarray(self.elements, dtype=dtype)
        if "zbl" in network["constants"]:
            pair = jnp.moveaxis(network["constants"]["zbl"].astype(dtype)[row, column], -1, 0)
            inner, outer, terms = pair[0], pair[1], pair[2:]
        else:
            inner, outer = (jnp.asarray(x, dtype=dtype)[row, column] for x in self.config.zbl_cutoffs())
            terms = None
        return 0.5 * zbl(r, z[row], z[column], inner, outer, terms).sum(axis=-1)


def _present(counts: Sequence[int]) -> list[tuple[int, slice]]:
    """The species that are there, and where."""
    stops = np.cumsum(counts)
    return [(t, slice(int(b) - n, int(b))) for t, (n, b) in enumerate(zip(counts, stops, strict=True)) if n]


def _table(values: np.ndarray, slots: Sequence[int], atoms: Sequence[int], dtype: jnp.dtype) -> Array | float:
    """values (t, t) for every slot of every atom, or the one value that all have."""
    if (values == values[0, 0]).all():
        return float(values[0, 0])
    row, column = np.repeat(np.arange(len(atoms)), atoms)[:, None], np.repeat(np.arange(len(slots)), slots)[None]
    return jnp.asarray(values, dtype=dtype)[row, column]
