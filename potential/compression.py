"""DeepPot-SE without its embedding nets: each net G(s), a function of one number, becomes a Chebyshev series.

    G_m(s) ≈ Σ_q T_q(x) C_qm,     x = 2 s/s_max − 1,     so  Rᵀ G = (Σ_j R_j T_q(x_j)) C

The sum over neighbours is taken over q series terms instead of M outputs of a network, and C is applied once per atom.
The degree is the smallest whose error bound, the sum of the coefficients that were cut, meets the tolerance of the
precision. Where none up to 128 does, or where a pair is closer than the series reaches, the network itself is evaluated.
(DeePMD-kit tabulates piecewise quintics for the same purpose: Lu et al., J. Chem. Theory Comput. 18, 5559 (2022).)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.compilation import jit
from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.descriptors.deep_potential import DeepPotentialConfig, contract
from adatom.potential.families import family_of
from adatom.potential.model import EnergyModel, Faster, Model, Params, repulsion_radius
from adatom.potential.networks import Perceptron

Array = jax.Array
TOLERANCES = {"float32": 1e-6, "float64": 1e-11}
NODES, MAX_DEGREE = 257, 128
MARGIN = 0.85


@dataclass(frozen=True)
class CompressedModel(Faster):
    """An EnergyModel equal to `model` within `error` (largest error of any G_m, relative to the largest |G|).

    Params are those of the model plus {"series": {net: (degree + 1, M)}}. `shortest` Å: closer pairs are outside the series.
    """

    model: Model
    degree: int
    s_max: float
    shortest: float
    error: float

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """As `Model.atomic_energies`."""
        config = self.model.config.descriptor
        assert isinstance(config, DeepPotentialConfig)
        series = params["series"]

        def by_series(name: str, r4: Array, s: Array) -> Array:
            t = chebyshev(s * (2.0 / self.s_max) - 1.0, self.degree)
            moments = jnp.einsum("cnk,qnk->ncq", r4, t)
            return jnp.einsum("ncq,qm->ncm", moments, series[name].astype(s.dtype))

        features = contract(vectors, config, slots, atoms, by_series)
        return self.model.energies(params, features, vectors, slots, atoms)


class Compressed(EnergyModel, Protocol):
    """What `compress` gives: good for distances of at least `shortest` Å."""

    @property
    def shortest(self) -> float: ...


def compress(model: EnergyModel, params: Params, precision: str) -> tuple[Compressed, Params] | None:
    """The compressed model and its params, or None where the descriptor is another or no degree meets the tolerance.

    Of n2p2's models, whose functions have no series, the one with its triplets in C++.
    """
    if family_of(model) == "deepmd":
        from adatom.potential.interop.deepmd.compressed import compress_deepmd

        return compress_deepmd(model, params, precision)  # type: ignore[arg-type]
    if family_of(model) == "n2p2":
        from adatom.potential.interop.n2p2.model import quick

        return quick(model, params)  # type: ignore[arg-type]
    if not isinstance(model, Model) or not isinstance(model.config.descriptor, DeepPotentialConfig):
        return None
    config = model.config.descriptor
    shortest = MARGIN * float(np.min(repulsion_radius(params["statistics"].min_distance, model.elements)))
    s_max = float(smooth_step_down(jnp.asarray(shortest), config.smooth_cutoff, config.cutoff)) / shortest
    series = {name: _interpolate(config, net, s_max) for name, net in params["network"]["descriptor"].items()}
    # an orthogonal series cut after degree q is off by at most the sum of what was cut, for every s
    tails = [np.abs(c[::-1]).cumsum(axis=0)[::-1].max(axis=1) / size for c, size in series.values()]
    tail = np.max(tails, axis=0)
    enough = np.flatnonzero(tail[1:] <= TOLERANCES[precision])
    if not len(enough) or enough[0] >= MAX_DEGREE:
        return None
    degree = min(4 * int(np.ceil(max(enough[0], 4) / 4)), NODES - 2)
    compressed = CompressedModel(model, degree, s_max, shortest, float(tail[degree + 1]))
    return compressed, {**params, "series": {name: c[: degree + 1] for name, (c, _) in series.items()}}


def _interpolate(config: DeepPotentialConfig, net: Any, s_max: float) -> tuple[np.ndarray, float]:
    """Chebyshev coefficients (NODES, M) of G in float64 from its values in the nodes (discrete cosine transform), and max |G|."""
    angles = np.pi * (np.arange(NODES) + 0.5) / NODES
    s = (np.cos(angles) + 1.0) * (0.5 * s_max * config.typical_distance)
    apply = jit(Perceptron(config.embedding_net, config.activation).apply)
    g = np.asarray(apply({"params": net}, jnp.asarray(s[:, None], dtype=jnp.float64)))
    c = (2.0 / NODES) * np.cos(np.arange(NODES)[:, None] * angles) @ g
    c[0] *= 0.5
    return c, float(np.abs(g).max())


def chebyshev(x: Array, degree: int) -> Array:
    """T_0 … T_degree of x (n, k): (degree + 1, n, k), by T_{q+1} = 2x T_q − T_{q−1}."""
    return _series(x, degree)[0]


def _series(x: Array, degree: int) -> tuple[Array, Array]:
    """Values and derivatives; the derivative of the recurrence is T'_{q+1} = 2 T_q + 2x T'_q − T'_{q−1}."""
    t, d = [jnp.ones_like(x), x], [jnp.zeros_like(x), jnp.ones_like(x)]
    for _ in range(degree - 1):
        t.append(2.0 * x * t[-1] - t[-2])
        d.append(2.0 * t[-2] + 2.0 * x * d[-1] - d[-2])
    return jnp.stack(t), jnp.stack(d)


chebyshev = jax.custom_jvp(chebyshev, nondiff_argnums=(1,))


@chebyshev.defjvp
def _chebyshev_jvp(degree: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    t, d = _series(primals[0], degree)
    return t, d * tangents[0][None]
