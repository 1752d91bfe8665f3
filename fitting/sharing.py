"""Elements that are alike learn together: what is trained is what they have in common, and how each differs from it.

    W_z = C + SHARE · D_z

W_z everything that a moments model has for an element z of a group (`adatom.potential.alike`): its radial functions and its
fitting net. Steps of the optimiser are of about unit size for C and for D_z (`soap`), so differences grow SHARE times as fast as
what is common, and as far as the data of that element ask for: around atoms of kinds and at distances that no frame shows
together, an element is like the others. Where nothing ties them, nets that know an element among its own kind are far off in a
hot alloy (`benchmarks/README.md`). A potential has W_z alone; other elements, and other descriptors, are trained as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.alike import alike
from adatom.potential.descriptors import MomentsConfig
from adatom.potential.model import FittedModel, Model, Params

Array = jax.Array
SHARE = 0.25


def apart(model: FittedModel, network: Params) -> Params:
    """What is trained, from a network or its fitting nets alone: D in the place of W, and C of every group below "common"."""
    groups, n = _groups(model), len(model.elements)
    if not groups:
        return network
    common: Params = {}
    for g in groups:
        part: Params = {"fitting": jax.tree.map(lambda *w: sum(w) / len(w), *(network["fitting"][f"species_{t}"] for t in g))}
        if "descriptor" in network:
            part["descriptor"] = {k: _tables(w, n)[np.array(g)].mean(axis=0) for k, w in network["descriptor"].items()}
        common[_name(g)] = part
    return _each(lambda w, c: (w - c) / SHARE, model, network, common) | {"common": common}


def together(model: FittedModel, trained: Params) -> Params:
    """The network, or the part of it, that `apart` was given."""
    if "common" not in trained:
        return trained
    return _each(lambda d, c: c + SHARE * d, model, trained, trained["common"])


def _each(f: Callable[[Array, Array], Array], model: FittedModel, own: Params, common: Params) -> Params:
    """f(own, common) for everything of elements in groups, and what the others have."""
    groups, n = _groups(model), len(model.elements)
    group_of = {t: _name(g) for g in groups for t in g}
    tree: Params = {"fitting": dict(own["fitting"])}
    for t, g in group_of.items():
        tree["fitting"][f"species_{t}"] = jax.tree.map(f, own["fitting"][f"species_{t}"], common[g]["fitting"])
    if "descriptor" in own:
        tree["descriptor"] = {}
        for k, w in own["descriptor"].items():
            each = [f(x, common[group_of[t]]["descriptor"][k]) if t in group_of else x for t, x in enumerate(_tables(w, n))]
            tree["descriptor"][k] = jnp.concatenate(each)
    return tree


def _groups(model: FittedModel) -> tuple[tuple[int, ...], ...]:
    own = isinstance(model, Model) and isinstance(model.config.descriptor, MomentsConfig)
    return alike(model.elements) if own else ()


def _name(group: tuple[int, ...]) -> str:
    return f"species_{group[0]}"


def _tables(w: Array, n: int) -> Array:
    """(n · radial, channels) -> (n, radial, channels)."""
    return w.reshape(n, -1, w.shape[-1])
