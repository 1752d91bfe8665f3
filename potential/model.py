"""The energy of an atom as a pure function of parameters and the vectors to its neighbours.

    E_i = E0 + b_i · c_i · (shift + scale · N((D_i − mean)/std)) + ½ Σ_j ZBL(r_ij) · w_out(r_ij)

D_i descriptor, N fitting net of the atom's element. b_i = 1 − exp(−8 Σ_j w(r_ij)) takes an atom that loses its last
neighbour to exactly E0; c_i = exp(−7 Σ_j x³), x = max(0, (r_out − r_ij)/(r_out − r_in)), silences the network where two
atoms come closer than the data ever showed, and leaves them to the nuclear repulsion. r_out is the shortest distance in the
data of that pair of elements, r_in = 0.7 r_out; w_out goes from 1 at r_in to 0 at r_out. Both are twice differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.descriptors import DeepPotential, DeepPotentialConfig, SymmetryFunctions, SymmetryFunctionsConfig
from adatom.potential.geometry import distances
from adatom.potential.networks import Activation, FittingNet
from adatom.potential.pairwise import zbl

Array = jax.Array
Params = dict[str, Any]
INNER = 0.7


class EnergyModel(Protocol):
    """What `predict` differentiates. Implementations are frozen and hashable: they are static under `jit`."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the species index."""

    @property
    def cutoff(self) -> float:
        """Å; nothing beyond it has any influence."""

    def atomic_energies(self, params: Any, vectors: Array, slots: Sequence[int], species: int) -> Array:
        """Energies without E0 of n atoms of one species from vectors (3, n, k), slots grouped by species: (n,) eV."""


class FittingNetConfig(BaseModel):
    """The network from descriptor to energy, one per element."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 64)
    activation: Activation = "tanh"


class ModelConfig(BaseModel):
    """Everything that decides the shapes of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    elements: tuple[Annotated[int, Field(ge=1, le=118)], ...]
    descriptor: Annotated[SymmetryFunctionsConfig | DeepPotentialConfig, Field(discriminator="type")]
    fitting_net: FittingNetConfig = FittingNetConfig()
    repulsion: bool = True
    isolated_limit: Annotated[bool, Field(description="an atom without neighbours has exactly E0")] = True


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Statistics:
    """What the data fix before training. t species, f features.

    e0 (t,) eV, float64; shift, scale (t,) eV; feature_mean, feature_std (t, f); min_distance (t, t) Å.
    """

    e0: np.ndarray | Array
    shift: np.ndarray | Array
    scale: np.ndarray | Array
    feature_mean: np.ndarray | Array
    feature_std: np.ndarray | Array
    min_distance: np.ndarray | Array


@dataclass(frozen=True)
class Model:
    """A descriptor and one fitting net per element. Params: {"network": trained, "statistics": Statistics}."""

    config: ModelConfig

    @property
    def elements(self) -> tuple[int, ...]:
        return self.config.elements

    @property
    def cutoff(self) -> float:
        return self.config.descriptor.cutoff

    @property
    def _descriptor(self) -> SymmetryFunctions | DeepPotential:
        c = self.config.descriptor
        return SymmetryFunctions(c) if isinstance(c, SymmetryFunctionsConfig) else DeepPotential(c)

    @property
    def _fitting(self) -> FittingNet:
        return FittingNet(self.config.fitting_net.widths, self.config.fitting_net.activation)

    def init(self, key: Array) -> Params:
        """Fresh network parameters, float32."""
        n, slots = len(self.elements), (1,) * len(self.elements)
        vectors = jnp.full((3, 1, n), 0.3 * self.cutoff, dtype=jnp.float32)
        params: Params = {"descriptor": {}, "fitting": {}}
        for t in range(n):
            key, a, b = jax.random.split(key, 3)
            variables = self._descriptor.init(a, vectors, slots, t)
            params["descriptor"] |= {
                k: v for k, v in variables.get("params", {}).items() if k not in params["descriptor"]
            }
            features = jnp.zeros((1, self.config.descriptor.n_features(n)), dtype=jnp.float32)
            params["fitting"][f"species_{t}"] = self._fitting.init(b, features)["params"]
        return params

    def descriptors(self, network: Params, vectors: Array, slots: Sequence[int], species: int) -> Array:
        """(3, n, k) vectors -> (n, features), not standardised."""
        return self._descriptor.apply({"params": network["descriptor"]}, vectors, slots, species)

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], species: int) -> Array:
        network, statistics = params["network"], params["statistics"]
        dtype, t = vectors.dtype, species

        def constant(x: Array) -> Array:
            return jnp.asarray(x).astype(dtype)

        d = self.descriptors(network, vectors, slots, species)
        d = (d - constant(statistics.feature_mean[t])[None]) / constant(statistics.feature_std[t])[None]
        energy = self._fitting.apply({"params": network["fitting"][f"species_{t}"]}, d)
        energy = constant(statistics.shift[t]) + constant(statistics.scale[t]) * energy
        r = distances(vectors)
        if self.config.isolated_limit:
            energy = energy * -jnp.expm1(-8.0 * smooth_step_down(r, 0.0, self.cutoff).sum(axis=-1))
        if self.config.repulsion:
            of_slot = np.repeat(np.arange(len(slots)), slots)
            outer = constant(statistics.min_distance[t])[of_slot][None]
            x = jnp.maximum((outer - r) / ((1.0 - INNER) * outer), 0.0)
            energy = energy * jnp.exp(-7.0 * (x * x * x).sum(axis=-1))
            z = np.asarray(self.elements, dtype=np.float64)
            z_j = jnp.asarray(z[of_slot], dtype=dtype)[None]
            pair = zbl(r, float(z[t]), z_j) * smooth_step_down(r, INNER * outer, outer)
            energy = energy + 0.5 * pair.sum(axis=-1)
        return energy
