"""From DeePMD-kit's serialised model to a potential. What adatom does not compute is refused, by the key that asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from pydantic import ValidationError

from adatom.potential.interop.deepmd.config import DeepmdConfig, SeT, Standard, Switch, Table
from adatom.potential.interop.deepmd.model import DeepmdModel, constant_shapes, network_shapes
from adatom.potential.interop.deepmd.parts import (
    Node,
    Refused,
    collection,
    descriptors_of,
    fitting_net,
    only,
    pairs_of,
    precision_of,
    read_descriptor,
    read_table,
)
from adatom.potential.interop.deepmd.tree import load_tree
from adatom.potential.model import Params, Statistics
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import Potential, flatten


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
        raise Refused(f"type_map has {unknown[0]!r}, which is not the symbol of an element")
    t, kind = len(types), model.get("type")
    many = kind in ("zbl", "linear", "linear_ener")
    if not many and kind != "standard":
        raise Refused(f"model type {str(kind)[:40]!r} is not supported; standard, zbl and linear are")
    nodes = model["models"] if many else [model]
    terms, arrays = zip(*[_term(x, types, many, tree.get("backend") == "TensorFlow") for x in nodes], strict=True)
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
        exclude_pairs=pairs_of(model.get("pair_exclude_types")), exclude_atoms=tuple(model.get("atom_exclude_types") or ()),
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
            raise Refused(f"damaged: {name} is {'missing' if name not in got else 'not of this model'}")
        if got[name].shape != want[name]:
            raise Refused(f"damaged: {name} has shape {got[name].shape}, not {want[name]}")
        if got[name].dtype.kind != "f" or not np.isfinite(got[name]).all():
            raise Refused(f"damaged: {name} has values that are not finite numbers")
    if not np.isfinite(potential.statistics.e0).all():
        raise Refused("damaged: bias_atom_e or out_bias has values that are not finite numbers")
    for name, x in got.items():
        if name.endswith("/dstd") and not (x > 0).all():
            raise Refused(f"damaged: {name} is not positive")


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
        raise Refused(f"damaged: out_bias has shape {bias.shape}, not {(1, t, 1)}")
    return bias[0, :, 0].copy()


def _term(node: Node, types: list[str], inner: bool, tensorflow: bool) -> tuple[Standard | Table, Params]:
    if node.get("type_map") != types:
        raise Refused(f"type_map of a model in it is {node.get('type_map')}, not {types}")
    for key in ("pair_exclude_types", "atom_exclude_types"):
        if inner and node.get(key):
            raise Refused(f"{key} of a model inside another is not supported")
    if node.get("type") == "pairtab":
        return read_table(node, len(types))
    if node.get("type") != "standard":
        raise Refused(f"model type {str(node.get('type'))[:40]!r} inside another is not supported; standard and pairtab are")
    parts = [read_descriptor(d, len(types), tensorflow) for d in descriptors_of(node["descriptor"])]
    if any(isinstance(d, SeT) and np.any(c["davg"][:, :, 1:]) for d, _, c in parts):
        raise Refused("davg of se_e3 has a direction")
    fitting = node["fitting"]
    only(fitting, "fitting", {"type": ("ener",), "numb_fparam": (0,), "numb_aparam": (0,), "dim_case_embd": (0, None),
                               "spin": (None,), "use_aparam_as_mask": (False, None), "dim_out": (1, None)})  # fmt: skip
    t, mixed = len(types), bool(fitting["mixed_types"])
    widths, function = tuple(fitting["neuron"]), str(fitting["activation_function"])
    vacuum = tuple(k for k, x in enumerate(fitting.get("atom_ener") or ()) if x is not None)
    if vacuum and mixed:
        vacuum = tuple(range(t))
    term = Standard(
        descriptors=tuple(d for d, _, _ in parts), widths=widths, activation=function, resnet_dt=bool(fitting["resnet_dt"]),
        mixed=mixed, vacuum=vacuum, exclude=tuple(fitting.get("exclude_types") or ()), precision=precision_of(fitting),
    )  # fmt: skip
    nets = collection(fitting["nets"], "fitting")
    if len(nets) != (1 if mixed else t):
        raise Refused(f"damaged: {len(nets)} fitting nets for {t} types")
    bias = np.asarray(fitting["@variables"]["bias_atom_e"], dtype=np.float64).reshape(-1)
    if bias.shape != (t,):
        raise Refused(f"damaged: bias_atom_e has {len(bias)} values for {t} types")
    bias = np.where(np.isin(np.arange(t), term.exclude), 0.0, bias)
    names = [""] if mixed else [f"_species_{u}" for u in range(t)]
    arrays: Params = {
        "descriptor": {f"part_{b}": p for b, (_, p, _) in enumerate(parts)},
        "fitting": {name: fitting_net(net, function) for name, net in zip(names, nets, strict=True)},
        "constants": {f"part_{b}": c for b, (_, _, c) in enumerate(parts)},
        "bias": bias,
    }
    return term, arrays
