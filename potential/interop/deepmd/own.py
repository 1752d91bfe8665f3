"""Our DeepPot-SE as a model of DeePMD-kit: the same network, its constants folded into DeePMD-kit's.

    ours   T = Σ_j G(a s_j) R_j / K,   x = (T Tᵀ_< − mean)/std,   E = E0 + shift + scale N(x)
    theirs T' = Σ_j G(s̃_j) R̃_j / Σ sel  with davg = 0, dstd = 1/a:  T' = (a K/Σ sel) T

so the first layer of N takes std, mean and (Σ sel/(a K))², the last one scale, E0 takes shift. Two things have no place there: an
atom that loses its last neighbour goes to E0, and the nuclear repulsion below the shortest distances in the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adatom.potential.descriptors import DeepPotentialConfig
from adatom.potential.interop.deepmd.config import DeepmdConfig, SeA, Standard
from adatom.potential.interop.deepmd.model import DeepmdModel
from adatom.potential.interop.differences import warn_of_differences
from adatom.potential.model import Model, Params, Statistics
from adatom.potential.potential import Potential

DENSEST = 0.2
"""Atoms/Å³, more than diamond's 0.176: no list of neighbours is longer than a sphere of that density."""


def as_deepmd(potential: Potential) -> Potential:
    """The same energies wherever atoms have neighbours and none is closer than in the data; NotTheSameWarning says so.

    Raises ValueError where the descriptor is another, or the first layer has a residual connection.
    """
    model = potential.model
    assert isinstance(model, Model)
    c, net = model.config.descriptor, model.config.fitting_net
    if not isinstance(c, DeepPotentialConfig):
        raise ValueError(f"DeePMD-kit has no descriptor like {c.type}: only deep_potential can be written for it")
    t, features = len(model.elements), c.n_features(len(model.elements))
    if net.widths[0] in (features, 2 * features):
        raise ValueError(f"a first layer of {net.widths[0]} neurons on {features} features has a residual: not for DeePMD-kit")
    s = potential.statistics
    room = _room(np.asarray(s.min_distance), c.cutoff)
    sel = tuple(room for _ in range(t))
    factor = (sum(sel) / (c.typical_distance * c.typical_neighbours)) ** 2
    network: Params = {"descriptor": {"term_0": {"part_0": _nets(potential.params["network"]["descriptor"])}}, "fitting": {}}
    for u in range(t):
        own = potential.params["network"]["fitting"][f"species_{u}"]
        mean, std, scale = (np.asarray(x[u], dtype=np.float64) for x in (s.feature_mean, s.feature_std, s.scale))
        hidden = _nets({"hidden": own["hidden"]})["hidden"]
        first = hidden["layer_0"]
        hidden["layer_0"] = {
            "kernel": first["kernel"] * (factor / std)[:, None], "bias": first["bias"] - (mean / std) @ first["kernel"]
        }  # fmt: skip
        last = {"kernel": _wide(own["energy"]["kernel"]) * scale, "bias": _wide(own["energy"]["bias"]) * scale}
        network["fitting"][f"term_0_species_{u}"] = {"hidden": hidden, "energy": last}
    statistics = {"davg": np.zeros((t, t, 4)), "dstd": np.full((t, t, 4), 1.0 / c.typical_distance)}
    network["constants"] = {"offset": np.zeros(t), "term_0": {"part_0": statistics}}
    descriptor = SeA(
        cutoff=c.cutoff, smooth_cutoff=c.smooth_cutoff, sel=sel, neuron=c.embedding_net, activation=_name(c.activation),
        axis=c.axis, one_side=c.one_side, padded=False,
    )  # fmt: skip
    term = Standard(descriptors=(descriptor,), widths=net.widths, activation=_name(net.activation), resnet_dt=False)
    e0 = np.asarray(s.e0, dtype=np.float64) + np.asarray(s.shift, dtype=np.float64)
    zeros = np.zeros((t, t))
    plain = Statistics(e0, np.zeros(t), np.ones(t), np.zeros((t, 1)), np.ones((t, 1)), zeros)
    warn_of_differences(potential, "DeePMD-kit")
    made = DeepmdModel(DeepmdConfig(elements=model.elements, terms=(term,)))
    return Potential(made, {"network": network, "statistics": plain}, dict(potential.info))


def _room(shortest: np.ndarray, cutoff: float) -> int:
    """Neighbours within the cutoff of the densest packing of spheres as far apart as the data, or of `DENSEST`."""
    closest = float(np.min(shortest))
    density = min(DENSEST, np.sqrt(2.0) / closest**3) if 0.0 < closest < np.inf else DENSEST
    return 4 * int(np.ceil(density * 4.0 / 3.0 * np.pi * cutoff**3 / 4.0 + 1.0))


def _nets(tree: Any) -> Params:
    """flax's perceptrons {net: {layer_n: {kernel, bias}}} in float64."""
    return {net: {layer: {k: _wide(x) for k, x in v.items()} for layer, v in layers.items()} for net, layers in tree.items()}


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def _name(activation: str) -> str:
    return "gelu_tf" if activation == "gelu" else activation
