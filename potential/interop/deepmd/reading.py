"""From DeePMD-kit's serialised model to a potential. What adatom does not compute is refused, by the key that asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers
from pydantic import ValidationError

from adatom.potential.interop.deepmd.config import DeepmdConfig, SeA, SeAtten, SeR, SeT, Standard, Switch, Table
from adatom.potential.interop.deepmd.model import DeepmdModel, constant_shapes, embedding_names, network_shapes
from adatom.potential.interop.deepmd.nets import activation
from adatom.potential.interop.deepmd.tree import load_tree
from adatom.potential.model import Params, Statistics
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import Potential, flatten

Node = dict[str, Any]


class _Refused(ValueError):
    """Why a model is not read; one line."""


def read(path: str | Path) -> Potential:
    """Raises ModelFileError in one line, naming the key of what is unsupported."""
    path = Path(path)
    tree = load_tree(path)
    try:
        return _potential(tree)
    except (KeyError, IndexError) as error:
        raise ModelFileError(f"{path}: damaged, it lacks {str(error)[:80]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(x) for x in first["loc"])
        raise ModelFileError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')[:120]}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path}: {' '.join(str(error).split())[:200]}") from error


def _potential(tree: Node) -> Potential:
    model = tree["model"]
    types = model["type_map"]
    unknown = [x for x in types if atomic_numbers.get(x, 0) < 1]
    if unknown:
        raise _Refused(f"type_map has {unknown[0]!r}, which is not the symbol of an element")
    t, kind = len(types), model.get("type")
    many = kind in ("zbl", "linear", "linear_ener")
    if not many and kind != "standard":
        raise _Refused(f"model type {str(kind)[:40]!r} is not supported; standard, zbl and linear are")
    nodes = model["models"] if many else [model]
    terms, arrays = zip(*[_term(x, types, many) for x in nodes], strict=True)
    weights: tuple[float, ...] = (1.0,) * len(terms)
    if kind in ("linear", "linear_ener"):
        given = model.get("weights", "mean")
        equal = {"sum": 1.0, "mean": 1.0 / len(terms)}
        weights = (equal[given],) * len(terms) if isinstance(given, str) else tuple(map(float, given))
    switch = None
    if kind == "zbl":
        alpha = model.get("smin_alpha")
        switch = Switch(inner=model["sw_rmin"], outer=model["sw_rmax"], alpha=0.1 if alpha is None else alpha)
    config = DeepmdConfig(
        elements=tuple(atomic_numbers[x] for x in types), terms=terms, weights=weights, switch=switch,
        exclude_pairs=_pairs(model.get("pair_exclude_types")), exclude_atoms=tuple(model.get("atom_exclude_types") or ()),
    )  # fmt: skip
    bias = np.array([x["bias"] + (_out_bias(n, t) if many else 0.0) for x, n in zip(arrays, nodes, strict=True)])
    e0 = _out_bias(model, t) + (bias[0] if switch else np.asarray(weights) @ bias)
    e0[list(config.exclude_atoms)] = 0.0
    constants: Params = {"offset": np.zeros(t)} | {f"term_{a}": x["constants"] for a, x in enumerate(arrays)}
    if switch:
        constants["switch"] = bias[1] - bias[0]
    network: Params = {"constants": constants}
    for name in ("descriptor", "fitting"):
        found = {f"term_{a}": x[name] for a, x in enumerate(arrays) if name in x}
        if found:
            network[name] = found if name == "descriptor" else _flat_names(found)
    potential = Potential(DeepmdModel(config), {"network": network, "statistics": _statistics(e0)}, _info(tree))
    _check(potential)
    return potential


def _flat_names(found: Params) -> Params:
    return {f"{a}{name}": net for a, nets in found.items() for name, net in nets.items()}


def _check(potential: Potential) -> None:
    """Arrays are what the configuration says, and finite."""
    config = potential.model.config
    assert isinstance(config, DeepmdConfig)
    want = flatten({**network_shapes(config), "constants": constant_shapes(config)})
    got = flatten(potential.params["network"])
    for name in sorted({*want, *got}):
        if name not in got or name not in want:
            raise _Refused(f"damaged: {name} is {'missing' if name not in got else 'not of this model'}")
        if got[name].shape != want[name]:
            raise _Refused(f"damaged: {name} has shape {got[name].shape}, not {want[name]}")
        if got[name].dtype.kind != "f" or not np.isfinite(got[name]).all():
            raise _Refused(f"damaged: {name} has values that are not finite numbers")
    if not np.isfinite(potential.statistics.e0).all():
        raise _Refused("damaged: bias_atom_e or out_bias has values that are not finite numbers")
    for name, x in got.items():
        if name.endswith("/dstd") and not (x > 0).all():
            raise _Refused(f"damaged: {name} is not positive")


def _info(tree: Node) -> dict[str, Any]:
    return {"family": "deepmd"} | {k: str(tree[k])[:80] for k in ("software", "version", "backend", "time") if k in tree}


def _statistics(e0: np.ndarray) -> Statistics:
    t = len(e0)
    return Statistics(e0, np.zeros(t), np.ones(t), np.zeros((t, 1)), np.ones((t, 1)), np.zeros((t, t)))


def _out_bias(model: Node, t: int) -> np.ndarray:
    variables = model.get("@variables") or {}
    bias = variables.get("out_bias")
    if bias is None:
        return np.zeros(t)
    bias = np.asarray(bias, dtype=np.float64)
    if bias.shape != (1, t, 1):
        raise _Refused(f"damaged: out_bias has shape {bias.shape}, not {(1, t, 1)}")
    return bias[0, :, 0].copy()


def _pairs(given: Any) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({(min(int(a), int(b)), max(int(a), int(b))) for a, b in given or ()}))


def _term(node: Node, types: list[str], inner: bool) -> tuple[Standard | Table, Params]:
    if node.get("type_map") != types:
        raise _Refused(f"type_map of a model in it is {node.get('type_map')}, not {types}")
    for key in ("pair_exclude_types", "atom_exclude_types"):
        if inner and node.get(key):
            raise _Refused(f"{key} of a model inside another is not supported")
    if node.get("type") == "pairtab":
        return _table(node, len(types))
    if node.get("type") != "standard":
        raise _Refused(f"model type {str(node.get('type'))[:40]!r} inside another is not supported; standard and pairtab are")
    parts = [_descriptor(d, len(types)) for d in _descriptors(node["descriptor"])]
    if any(isinstance(d, SeT) and np.any(c["davg"][:, :, 1:]) for d, _, c in parts):
        raise _Refused("davg of se_e3 has a direction")
    fitting = node["fitting"]
    _only(fitting, "fitting", {"type": ("ener",), "numb_fparam": (0,), "numb_aparam": (0,), "dim_case_embd": (0, None),
                               "spin": (None,), "use_aparam_as_mask": (False, None), "dim_out": (1, None)})  # fmt: skip
    t, mixed = len(types), bool(fitting["mixed_types"])
    widths, function = tuple(fitting["neuron"]), str(fitting["activation_function"])
    vacuum = tuple(k for k, x in enumerate(fitting.get("atom_ener") or ()) if x is not None)
    if vacuum and mixed:
        vacuum = tuple(range(t))
    term = Standard(
        descriptors=tuple(d for d, _, _ in parts), widths=widths, activation=function, resnet_dt=bool(fitting["resnet_dt"]),
        mixed=mixed, vacuum=vacuum, exclude=tuple(fitting.get("exclude_types") or ()), precision=_precision(fitting),
    )  # fmt: skip
    nets = _collection(fitting["nets"], "fitting")
    if len(nets) != (1 if mixed else t):
        raise _Refused(f"damaged: {len(nets)} fitting nets for {t} types")
    bias = np.asarray(fitting["@variables"]["bias_atom_e"], dtype=np.float64).reshape(-1)
    if bias.shape != (t,):
        raise _Refused(f"damaged: bias_atom_e has {len(bias)} values for {t} types")
    bias = np.where(np.isin(np.arange(t), term.exclude), 0.0, bias)
    names = [""] if mixed else [f"_species_{u}" for u in range(t)]
    arrays: Params = {
        "descriptor": {f"part_{b}": p for b, (_, p, _) in enumerate(parts)},
        "fitting": {name: _fitting_net(net, function) for name, net in zip(names, nets, strict=True)},
        "constants": {f"part_{b}": c for b, (_, _, c) in enumerate(parts)},
        "bias": bias,
    }
    return term, arrays


def _descriptors(node: Node) -> list[Node]:
    """One, or those of a hybrid, which may hold hybrids."""
    return [x for d in node["list"] for x in _descriptors(d)] if node.get("type") == "hybrid" else [node]


def _descriptor(node: Node, t: int) -> tuple[SeA | SeR | SeT | SeAtten, Params, Params]:
    """Its configuration, nets and constants."""
    kind = {"se_a": "se_e2_a", "se_r": "se_e2_r", "se_t": "se_e3", "dpa1": "se_atten", "se_atten_v2": "se_atten"}.get(
        str(node.get("type")), str(node.get("type"))
    )
    if kind not in ("se_e2_a", "se_e2_r", "se_e3", "se_atten"):
        raise _Refused(f"descriptor type {kind[:40]!r} is not supported; se_e2_a, se_e2_r, se_e3, se_atten and hybrid are")
    _only(node, "descriptor", {"spin": (None,)})
    mixed = kind == "se_atten"
    sel = tuple(node["sel"]) if isinstance(node["sel"], list | tuple) else (int(node["sel"]),)
    sel = (sum(sel),) if mixed else sel
    if not mixed and len(sel) != t:
        raise _Refused(f"damaged: sel {list(sel)} for {t} types")
    constants = _constants(node, sel, t, kind)
    common: dict[str, Any] = {
        "cutoff": node["rcut"], "smooth_cutoff": node["rcut_smth"], "protection": node.get("env_protection", 0.0), "sel": sel,
        "exclude": _pairs(node.get("exclude_types")), "neuron": tuple(node["neuron"]),
        "activation": str(node["activation_function"]), "resnet_dt": bool(node["resnet_dt"]),
        "padded": bool(np.any(constants["davg"])), "precision": _precision(node),
    }  # fmt: skip
    function = common["activation"]
    if mixed:
        if constants["davg"].any():
            raise _Refused("davg of se_atten is not zero (set_davg_zero false) is not supported")
        return _attention(node, common, t, constants)
    nets = _collection(node["embeddings"], "embedding")
    if kind == "se_e3":
        names = [(f"embedding_{u}_{v}", u + v * t) for u in range(t) for v in range(u, t)]
        found = {name: nets[k] for name, k in names}
        return SeT(**common), {k: _layers(x, function, "embeddings") for k, x in found.items()}, constants
    one_side = bool(node["type_one_side"])
    named = embedding_names(one_side, t)
    if len(nets) != len(named):
        raise _Refused(f"damaged: {len(nets)} embedding nets, not {len(named)}")
    excluded = {f"embedding_{u}_{v}" for a, b in common["exclude"] for u, v in ((a, b), (b, a))}
    layers = {}
    for name, net in zip(named, nets, strict=True):
        if net is None and name not in excluded:
            raise _Refused(f"damaged: {name} is missing")
        layers[name] = _layers(net, function, "embeddings") if net else None
    whole = next(x for x in layers.values() if x)
    zero = {n: {k: np.zeros_like(v) for k, v in x.items()} for n, x in whole.items()}
    params = {k: zero if x is None else x for k, x in layers.items()}
    if kind == "se_e2_r":
        return SeR(one_side=one_side, **common), params, constants
    return SeA(axis=node["axis_neuron"], one_side=one_side, **common), params, constants


def _attention(node: Node, common: dict[str, Any], t: int, constants: Params) -> tuple[SeAtten, Params, Params]:
    strip = node.get("type") == "se_atten_v2" or node["tebd_input_mode"] == "strip"
    if not strip:
        _only(node, "descriptor", {"tebd_input_mode": ("concat",)})
    _only(node, "descriptor", {"use_econf_tebd": (False, None), "attn_mask": (False, None), "lmax": (1, None)})
    layers = node["attention_layers"]["attention_layers"]
    width, layer_count = int(node["attn"]), int(node["attn_layer"])
    if len(layers) != layer_count:
        raise _Refused(f"damaged: {len(layers)} attention layers, not {layer_count}")
    scale, temperature = float(node["scaling_factor"]), node["temperature"]
    c = SeAtten(
        axis=node["axis_neuron"], one_side=bool(node["type_one_side"]), tebd_dim=node["tebd_dim"], strip=strip,
        smooth=bool(node["smooth_type_embedding"]), concat=bool(node["concat_output_tebd"]), attention_layers=layer_count,
        attention_width=width, attention_dotr=bool(node["attn_dotr"]), attention_normalize=bool(node["normalize"]),
        attention_scale=float(temperature) if temperature is not None else (width * scale) ** -0.5,
        layer_norm_eps=1e-5 if node["ln_eps"] is None else node["ln_eps"], **common,
    )  # fmt: skip
    params: Params = {"type_embedding": _type_embedding(node["type_embedding"], t)}
    params["embedding"] = _layers(_collection(node["embeddings"], "embedding")[0], c.activation, "embeddings")
    if strip:
        params["embedding_strip"] = _layers(
            _collection(node["embeddings_strip"], "embedding")[0], c.activation, "embeddings_strip"
        )
    for n, layer in enumerate(layers):
        gate, norm = layer["attention_layer"], layer["attn_layer_norm"]["@variables"]
        _only(gate, "attention_layer", {"num_heads": (1,)})
        params[f"attention_{n}"] = {
            "in": _layer(gate["in_proj"]), "out": _layer(gate["out_proj"]),
            "norm": {"kernel": _array(norm["w"]).reshape(-1), "bias": _array(norm["b"]).reshape(-1)},
        }  # fmt: skip
    return c, params, constants


def _type_embedding(node: Node, t: int) -> np.ndarray:
    """(t, dim): what the net makes of a one-hot vector of each type."""
    _only(node, "type_embedding", {"use_econf_tebd": (False, None)})
    net = node["embedding"]
    if str(net["activation_function"]).lower() not in ("linear", "none") or len(net["layers"]) != 1:
        raise _Refused("type_embedding with more than one linear layer is not supported")
    layer = _layer(net["layers"][0])
    table = layer["kernel"] + layer.get("bias", 0.0)
    if table.shape[0] != t:
        raise _Refused(f"damaged: type_embedding is of {table.shape[0]} types, not {t}")
    one_hot = np.eye(t, dtype=table.dtype)
    copies = {t: 1, 2 * t: 2}.get(table.shape[1], 0)
    return table + np.concatenate([one_hot] * copies, axis=1) if copies else table


def _constants(node: Node, sel: tuple[int, ...], t: int, kind: str) -> Params:
    """davg and dstd of centre and neighbour species (t, t, 4); DeePMD-kit keeps one value a slot, which must be the same in each
    section."""
    made, slots, width = {}, sum(sel), 1 if kind == "se_e2_r" else 4
    for name in ("davg", "dstd"):
        x = np.asarray(node["@variables"][name], dtype=np.float64)
        if x.shape != (t, slots, width):
            raise _Refused(f"damaged: {name} has shape {x.shape}, not {(t, slots, width)}")
        whole = np.full((t, t, 4), 0.0 if name == "davg" else 1.0)
        stops = np.cumsum(sel)
        for v in range(t):
            first, stop = (0, slots) if kind == "se_atten" else (int(stops[v]) - sel[v], int(stops[v]))
            section = x[:, first:stop]
            if stop > first:
                if not (section == section[:, :1]).all():
                    raise _Refused(f"{name} differs between the slots of one type, which is not supported")
                whole[:, v, :width] = section[:, 0]
        made[name] = whole
    return made


def _table(node: Node, t: int) -> tuple[Table, Params]:
    tab = node["tab"]
    start, step, splines, types = (float(x) for x in np.asarray(tab["@variables"]["tab_info"]).reshape(-1))
    sel = node["sel"]
    c = Table(
        cutoff=node["rcut"], start=start, step=step, splines=int(splines), sel=int(sum(sel) if isinstance(sel, list) else sel)
    )
    data = np.asarray(tab["@variables"]["tab_data"], dtype=np.float64)
    if int(types) != t or data.size != t * t * c.splines * 4:
        raise _Refused(f"damaged: tab_data has {data.size} values, not {t}·{t}·{c.splines}·4")
    return c, {"constants": {"splines": data.reshape(t, t, c.splines, 4)}, "bias": np.zeros(t)}


def _collection(node: Node, what: str) -> list[Any]:
    kind = node.get("network_type")
    if kind not in (f"{what}_network", "network"):
        raise _Refused(f"damaged: a collection of {str(kind)[:40]!r} where {what} nets should be")
    return list(node["networks"])


def _fitting_net(node: Node, function: str) -> Params:
    *hidden, last = node["layers"]
    if str(last["activation_function"]).lower() not in ("none", "linear") or last.get("resnet"):
        raise _Refused("the last layer of a fitting net is not linear, which is not supported")
    return {"hidden": _layers({"layers": hidden}, function, "fitting"), "energy": _layer(last)}


def _layers(node: Node, function: str, where: str) -> Params:
    """All layers of a net; they must have the same activation and residuals."""
    activation(function)
    made = {}
    for n, layer in enumerate(node["layers"]):
        own = str(layer["activation_function"])
        if own.lower() != function.lower():
            raise _Refused(f"{where}: activation_function {own[:30]!r} of layer {n} is not that of the net, {function!r}")
        if not layer["resnet"]:
            raise _Refused(f"{where}: resnet false of layer {n} is not supported")
        made[f"layer_{n}"] = _layer(layer)
    return made


def _layer(node: Node) -> Params:
    v = node["@variables"]
    layer = {"kernel": _array(v["w"])}
    for ours, theirs in (("bias", "b"), ("step", "idt")):
        if v.get(theirs) is not None:
            layer[ours] = _array(v[theirs]).reshape(-1)
    return layer


def _array(x: Any) -> np.ndarray:
    a = np.asarray(x)
    if a.dtype.kind not in "fiu":
        raise _Refused(f"damaged: an array of {a.dtype}")
    return a if a.dtype == np.float32 else a.astype(np.float64)


def _precision(node: Node) -> Literal["float32", "float64"]:
    name = {"default": "float64", "double": "float64", "single": "float32"}.get(str(node["precision"]), str(node["precision"]))
    if name not in ("float64", "float32"):
        raise _Refused(f"precision {name[:30]!r} is not supported; float64 and float32 are")
    return "float32" if name == "float32" else "float64"


def _only(node: Node, where: str, allowed: dict[str, tuple[Any, ...]]) -> None:
    """Keys that may have one of few values; `None` stands for absent too."""
    for key, values in allowed.items():
        value = node.get(key)
        if value not in values:
            raise _Refused(f"{where} {key} {str(value)[:60]} is not supported")
