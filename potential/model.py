"""The energy of an atom as a pure function of parameters and the vectors to its neighbours.

    E_i = E0 + b_i · c_i · (shift + scale · N((D_i − mean)/std)) + ½ Σ_j ZBL(r_ij) · w_out(r_ij)

D_i descriptor, N fitting net of the atom's element. b_i = 1 − exp(−8 Σ_j w(r_ij)) takes an atom that loses its last
neighbour to exactly E0; c_i = exp(−7 Σ_j x³), x = max(0, (r_out − r_ij)/(r_out − r_in)), silences the network where two
atoms come closer than the data can speak of, and leaves them to the nuclear repulsion. r_out is `repulsion_radius`, the
shortest distance that the data can speak of for that pair of elements, r_in = 0.7 r_out; w_out goes from 1 at r_in to 0 at r_out.
Both are twice differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import covalent_radii
from pydantic import BaseModel, ConfigDict, Field

from adatom.potential.alike import alike
from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.descriptors import (
    DeepPotential,
    DeepPotentialConfig,
    Moments,
    MomentsConfig,
    SymmetryFunctions,
    SymmetryFunctionsConfig,
)
from adatom.potential.geometry import distances
from adatom.potential.networks import Activation, FittingNet
from adatom.potential.pairwise import zbl

Array = jax.Array
Params = dict[str, Any]
INNER, UNSEEN = 0.7, 0.7


DescriptorConfig = Annotated[MomentsConfig | SymmetryFunctionsConfig | DeepPotentialConfig, Field(discriminator="type")]
DESCRIPTORS: dict[str, type[BaseModel]] = {
    "moments": MomentsConfig,
    "symmetry_functions": SymmetryFunctionsConfig,
    "deep_potential": DeepPotentialConfig,
}


class EnergyModel(Protocol):
    """What `predict` differentiates. Implementations are frozen and hashable: they are static under `jit`."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the species index."""

    @property
    def cutoff(self) -> float:
        """Å; nothing beyond it has any influence."""

    def atomic_energies(self, params: Any, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """Energies without E0 from vectors (3, n, k): (n,) eV. Rows are grouped by species as `atoms`, columns as `slots`."""


class ByConfig:
    """An EnergyModel whose config knows its elements and its cutoff."""

    config: Any

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(self.config.elements)

    @property
    def cutoff(self) -> float:
        return float(self.config.cutoff)


class Faster:
    """An EnergyModel that stands for another, `model`."""

    model: Any

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(self.model.elements)

    @property
    def cutoff(self) -> float:
        return float(self.model.cutoff)


class FittedModel(EnergyModel, Protocol):
    """An EnergyModel with parameters, as model files hold it (`adatom.potential.families`).

    Arrays below network["constants"] are part of the model, never trained.
    """

    @property
    def config(self) -> BaseModel:
        """Everything static, as JSON in the model file."""

    def init(self, key: Array) -> Params:
        """A network tree of the right shapes, at random."""


def repulsion_radius(min_distance: Array | np.ndarray, elements: Sequence[int]) -> Array:
    """r_out (species, species): the shortest distance in the data, or 0.7 of the sum of covalent radii for elements that
    the data never bring closer than twice that sum."""
    radii = covalent_radii[list(elements)]
    bond = jnp.asarray(radii[:, None] + radii[None, :], dtype=jnp.asarray(min_distance).dtype)
    return jnp.where(jnp.asarray(min_distance) < 2.0 * bond, jnp.asarray(min_distance), UNSEEN * bond)


class FittingNetConfig(BaseModel):
    """The network from descriptor to energy, one per element."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (32, 32)
    activation: Activation = "silu"


class ModelConfig(BaseModel):
    """Everything that decides the shapes of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    elements: tuple[Annotated[int, Field(ge=1, le=118)], ...]
    descriptor: DescriptorConfig
    fitting_net: FittingNetConfig = FittingNetConfig()
    repulsion: bool = True
    isolated_limit: Annotated[bool, Field(description="an atom without neighbours has exactly E0")] = True

    @property
    def cutoff(self) -> float:
        return self.descriptor.cutoff


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Statistics:
    """What the data fix before training. t species, f features.

    e0 (t,) eV, float64; shift, scale (t,) eV; feature_mean, feature_std (t, f); min_distance (t, t)
    Å, the shortest that the data can speak of (`adatom.fitting.statistics`), infinite for a pair never seen within the cutoff.
    """

    e0: np.ndarray | Array
    shift: np.ndarray | Array
    scale: np.ndarray | Array
    feature_mean: np.ndarray | Array
    feature_std: np.ndarray | Array
    min_distance: np.ndarray | Array


@dataclass(frozen=True)
class Model(ByConfig):
    """A descriptor and one fitting net per element. Params: {"network": trained, "statistics": Statistics}."""

    config: ModelConfig

    @property
    def _descriptor(self) -> SymmetryFunctions | DeepPotential | Moments:
        c = self.config.descriptor
        if isinstance(c, SymmetryFunctionsConfig):
            return SymmetryFunctions(c)
        return DeepPotential(c) if isinstance(c, DeepPotentialConfig) else Moments(c)

    @property
    def _fitting(self) -> FittingNet:
        return FittingNet(self.config.fitting_net.widths, self.config.fitting_net.activation)

    def init(self, key: Array) -> Params:
        """Fresh network parameters, float32. Of moments, elements that are alike begin with the same."""
        ones = (1,) * len(self.elements)
        key, own = jax.random.split(key)
        vectors = jax.ShapeDtypeStruct((3, len(ones), len(ones)), jnp.float32)
        descriptor = self._descriptor.lazy_init(own, vectors, ones, ones)  # its shapes are enough
        params: Params = {"descriptor": descriptor.get("params", {}), "fitting": {}}
        features = jnp.zeros((1, self.config.descriptor.n_features(len(ones))), dtype=jnp.float32)
        for t in range(len(ones)):
            key, own = jax.random.split(key)
            params["fitting"][f"species_{t}"] = self._fitting.init(own, features)["params"]
        groups = alike(self.elements) if isinstance(self.config.descriptor, MomentsConfig) else ()
        for first, *others in groups:
            for t in others:
                params["fitting"][f"species_{t}"] = params["fitting"][f"species_{first}"]
                for name, w in params["descriptor"].items():
                    tables = w.reshape(len(ones), -1, w.shape[-1])
                    params["descriptor"][name] = tables.at[t].set(tables[first]).reshape(w.shape)
        return params

    def descriptors(self, network: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """(3, n, k) vectors -> (n, features), not standardised."""
        return jnp.asarray(self._descriptor.apply({"params": network.get("descriptor", {})}, vectors, slots, atoms))

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        features = self.descriptors(params["network"], vectors, slots, atoms)
        return self.energies(params, features, vectors, slots, atoms)

    def energies(self, params: Params, features: Array, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """From descriptors (n, f) to energies (n,): fitting nets, isolated limit, repulsion."""
        network, statistics = params["network"], params["statistics"]
        row, column = np.repeat(np.arange(len(atoms)), atoms), np.repeat(np.arange(len(slots)), slots)

        def constant(x: Array) -> Array:
            return jnp.asarray(x).astype(vectors.dtype)

        groups, start = [], 0
        for t, n in enumerate(atoms):
            if n:
                d = features[start : start + n] - constant(statistics.feature_mean[t])[None]
                d = d / constant(statistics.feature_std[t])[None]
                value = jnp.asarray(self._fitting.apply({"params": network["fitting"][f"species_{t}"]}, d))
                groups.append(constant(statistics.shift[t]) + constant(statistics.scale[t]) * value)
                start += n
        energy = jnp.concatenate(groups)
        r = distances(vectors)
        if self.config.isolated_limit:
            energy = energy * -jnp.expm1(-8.0 * smooth_step_down(r, 0.0, self.cutoff).sum(axis=-1))
        if self.config.repulsion:
            outer = constant(repulsion_radius(statistics.min_distance, self.elements))[row[:, None], column[None, :]]
            x = jnp.maximum((outer - r) / ((1.0 - INNER) * outer), 0.0)
            energy = energy * jnp.exp(-7.0 * (x * x * x).sum(axis=-1))
            z = jnp.asarray(self.elements, dtype=vectors.dtype)
            pair = zbl(r, z[row][:, None], z[column][None, :]) * smooth_step_down(r, INNER * outer, outer)
            energy = energy + 0.5 * pair.sum(axis=-1)
        return energy
