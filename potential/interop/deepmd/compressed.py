"""se_e2_a and se_e2_r with Chebyshev series for their embedding nets, as `adatom.potential.compression` does for our own.

    G_m(s̃) ≈ Σ_q T_q(x) C_qm,    x from −1 to 1 as s̃ goes over all that a pair farther apart than `shortest` can have

A net serves all centres whose davg and dstd it meets, so its interval is the hull of theirs; s̃ = 0, an excluded pair, is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import covalent_radii

from adatom.potential.compilation import jit
from adatom.potential.compression import MARGIN, MAX_DEGREE, NODES, TOLERANCES, chebyshev
from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.interop.deepmd.config import DeepmdConfig, SeA, SeR, Standard
from adatom.potential.interop.deepmd.descriptors import SectionSum
from adatom.potential.interop.deepmd.model import DeepmdModel, embedding_names
from adatom.potential.interop.deepmd.nets import perceptron
from adatom.potential.model import UNSEEN, Faster, Params

Array = jax.Array


@dataclass(frozen=True)
class CompressedDeepmd(Faster):
    """An EnergyModel equal to `model`; params have "series": {term_a: {part_b: {net: {"c", "low", "high"}}}} besides.

    `shortest` Å: closer pairs are outside the series. `error`: the largest of any G_m, relative to the largest |G|.
    """

    model: DeepmdModel
    degree: int
    shortest: float
    error: float

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """As `DeepmdModel.atomic_energies`."""
        sums = {
            (a, b): _by_series(params["series"][f"term_{a}"][f"part_{b}"], self.degree) for a, b, _ in _parts(self.model.config)
        }
        return self.model.energies(params, vectors, slots, atoms, sums)


def _by_series(series: Params, degree: int) -> SectionSum:
    def section_sum(name: str, weights: Array, s: Array) -> Array:
        c, low, high = (jnp.asarray(series[name][k]).astype(s.dtype) for k in ("c", "low", "high"))
        t = chebyshev((2.0 * s - low - high) / (high - low), degree)
        return jnp.einsum("ncq,qm->ncm", jnp.einsum("cnk,qnk->ncq", weights, t), c)

    return section_sum


def _parts(config: DeepmdConfig) -> list[tuple[int, int, SeA | SeR]]:
    """(term, part, descriptor) of those with embedding nets of one number."""
    return [
        (a, b, d)
        for a, term in enumerate(config.terms)
        if isinstance(term, Standard)
        for b, d in enumerate(term.descriptors)
        if isinstance(d, SeA | SeR)
    ]


def compress_deepmd(model: DeepmdModel, params: Params, precision: str) -> tuple[CompressedDeepmd, Params] | None:
    """The compressed model and its params, or None where there is nothing to compress or no degree meets the tolerance."""
    parts, network = _parts(model.config), params["network"]
    if not parts:
        return None
    radii = covalent_radii[list(model.elements)]
    shortest = float(MARGIN * UNSEEN * 2.0 * radii.min())
    series: Params = {}
    tails = []
    for a, b, d in parts:
        nets, made = network["descriptor"][f"term_{a}"][f"part_{b}"], {}
        for name, (low, high) in _intervals(d, network["constants"][f"term_{a}"][f"part_{b}"], len(radii), shortest).items():
            c, size = _interpolate(d, nets[name], low, high)
            tails.append(np.abs(c[::-1]).cumsum(axis=0)[::-1].max(axis=1) / size)
            made[name] = {"c": c, "low": np.asarray(low), "high": np.asarray(high)}
        series.setdefault(f"term_{a}", {})[f"part_{b}"] = made
    tail = np.max(tails, axis=0)
    enough = np.flatnonzero(tail[1:] <= TOLERANCES[precision])
    if not len(enough) or enough[0] >= MAX_DEGREE:
        return None
    degree = min(4 * int(np.ceil(max(enough[0], 4) / 4)), NODES - 2)
    cut = {a: {b: {n: {**x, "c": x["c"][: degree + 1]} for n, x in y.items()} for b, y in z.items()} for a, z in series.items()}
    return CompressedDeepmd(model, degree, shortest, float(tail[degree + 1])), {**params, "series": cut}


def _intervals(d: SeA | SeR, constants: Params, t: int, shortest: float) -> dict[str, tuple[float, float]]:
    """s̃ of all pairs that a net may meet."""
    top = float(smooth_step_down(jnp.asarray(shortest), d.smooth_cutoff, d.cutoff)) / (shortest + d.protection)
    mean, std = (np.asarray(constants[k])[:, :, 0] for k in ("davg", "dstd"))
    low, high = np.minimum((0.0 - mean) / std, 0.0), np.maximum((top - mean) / std, 0.0)
    found = {}
    for v in range(t):
        for u, name in enumerate(n for n in embedding_names(d.one_side, t) if n.endswith(f"_{v}")):
            rows = slice(None) if d.one_side else u
            found[name] = float(np.min(low[rows, v])), float(np.max(high[rows, v]))
    return found


def _interpolate(d: SeA | SeR, net: Params, low: float, high: float) -> tuple[np.ndarray, float]:
    """Chebyshev coefficients (NODES, M) in float64 from the values in the nodes, and the largest |G|."""
    angles = np.pi * (np.arange(NODES) + 0.5) / NODES
    s = 0.5 * (low + high) + 0.5 * (high - low) * np.cos(angles)
    g = np.asarray(jit(perceptron, static_argnums=2)(net, jnp.asarray(s[:, None], dtype=jnp.float64), d.activation))
    c = (2.0 / NODES) * np.cos(np.arange(NODES)[:, None] * angles) @ g
    c[0] *= 0.5
    return c, float(np.abs(g).max())
