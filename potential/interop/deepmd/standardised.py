"""The same model in other parameters, for training: fitting nets see standardised features and give energies of about unit size.

    x W + b = ((x − mean)/std) W' + b',   W' = std W,  b' = b + mean W;     E = y V + c = scale (y V' + c')

DeePMD-kit's nets take features as they are, which are much alike and far from zero: steps of one size for all weights are then
slow. The function is the same, and so is what is kept: `plain` goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.interop.deepmd.config import DeepmdConfig, Standard
from adatom.potential.interop.deepmd.model import DeepmdModel
from adatom.potential.model import Faster, Params

Array = jax.Array
NAME = "standard"


@dataclass(frozen=True)
class StandardisedDeepmd(Faster):
    """A FittedModel equal to `model`, of the params that `standardise` gives."""

    model: DeepmdModel

    @property
    def config(self) -> DeepmdConfig:
        """Of `model`."""
        return self.model.config

    def init(self, key: Array) -> Params:
        """At random, of features and energies as they are."""
        network = self.model.init(key)
        n = {k: x["hidden"]["layer_0"]["kernel"].shape[0] for k, x in network["fitting"].items()}
        return standardise(network, {k: (np.zeros(m), np.ones(m)) for k, m in n.items()}, 1.0)

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """As `DeepmdModel.atomic_energies`."""
        return self.model.atomic_energies({**params, "network": plain(params["network"])}, vectors, slots, atoms)


def rows_of_nets(config: DeepmdConfig) -> dict[str, slice]:
    """Of every fitting net the species it is for; none where there are several networks, or where a residual connection goes
    around their first layer."""
    terms = [(a, x) for a, x in enumerate(config.terms) if isinstance(x, Standard)]
    a, term = terms[0] if len(terms) == 1 else (0, None)
    if term is None or not term.widths or term.widths[0] / term.n_features() in (1, 2):
        return {}
    if term.mixed:
        return {f"term_{a}": slice(None)}
    return {f"term_{a}_species_{t}": slice(t, t + 1) for t in range(len(config.elements))}


def standardise(network: Params, features: dict[str, tuple[np.ndarray, np.ndarray]], scale: float) -> Params:
    """The network with other nets, and what brings them back below its constants.

    features: of every net the mean and std (f,) of what it sees; scale eV.
    """
    fitting, back = {}, {}
    for name, net in network["fitting"].items():
        mean, std = features[name]
        fitting[name] = _changed(net, 1.0 / std, -mean / std, scale)
        back[name] = {"mean": mean, "std": std, "scale": np.asarray(scale)}
    return {**network, "fitting": fitting, "constants": {**network["constants"], NAME: back}}


def plain(network: Params) -> Params:
    """Of a standardised network, the network of the model itself."""
    constants = {k: x for k, x in network["constants"].items() if k != NAME}
    found = network["constants"][NAME]
    fitting = {k: _changed(x, found[k]["std"], found[k]["mean"], 1.0 / found[k]["scale"]) for k, x in network["fitting"].items()}
    return {**network, "fitting": fitting, "constants": constants}


def _changed(net: Params, std: Array | np.ndarray, mean: Array | np.ndarray, scale: Array | float) -> Params:
    """The net of features x whose function is that of `net` of (x − mean)/std, over scale."""
    first, last = net["hidden"]["layer_0"], net["energy"]
    dtype = first["kernel"].dtype
    kernel = first["kernel"] / jnp.asarray(std, dtype=dtype)[:, None]
    bias = first["bias"] - jnp.asarray(mean, dtype=dtype) @ kernel
    energy = {k: x / jnp.asarray(scale, dtype=dtype) for k, x in last.items()}
    return {**net, "hidden": {**net["hidden"], "layer_0": {**first, "kernel": kernel, "bias": bias}}, "energy": energy}
