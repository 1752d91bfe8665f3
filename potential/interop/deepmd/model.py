"""A model of DeePMD-kit as an energy model.

    E_i = e0 + Σ_terms weight · E_term,      E_network = N(D_i) [− N(0)],     with `switch` see `table`

network = {"descriptor": {"term_a": {"part_b": {nets}}}, "fitting": {"term_a_species_t" | "term_a": {"hidden", "energy"}},
"constants": {"offset" (t,) eV, "term_a": {"part_b": {"davg", "dstd"}} or {"splines"}, "switch" (t,) eV}}. offset is added to
every atom's energy (the members of a committee differ in it); switch is what the table's E0 is above the network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.interop.deepmd.attention import se_atten
from adatom.potential.interop.deepmd.config import DeepmdConfig, Descriptor, Environment, SeA, SeAtten, SeR, SeT, Standard, Table
from adatom.potential.interop.deepmd.descriptors import SectionSum, Surroundings, embedding, se_a, se_r, se_t, surroundings
from adatom.potential.interop.deepmd.nets import affine, perceptron, shapes
from adatom.potential.interop.deepmd.table import table_energies, table_share
from adatom.potential.model import ByConfig, FittedModel

Array = jax.Array
Params = dict[str, Any]


@dataclass(frozen=True)
class DeepmdModel(ByConfig):
    """Equal to DeePMD-kit where no atom has more neighbours than `sel`: it drops the farthest, we do not."""

    config: DeepmdConfig

    def init(self, key: Array) -> Params:
        """At random, float32; `constants` are those of a model without statistics and tables."""
        made = network_shapes(self.config)
        leaves, tree = jax.tree.flatten(made, is_leaf=lambda x: isinstance(x, tuple))
        keys = jax.random.split(key, len(leaves))
        arrays = [
            jax.random.normal(k, s, dtype=jnp.float32) / float(np.sqrt(s[0] if len(s) > 1 else 10.0))
            for k, s in zip(keys, leaves, strict=True)
        ]
        network: Params = jax.tree.unflatten(tree, arrays)
        constants = jax.tree.map(jnp.zeros, constant_shapes(self.config), is_leaf=lambda x: isinstance(x, tuple))
        for term in constants.values():
            for part in term.values() if isinstance(term, dict) else ():
                if isinstance(part, dict):
                    part["dstd"] = part["dstd"] + 1.0
        return {**network, "constants": constants}

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        return self.energies(params, vectors, slots, atoms, {})

    def descriptors(self, network: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """What the first network sees (n, features)."""
        a, term = next((a, x) for a, x in enumerate(self.config.terms) if isinstance(x, Standard))
        return _features(surroundings(vectors, term.cutoff, self.config.exclude_pairs, slots, atoms), a, term, network, {})

    def energies(
        self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int],
        sums: dict[tuple[int, int], SectionSum],
    ) -> Array:  # fmt: skip
        """(n,) eV. sums: in place of the embedding nets of (term, part)."""
        c, network = self.config, params["network"]
        constants, values = network["constants"], []
        for a, term in enumerate(c.terms):
            here = surroundings(vectors, term.cutoff, c.exclude_pairs, slots, atoms)
            if isinstance(term, Table):
                values.append(table_energies(here, term, constants[f"term_{a}"]["splines"]))
            else:
                values.append(_fitted(here, a, term, network["fitting"], _features(here, a, term, network, sums)))
        row = here.row

        def of_species(x: Array) -> Array:
            return jnp.asarray(x).astype(vectors.dtype)[row]

        if c.switch:
            model, table = c.terms
            larger = table.cutoff if table.sel >= model.sel else model.cutoff
            here = surroundings(vectors, larger, c.exclude_pairs, slots, atoms)
            own, pair = values
            total = own + table_share(here, c.switch, larger) * (pair + of_species(constants["switch"]) - own)
        else:
            total = sum((w * v for w, v in zip(c.weights[1:], values[1:], strict=True)), c.weights[0] * values[0])
        total = total + of_species(constants["offset"])
        return jnp.where(np.isin(row, c.exclude_atoms), jnp.zeros_like(total), total) if c.exclude_atoms else total


def _features(here: Surroundings, a: int, term: Standard, network: Params, sums: dict[tuple[int, int], SectionSum]) -> Array:
    """Of all descriptors, side by side (n, features)."""
    nets, constants = network["descriptor"][f"term_{a}"], network["constants"][f"term_{a}"]
    parts = [_part(here, d, nets[f"part_{b}"], constants[f"part_{b}"], sums.get((a, b))) for b, d in enumerate(term.descriptors)]
    return jnp.concatenate(parts, axis=1)


def _part(here: Surroundings, d: Descriptor, params: Params, constants: Params, sums: SectionSum | None) -> Array:
    if isinstance(d, SeA):
        return se_a(here, d, constants, sums or embedding(params, d))
    if isinstance(d, SeR):
        return se_r(here, d, constants, sums or embedding(params, d))
    if isinstance(d, SeT):
        return se_t(here, d, constants, params)
    return se_atten(here, d, params, constants)


def _fitted(here: Surroundings, a: int, c: Standard, nets: Params, features: Array) -> Array:
    """Energies of the fitting nets (n,)."""

    def one(net: Params, x: Array) -> Array:
        return affine(net["energy"], perceptron(net["hidden"], x, c.activation))[:, 0]

    parts = []
    for t, rows in here.groups():
        x = features[rows]
        if t in c.exclude:
            parts.append(jnp.zeros_like(x[:, 0]))
            continue
        net = nets[f"term_{a}" if c.mixed else f"term_{a}_species_{t}"]
        y = one(net, x)
        parts.append(y - one(net, jnp.zeros_like(x[:1])) if t in c.vacuum else y)
    return jnp.concatenate(parts)


def network_shapes(c: DeepmdConfig) -> Params:
    """Of everything that is trained."""
    t = len(c.elements)
    tree: Params = {"descriptor": {}, "fitting": {}}
    for a, term in enumerate(c.terms):
        if isinstance(term, Table):
            continue
        tree["descriptor"][f"term_{a}"] = {f"part_{b}": _descriptor_shapes(d, t) for b, d in enumerate(term.descriptors)}
        hidden = shapes(term.n_features(), term.widths, resnet_dt=term.resnet_dt)
        last = term.widths[-1] if term.widths else term.n_features()
        for name in [f"term_{a}"] if term.mixed else [f"term_{a}_species_{u}" for u in range(t)]:
            tree["fitting"][name] = {"hidden": hidden, "energy": {"kernel": (last, 1), "bias": (1,)}}
    return tree if tree["fitting"] else {}


def _descriptor_shapes(d: Environment, t: int) -> Params:
    net = shapes(1, d.neuron, resnet_dt=d.resnet_dt)
    if isinstance(d, SeA | SeR):
        return {name: net for name in embedding_names(d.one_side, t)}
    if isinstance(d, SeT):
        return {f"embedding_{u}_{v}": net for u in range(t) for v in range(u, t)}
    assert isinstance(d, SeAtten)
    types, m, h = d.tebd_dim * (1 if d.one_side else 2), d.neuron[-1], d.attention_width
    tree: Params = {"type_embedding": (t, d.tebd_dim)}
    tree["embedding"] = shapes(1 if d.strip else 1 + types, d.neuron, resnet_dt=d.resnet_dt)
    if d.strip:
        tree["embedding_strip"] = shapes(types, d.neuron, resnet_dt=d.resnet_dt)
    for n in range(d.attention_layers):
        tree[f"attention_{n}"] = {
            "in": {"kernel": (m, 3 * h), "bias": (3 * h,)}, "out": {"kernel": (h, m), "bias": (m,)},
            "norm": {"kernel": (m,), "bias": (m,)},
        }  # fmt: skip
    return tree


def embedding_names(one_side: bool, t: int) -> list[str]:
    """In DeePMD-kit's order: of the neighbour's species, or of centre and neighbour with the centre running fastest."""
    return [f"embedding_{v}" if one_side else f"embedding_{u}_{v}" for v in range(t) for u in range(1 if one_side else t)]


def constant_shapes(c: DeepmdConfig) -> Params:
    """Of everything that is not trained."""
    t = len(c.elements)
    tree: Params = {"offset": (t,)}
    for a, term in enumerate(c.terms):
        if isinstance(term, Table):
            tree[f"term_{a}"] = {"splines": (t, t, term.splines, 4)}
        else:
            statistics = {"davg": (t, t, 4), "dstd": (t, t, 4)}
            tree[f"term_{a}"] = {f"part_{b}": dict(statistics) for b in range(len(term.descriptors))}
    if c.switch:
        tree["switch"] = (t,)
    return tree


def neighbour_limits(model: FittedModel) -> tuple[float, ...]:
    """`sel` of each species, in descriptors that reach as far as the model; of all together where they share one list."""
    config = model.config
    assert isinstance(config, DeepmdConfig)
    t = len(config.elements)
    parts = [d for x in config.terms if isinstance(x, Standard) for d in x.descriptors if d.cutoff == config.cutoff]
    listed = [d.sel * t if isinstance(d, SeAtten) else d.sel for d in parts]
    return tuple(float(x) for x in np.min([[np.inf] * t, *listed], axis=0))
