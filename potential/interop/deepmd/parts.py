"""The parts of a serialised model: descriptors, nets, tables. What adatom does not compute is `Refused`, by its key."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from adatom.potential.interop.deepmd.config import SeA, SeAtten, SeR, SeT, Table
from adatom.potential.interop.deepmd.model import embedding_names
from adatom.potential.interop.deepmd.nets import activation
from adatom.potential.model import Params

Node = dict[str, Any]


class Refused(ValueError):
    """Why a model is not read; one line."""


def descriptors_of(node: Node) -> list[Node]:
    """One, or those of a hybrid, which may hold hybrids."""
    return [x for d in node["list"] for x in descriptors_of(d)] if node.get("type") == "hybrid" else [node]


def read_descriptor(node: Node, t: int, tensorflow: bool) -> tuple[SeA | SeR | SeT | SeAtten, Params, Params]:
    """Its configuration, nets and constants. tensorflow: the backend it comes from."""
    kind = {"se_a": "se_e2_a", "se_r": "se_e2_r", "se_t": "se_e3", "dpa1": "se_atten", "se_atten_v2": "se_atten"}.get(
        str(node.get("type")), str(node.get("type"))
    )
    if kind not in ("se_e2_a", "se_e2_r", "se_e3", "se_atten"):
        raise Refused(f"descriptor type {kind[:40]!r} is not supported; se_e2_a, se_e2_r, se_e3, se_atten and hybrid are")
    only(node, "descriptor", {"spin": (None,)})
    mixed = kind == "se_atten"
    sel = tuple(node["sel"]) if isinstance(node["sel"], list | tuple) else (int(node["sel"]),)
    sel = (sum(sel),) if mixed else sel
    if not mixed and len(sel) != t:
        raise Refused(f"damaged: sel {list(sel)} for {t} types")
    constants = _constants(node, sel, t, kind)
    common: dict[str, Any] = {
        "cutoff": node["rcut"], "smooth_cutoff": node["rcut_smth"], "protection": node.get("env_protection", 0.0), "sel": sel,
        "exclude": pairs_of(node.get("exclude_types")), "neuron": tuple(node["neuron"]),
        "activation": str(node["activation_function"]), "resnet_dt": bool(node["resnet_dt"]),
        "padded": bool(np.any(constants["davg"])), "precision": precision_of(node),
    }  # fmt: skip
    common["blank"] = tensorflow and common["padded"] and bool(common["exclude"])
    function = common["activation"]
    if mixed:
        if constants["davg"].any():
            raise Refused("davg of se_atten is not zero (set_davg_zero false) is not supported")
        return _attention(node, common, t, constants)
    nets = collection(node["embeddings"], "embedding")
    if kind == "se_e3":
        names = [(f"embedding_{u}_{v}", u + v * t) for u in range(t) for v in range(u, t)]
        found = {name: nets[k] for name, k in names}
        return SeT(**common), {k: _layers(x, function, "embeddings") for k, x in found.items()}, constants
    one_side = bool(node["type_one_side"])
    named = embedding_names(one_side, t)
    if len(nets) != len(named):
        raise Refused(f"damaged: {len(nets)} embedding nets, not {len(named)}")
    excluded = {f"embedding_{u}_{v}" for a, b in common["exclude"] for u, v in ((a, b), (b, a))}
    layers = {}
    for name, net in zip(named, nets, strict=True):
        if net is None and name not in excluded:
            raise Refused(f"damaged: {name} is missing")
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
        only(node, "descriptor", {"tebd_input_mode": ("concat",)})
    only(node, "descriptor", {"use_econf_tebd": (False, None), "attn_mask": (False, None), "lmax": (1, None)})
    layers = node["attention_layers"]["attention_layers"]
    width, layer_count = int(node["attn"]), int(node["attn_layer"])
    if len(layers) != layer_count:
        raise Refused(f"damaged: {len(layers)} attention layers, not {layer_count}")
    scale, temperature = float(node["scaling_factor"]), node["temperature"]
    c = SeAtten(
        axis=node["axis_neuron"], one_side=bool(node["type_one_side"]), tebd_dim=node["tebd_dim"], strip=strip,
        smooth=node.get("type") == "se_atten_v2" or bool(node["smooth_type_embedding"]),
        concat=bool(node["concat_output_tebd"]), attention_layers=layer_count,
        attention_width=width, attention_dotr=bool(node["attn_dotr"]), attention_normalize=bool(node["normalize"]),
        attention_scale=float(temperature) if temperature is not None else (width * scale) ** -0.5,
        layer_norm_eps=1e-5 if node["ln_eps"] is None else node["ln_eps"], **common,
    )  # fmt: skip
    params: Params = {"type_embedding": _type_embedding(node["type_embedding"], t)}
    params["embedding"] = _layers(collection(node["embeddings"], "embedding")[0], c.activation, "embeddings")
    if strip:
        params["embedding_strip"] = _layers(
            collection(node["embeddings_strip"], "embedding")[0], c.activation, "embeddings_strip"
        )
    for n, layer in enumerate(layers):
        gate, norm = layer["attention_layer"], layer["attn_layer_norm"]["@variables"]
        only(gate, "attention_layer", {"num_heads": (1,)})
        params[f"attention_{n}"] = {
            "in": _layer(gate["in_proj"]), "out": _layer(gate["out_proj"]),
            "norm": {"kernel": _array(norm["w"]).reshape(-1), "bias": _array(norm["b"]).reshape(-1)},
        }  # fmt: skip
    return c, params, constants


def _type_embedding(node: Node, t: int) -> np.ndarray:
    """(t, dim): what the net makes of a one-hot vector of each type."""
    only(node, "type_embedding", {"use_econf_tebd": (False, None)})
    net = node["embedding"]
    if str(net["activation_function"]).lower() not in ("linear", "none") or len(net["layers"]) != 1:
        raise Refused("type_embedding with more than one linear layer is not supported")
    layer = _layer(net["layers"][0])
    table = layer["kernel"] + layer.get("bias", 0.0)
    if table.shape[0] != t:
        raise Refused(f"damaged: type_embedding is of {table.shape[0]} types, not {t}")
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
            raise Refused(f"damaged: {name} has shape {x.shape}, not {(t, slots, width)}")
        whole = np.full((t, t, 4), 0.0 if name == "davg" else 1.0)
        stops = np.cumsum(sel)
        for v in range(t):
            first, stop = (0, slots) if kind == "se_atten" else (int(stops[v]) - sel[v], int(stops[v]))
            section = x[:, first:stop]
            if stop > first:
                if not (section == section[:, :1]).all():
                    raise Refused(f"{name} differs between the slots of one type, which is not supported")
                whole[:, v, :width] = section[:, 0]
        made[name] = whole
    return made


def read_table(node: Node, t: int) -> tuple[Table, Params]:
    tab = node["tab"]
    start, step, splines, types = (float(x) for x in np.asarray(tab["@variables"]["tab_info"]).reshape(-1))
    sel = node["sel"]
    c = Table(
        cutoff=node["rcut"], start=start, step=step, splines=int(splines), sel=int(sum(sel) if isinstance(sel, list) else sel)
    )
    data = np.asarray(tab["@variables"]["tab_data"], dtype=np.float64)
    if int(types) != t or data.size != t * t * c.splines * 4:
        raise Refused(f"damaged: tab_data has {data.size} values, not {t}·{t}·{c.splines}·4")
    return c, {"constants": {"splines": data.reshape(t, t, c.splines, 4)}, "bias": np.zeros(t)}


def collection(node: Node, what: str) -> list[Any]:
    kind = node.get("network_type")
    if kind not in (f"{what}_network", "network"):
        raise Refused(f"damaged: a collection of {str(kind)[:40]!r} where {what} nets should be")
    return list(node["networks"])


def fitting_net(node: Node, function: str) -> Params:
    *hidden, last = node["layers"]
    if str(last["activation_function"]).lower() not in ("none", "linear") or last.get("resnet"):
        raise Refused("the last layer of a fitting net is not linear, which is not supported")
    return {"hidden": _layers({"layers": hidden}, function, "fitting"), "energy": _layer(last)}


def _layers(node: Node, function: str, where: str) -> Params:
    """All layers of a net; they must have the same activation and residuals."""
    activation(function)
    made = {}
    for n, layer in enumerate(node["layers"]):
        own = str(layer["activation_function"])
        if own.lower() != function.lower():
            raise Refused(f"{where}: activation_function {own[:30]!r} of layer {n} is not that of the net, {function!r}")
        if not layer["resnet"]:
            raise Refused(f"{where}: resnet false of layer {n} is not supported")
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
        raise Refused(f"damaged: an array of {a.dtype}")
    return a if a.dtype == np.float32 else a.astype(np.float64)


def precision_of(node: Node) -> Literal["float32", "float64"]:
    name = {"default": "float64", "double": "float64", "single": "float32"}.get(str(node["precision"]), str(node["precision"]))
    if name not in ("float64", "float32"):
        raise Refused(f"precision {name[:30]!r} is not supported; float64 and float32 are")
    return "float32" if name == "float32" else "float64"


def only(node: Node, where: str, allowed: dict[str, tuple[Any, ...]]) -> None:
    """Keys that may have one of few values; `None` stands for absent too."""
    for key, values in allowed.items():
        value = node.get(key)
        if value not in values:
            raise Refused(f"{where} {key} {str(value)[:60]} is not supported")


def pairs_of(given: Any) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({(min(int(a), int(b)), max(int(a), int(b))) for a, b in given or ()}))
