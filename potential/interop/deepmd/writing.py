"""From a potential to DeePMD-kit's serialised model: imported ones as they came, and our own DeepPot-SE (`own`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adatom.potential.interop.deepmd.config import DeepmdConfig, Descriptor, Environment, SeA, SeAtten, SeR, SeT, Standard, Table
from adatom.potential.interop.deepmd.model import DeepmdModel, embedding_names
from adatom.potential.interop.deepmd.own import as_deepmd
from adatom.potential.interop.deepmd.tree import save_tree
from adatom.potential.model import Model, Params
from adatom.potential.potential import Potential

Node = dict[str, Any]


def write(potential: Potential, path: str | Path) -> None:
    """Raises ValueError in one line where the potential has not the form of any model of DeePMD-kit."""
    if isinstance(potential.model, Model):
        potential = as_deepmd(potential)
    if not isinstance(potential.model, DeepmdModel):
        raise ValueError("only models of DeePMD-kit and our own deep_potential can be written for DeePMD-kit")
    terms = [x for x in potential.model.config.terms if isinstance(x, Standard)]
    backend = "TensorFlow" if any(d.blank for x in terms for d in x.descriptors) else "adatom"
    save_tree({"backend": backend, "model": _model(potential), "model_def_script": {}, "@variables": {}}, Path(path))


def _model(potential: Potential) -> Node:
    c, symbols = potential.model.config, list(potential.symbols)
    assert isinstance(c, DeepmdConfig)
    network, t = potential.params["network"], len(symbols)
    constants = network["constants"]
    e0 = np.asarray(potential.statistics.e0, dtype=np.float64) + np.asarray(constants["offset"])
    if len(c.terms) == 1 and isinstance(c.terms[0], Standard):
        term = c.terms[0]
        excluded = np.isin(np.arange(t), term.exclude)
        node = _standard(term, 0, network, symbols, np.where(excluded, 0.0, e0))
        return {**node, **_outer(c, np.where(excluded, e0, 0.0))}
    bias, beside = np.zeros(t), np.zeros(t)
    if c.switch:  # the network's own, `bias_atom_e`: not all of DeePMD-kit's backends count `out_bias` of a model inside
        assert isinstance(c.terms[0], Standard)
        switch, excluded = np.asarray(constants["switch"]), np.isin(np.arange(t), c.terms[0].exclude)
        bias, beside = np.where(excluded, 0.0, -switch), np.where(excluded, -switch, 0.0)
        e0 = e0 + switch
    nodes = [
        _standard(term, a, network, symbols, bias, beside)
        if isinstance(term, Standard)
        else _table(term, constants[f"term_{a}"]["splines"], symbols)
        for a, term in enumerate(c.terms)
    ]
    head: Node = {"@class": "Model", "@version": 2, "type": "zbl" if c.switch else "linear", "models": nodes, "type_map": symbols}
    if c.switch:
        head |= {"weights": "mean", "sw_rmin": c.switch.inner, "sw_rmax": c.switch.outer, "smin_alpha": c.switch.alpha}
    else:
        head |= {"@version": 3, "weights": list(c.weights)}
    return {**head, **_outer(c, e0)}


def _outer(c: DeepmdConfig, bias: np.ndarray) -> Node:
    pairs, atoms = [list(p) for p in c.exclude_pairs], list(c.exclude_atoms)
    return {**_base(bias), "atom_exclude_types": atoms, "pair_exclude_types": pairs}


def _base(bias: np.ndarray) -> Node:
    out = {"out_bias": bias.reshape(1, -1, 1), "out_std": np.ones((1, len(bias), 1))}
    return {"atom_exclude_types": [], "pair_exclude_types": [], "rcond": None, "preset_out_bias": None, "@variables": out}


def _standard(
    c: Standard, a: int, network: Params, symbols: list[str], bias: np.ndarray, out_bias: np.ndarray | None = None
) -> Node:  # fmt: skip
    parts = [
        _descriptor(d, network["descriptor"][f"term_{a}"][f"part_{b}"], network["constants"][f"term_{a}"][f"part_{b}"], symbols)
        for b, d in enumerate(c.descriptors)
    ]
    hybrid: Node = {"@class": "Descriptor", "type": "hybrid", "@version": 1, "list": parts}
    names = [f"term_{a}"] if c.mixed else [f"term_{a}_species_{u}" for u in range(len(symbols))]
    vacuum: list[float | None] = [float(x) if t in c.vacuum else None for t, x in enumerate(bias)]
    fitting: Node = {
        "@class": "Fitting", "@version": 2, "type": "ener", "var_name": "energy", "ntypes": len(symbols),
        "dim_descrpt": c.n_features(), "dim_out": 1, "neuron": list(c.widths), "resnet_dt": c.resnet_dt, "numb_fparam": 0,
        "numb_aparam": 0, "rcond": None, "activation_function": c.activation, "precision": c.precision, "mixed_types": c.mixed,
        "exclude_types": list(c.exclude), "tot_ener_zero": False, "trainable": [True] * (len(c.widths) + 1), "layer_name": None,
        "use_aparam_as_mask": False, "spin": None, "type_map": symbols, "atom_ener": vacuum if c.vacuum else None,
        "nets": _collection([_fitting(network["fitting"][n], c) for n in names], "fitting", len(symbols), 0 if c.mixed else 1),
        "@variables": {"bias_atom_e": bias.reshape(-1, 1), "fparam_avg": None, "fparam_inv_std": None, "aparam_avg": None,
                       "aparam_inv_std": None},
    }  # fmt: skip
    return {
        "@class": "Model", "@version": 2, "type": "standard", "type_map": symbols, **_base(np.zeros(len(symbols))
        if out_bias is None else out_bias), "descriptor": parts[0] if len(parts) == 1 else hybrid, "fitting": fitting,
    }  # fmt: skip


def _fitting(net: Params, c: Standard) -> Node:
    hidden = [_layer(net["hidden"][f"layer_{n}"], c.activation, c.precision, resnet=True) for n in range(len(c.widths))]
    layers = [*hidden, _layer(net["energy"], "none", c.precision, resnet=False)]
    about = {"@class": "FittingNetwork", "@version": 1, "in_dim": c.n_features(), "out_dim": 1, "bias_out": True}
    return {**about, **_net(c.widths, c.activation, c.resnet_dt, c.precision), "layers": layers}


def _descriptor(d: Descriptor, params: Params, constants: Params, symbols: list[str]) -> Node:
    t, width = len(symbols), 1 if isinstance(d, SeR) else 4
    sel = [sum(d.sel)] if isinstance(d, SeAtten) else list(d.sel)
    of_slot = np.zeros(sum(sel), dtype=int) if isinstance(d, SeAtten) else np.repeat(np.arange(t), sel)
    variables = {k: np.asarray(constants[k])[:, of_slot, :width].astype(d.precision) for k in ("davg", "dstd")}
    node: Node = {
        "@class": "Descriptor", "@version": 2, "rcut": d.cutoff, "rcut_smth": d.smooth_cutoff, "sel": sel,
        "neuron": list(d.neuron), "resnet_dt": d.resnet_dt, "trainable": True, "exclude_types": [list(p) for p in d.exclude],
        "env_protection": d.protection, "set_davg_zero": not d.padded,
        "activation_function": d.activation, "precision": d.precision, "type_map": symbols,
        "env_mat": {"rcut": d.cutoff, "rcut_smth": d.smooth_cutoff}, "@variables": variables,
    }  # fmt: skip
    if isinstance(d, SeA | SeR):
        nets = [_embedding(params[name], d) for name in embedding_names(d.one_side, t)]
        node |= {"type_one_side": d.one_side, "spin": None}
        node["embeddings"] = _collection(nets, "embedding", t, 1 if d.one_side else 2)
        return node | ({"type": "se_e2_a", "axis_neuron": d.axis} if isinstance(d, SeA) else {"type": "se_r"})
    if isinstance(d, SeT):
        unused = {name: {k: np.zeros_like(v) for k, v in x.items()} for name, x in params["embedding_0_0"].items()}
        nets = [_embedding(params.get(f"embedding_{u}_{v}", unused), d) for v in range(t) for u in range(t)]
        return node | {"type": "se_e3", "embeddings": _collection(nets, "embedding", t, 2)}
    return node | _attention(d, params, symbols)


def _attention(d: SeAtten, params: Params, symbols: list[str]) -> Node:
    t, m = len(symbols), d.neuron[-1]
    gate: Node = {
        "nnei": sum(d.sel), "embed_dim": m, "hidden_dim": d.attention_width, "dotr": d.attention_dotr, "do_mask": False,
        "scaling_factor": 1.0, "normalize": d.attention_normalize, "temperature": d.attention_scale, "precision": d.precision,
    }  # fmt: skip
    normal = {"trainable_ln": True, "ln_eps": d.layer_norm_eps}
    layers = []
    for n in range(d.attention_layers):
        p = params[f"attention_{n}"]
        inner: Node = {**gate, "num_heads": 1, "bias": True, "smooth": d.smooth}
        inner |= {f"{k}_proj": _layer(p[k], "none", d.precision, resnet=False) for k in ("in", "out")}
        norm = {"w": np.asarray(p["norm"]["kernel"]), "b": np.asarray(p["norm"]["bias"])}
        about: Node = {"@class": "LayerNorm", "@version": 1, "eps": d.layer_norm_eps, "trainable": True, "precision": d.precision}
        layers.append({**gate, **normal, "attention_layer": inner, "attn_layer_norm": {**about, "@variables": norm}})
    outer = {"@class": "NeighborGatedAttention", "@version": 1, "layer_num": d.attention_layers, **gate, **normal}
    types, table = 1 if d.one_side else 2, np.asarray(params["type_embedding"], dtype=d.precision)
    copies = {t: 1, 2 * t: 2}.get(d.tebd_dim, 0)
    if copies:  # DeePMD-kit adds the one-hot vectors where the widths allow it
        table = table - np.concatenate([np.eye(t, dtype=table.dtype)] * copies, axis=1)
    layer = _layer({"kernel": table}, "Linear", d.precision, resnet=True)
    linear = _net((d.tebd_dim,), "Linear", False, d.precision)
    type_embedding: Node = {
        "@class": "TypeEmbedNet", "@version": 2, "ntypes": t, "neuron": [d.tebd_dim], "resnet_dt": False,
        "precision": d.precision, "activation_function": "Linear", "trainable": True, "padding": True,
        "use_econf_tebd": False, "use_tebd_bias": False, "type_map": symbols,
        "embedding": {"@class": "EmbeddingNetwork", "@version": 2, "in_dim": t, "bias": False, **linear, "layers": [layer]},
    }  # fmt: skip
    net = _embedding(params["embedding"], d, 1 if d.strip else 1 + types * d.tebd_dim)
    node: Node = {
        "type": "dpa1", "ntypes": t, "axis_neuron": d.axis, "tebd_dim": d.tebd_dim,
        "tebd_input_mode": "strip" if d.strip else "concat", "attn": d.attention_width, "attn_layer": d.attention_layers,
        "attn_dotr": d.attention_dotr, "attn_mask": False,
        "scaling_factor": 1.0, "normalize": d.attention_normalize, "temperature": d.attention_scale, **normal,
        "smooth_type_embedding": d.smooth, "type_one_side": d.one_side, "concat_output_tebd": d.concat, "use_econf_tebd": False,
        "use_tebd_bias": False, "spin": None, "type_embedding": type_embedding,
        "attention_layers": {**outer, "attention_layers": layers}, "embeddings": _collection([net], "embedding", t, 0),
    }  # fmt: skip
    if d.strip:
        strip = _embedding(params["embedding_strip"], d, types * d.tebd_dim)
        node["embeddings_strip"] = _collection([strip], "embedding", t, 0)
    return node


def _embedding(layers: Params, d: Environment, inputs: int = 1) -> Node:
    made = [_layer(layers[f"layer_{n}"], d.activation, d.precision, resnet=True) for n in range(len(d.neuron))]
    about = {"@class": "EmbeddingNetwork", "@version": 2, "in_dim": inputs, "bias": True}
    return {**about, **_net(d.neuron, d.activation, d.resnet_dt, d.precision), "layers": made}


def _net(widths: Sequence[int], activation: str, resnet_dt: bool, precision: str) -> Node:
    return {"neuron": list(widths), "activation_function": activation, "resnet_dt": resnet_dt, "precision": precision}


def _layer(layer: Params, activation: str, precision: str, *, resnet: bool) -> Node:
    arrays = {theirs: layer.get(ours) for theirs, ours in (("w", "kernel"), ("b", "bias"), ("idt", "step"))}
    return {
        "@class": "Layer", "@version": 1, "bias": "bias" in layer, "use_timestep": "step" in layer,
        "activation_function": activation, "resnet": resnet, "precision": precision,
        "@variables": {k: None if x is None else np.asarray(x, dtype=precision) for k, x in arrays.items()},
    }  # fmt: skip


def _collection(networks: list[Node], what: str, t: int, ndim: int) -> Node:
    about = {"@class": "NetworkCollection", "@version": 1, "ndim": ndim, "ntypes": t}
    return {**about, "network_type": f"{what}_network", "networks": networks}


def _table(c: Table, splines: Any, symbols: list[str]) -> Node:
    t, data = len(symbols), np.asarray(splines, dtype=np.float64)
    grid = c.start + c.step * np.arange(c.splines + 1)
    upper = [(u, v) for u in range(t) for v in range(u, t)]
    last = data[:, :, -1].sum(axis=-1)  # the last polynomial at its end
    columns = [[*data[u, v, :, 3], last[u, v]] for u, v in upper]
    tab: Node = {
        "@class": "PairTab", "@version": 1, "rmin": c.start, "rmax": float(grid[-1]), "hh": c.step, "ntypes": t, "rcut": c.cutoff,
        "nspline": c.splines,
        "@variables": {"vdata": np.array([grid, *columns]).T, "tab_info": np.array([c.start, c.step, c.splines, t]),
                       "tab_data": data.reshape(-1)},
    }  # fmt: skip
    head = {"@class": "Model", "@version": 2, "type": "pairtab", "type_map": symbols, "rcut": c.cutoff, "sel": c.sel}
    return {**head, **_base(np.zeros(t)), "tab": tab}
