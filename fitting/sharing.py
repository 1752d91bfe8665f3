"""Elements learn together: what is trained is what they have in common, and how each differs from it.

    W_z = C + SHARE · D_z

W_z everything that a moments model has for an element z: its radial functions and its fitting net. Steps of the optimiser are of
about unit size for C and for D_z (`soap`), so differences grow SHARE times as fast as what is common, and only as far as the data
of that element ask for: around atoms of kinds and at distances that no frame shows together, an element is like the others. Where
nothing ties them, nets that know an element among its own kind are far off in a hot alloy (`benchmarks/README.md`). A potential
has W_z alone; a model of one element, and other descriptors, are trained as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.model import FittedModel, Model, Params

Array = jax.Array
SHARE = 0.25


def apart(model: FittedModel, network: Params) -> Params:
    """What is trained, from the network or its fitting nets alone: D in the network's place, and C below "common"."""
    n = len(model.elements)
    if not isinstance(model, Model) or not isinstance(model.config.descriptor, MomentsConfig) or n == 1:
        return network
    common: Params = {}
    if "descriptor" in network:
        common["descriptor"] = jax.tree.map(lambda w: w.reshape(n, -1, w.shape[-1]).mean(axis=0), network["descriptor"])
    common["fitting"] = jax.tree.map(lambda *w: sum(w) / n, *network["fitting"].values())
    return jax.tree.map(lambda w, c: (w - c) / SHARE, network, _each(common, network)) | {"common": common}


def together(trained: Params) -> Params:
    """The network, or the part of it, that `apart` was given."""
    if "common" not in trained:
        return trained
    own = {k: v for k, v in trained.items() if k != "common"}
    return jax.tree.map(lambda d, c: c + SHARE * d, own, _each(trained["common"], own))


def _each(common: Params, like: Params) -> Params:
    """The common part once for every element, in the shapes of `like`."""

    def repeated(c: Array, w: Array) -> Array:
        return jnp.tile(c, (w.shape[0] // c.shape[0], 1))

    tree: dict[str, Any] = {"fitting": dict.fromkeys(like["fitting"], common["fitting"])}
    if "descriptor" in like:
        tree["descriptor"] = jax.tree.map(repeated, common["descriptor"], like["descriptor"])
    return tree
